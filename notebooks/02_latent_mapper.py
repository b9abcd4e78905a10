# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Can one model translate between any two modalities?
#
# A clinic has CBCT, CT, T1c and T2w, and wants any of them from any other: 12 directions. The usual answer is 12
# networks. The paper's claim is that **one** is enough, if it works on the shared latents of lesson 01 and is told
# where to go.
#
# | | |
# |---|---|
# | **Goal** | train a latent mapper for all directions, and judge it against doing nothing and linear regression |
# | **Time** | smoke: under 1 min · laptop: about 2 min · paper: needs a GPU, not yet measured |
# | **Needs** | stage `vae` of the same run (lesson 01) |
# | **Makes** | stage `mapper` in `runs/<name>/`, read by lesson 03 |
# | **You should know** | lesson 01; least squares; what a gradient is |

# %% tags=["parameters"]
profile_name = "laptop"
data_dir = "data/phantom-laptop"
run_dir = "runs/phantom-laptop"

# %%
# %matplotlib inline
import math
from dataclasses import replace
from functools import partial

import ipywidgets as widgets
import torch

from vaelite.cases import load_cases
from vaelite.explore import explore, show_source
from vaelite.explorers import explore_attention
from vaelite.figures import (draw_direction_matrix, draw_influence, draw_modalities, draw_targets, draw_training,
                             draw_translations, mean_error)
from vaelite.intensity import MODALITIES
from vaelite.layers import in_slot
from vaelite.mapper import Block, LatentMapper, ridge_regression
from vaelite.probes import direction_errors
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.slices import SliceSet, load_slices
from vaelite.stages import encode_slices, load_mapped, load_vae, named, train_mapper
from vaelite.train import directions, tasks
from vaelite.translate import Translator

# %%
cfg = profile(profile_name)
run = open_run(run_dir)
vae = load_vae(run)                                          # refuses, and says what to do, if lesson 01 was not run

# %% [markdown]
# ## 1 · One head, many directions

# %%
cases = load_cases(data_dir)
modalities = [m for m in MODALITIES if any(m in case.modalities for case in cases)]
held_out_cases = [case for case in cases if case.split == "validation"]
held_out = load_slices(held_out_cases, cfg.data.size)
every = slice(None, None, max(1, len(held_out) // 60))       # about 60 slices judge; more only make us wait
judged = SliceSet(held_out.x[every], held_out.have[every], held_out.mask[every], held_out.case[every], held_out.names)
print(f"source: {cases[0].info.get('source', 'not stated')}")
print(f"{len(held_out_cases)} validation patients, {len(judged)} slices")
print(f"{len(modalities)} modalities: {', '.join(modalities)}; {len(modalities) * (len(modalities) - 1)} directions")
if missing := sorted(set(MODALITIES) - set(modalities)):
    print(f"This data set has no {' and no '.join(missing)}: their directions are left out.")

# %%
grid = held_out_cases[0].volume(held_out_cases[0].modalities[0]).shape
pixel_mm = held_out_cases[0].spacing_mm[1] * max(grid[1:]) / cfg.data.size
row = int((judged.case == 0).sum() * 0.6)                    # a slice through the face of the first validation patient
x_of = {m: judged.x[row, i].float() for i, m in enumerate(MODALITIES) if judged.have[row, i]}
draw_modalities(x_of, pixel_mm, judged.mask[row])

# %% [markdown]
# ## 2 · First rival: do nothing
#
# The cheapest translator hands back its source. Where modalities nearly agree it is hard to beat, and a paper that
# does not print its error hides something.
#
# **Predict.** Between which two modalities does copying do best? And worst?

# %%
my_guess_best, my_guess_worst = None, None                   # for example "CT and T1c"

# %%
can = named(tasks(judged.have))
untrained = Translator(vae, None, None, cfg.data.size, tuple(modalities), can)    # no mapper yet: all it can do is copy
copied = direction_errors(untrained, judged, ("copy",))
draw_direction_matrix(copied)

# %%
error_to = {direction: error["copy"] for direction, error in copied.items()}
least, most = min(error_to, key=error_to.get), max(error_to, key=error_to.get)
least, most = (direction.replace(">", " and ") for direction in (least, most))    # as far there as back
print(f"copying errs least between {least}, most between {most} (as a fraction of the range).  "
      f"You said {my_guess_best}; {my_guess_worst}.")

# %% [markdown]
# **Read.** Mean absolute error in the body, validation patients. Compare within a column: columns differ in unit.
# Copying an MR to CT reads its grey values as Hounsfield units, which is nonsense, and gives errors of hundreds of
# HU. CBCT and CT are another matter.
#
# ## 3 · Second rival: linear regression
#
# Take one *latent pixel* of the target: the numbers of one patch. Predict it as a weighted sum of the 3 x 3 latent
# pixels of the source around it. The best weights have a closed form. With one example in each row of $X$ (`x`, a
# column of ones added) and $Y$ (`y`):
#
# $$ W = (X^\top X + \lambda \bar d\, I)^{-1} X^\top Y $$
#
# `penalty` $\lambda$ keeps $W$ small where the data say little ($\bar d$ is the mean of the diagonal of
# $X^\top X$). That is **ridge regression**.
#
# ### Try it 1: least squares
#
# Take $\lambda = 0$, and `torch.linalg.solve(a, b)` for $a^{-1} b$. Return the weights, the intercept last.

# %% tags=["exercise"]
def my_least_squares(x, y):
    """x: (n, f), y: (n,) -> (f + 1,): f weights, then the intercept."""
    ...                                                      # two or three lines


# %% tags=["check"]
def check_least_squares(fit):
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], dtype=torch.double)
    weights = fit(x, 2 * x[:, 0] - 3 * x[:, 1])
    if weights is None:
        return "not attempted yet"
    assert weights.shape == (3,), f"2 weights and 1 intercept make 3 numbers, yours have shape {tuple(weights.shape)}"
    wanted = torch.tensor([2.0, -3.0, 0.0], dtype=torch.double)
    assert torch.allclose(weights, wanted), f"y = 2 a - 3 b gives (2, -3, 0), you found {weights.tolist()}"
    lifted = fit(x, 2 * x[:, 0] - 3 * x[:, 1] + 5)
    assert abs(lifted[2] - 5) < 1e-6, "y + 5 must raise the intercept to 5: add a column of ones to x, as the last"
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5], dtype=torch.double)
    residual = noise - torch.cat([x, torch.ones(5, 1, dtype=torch.double)], 1) @ fit(x, noise)
    assert (x.T @ residual).abs().max() < 1e-6, "the residual must be at right angles to each column of x"
    return "correct"


print(check_least_squares(my_least_squares))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_least_squares(x, y):
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return torch.linalg.solve(x.T @ x, x.T @ y)


print(check_least_squares(my_least_squares))

# %%
show_source(ridge_regression)

# %% [markdown]
# ### Ablate: how far should a line look?
#
# One knob, three values: predict each latent pixel from 1 x 1, 3 x 3 or 5 x 5 source pixels. We fit on some training
# patients and judge on validation patients. The error is the root mean square, in standard deviations (SD) of a latent:
# predicting the mean would score about 1.
#
# **Predict.** Which has the smallest error on the patients it was fitted to? And on the others?

# %%
def ridge_error(neighbourhood, fit_on, fit_have, judge_on, judge_have):
    """Root-mean-square error of the predicted latents in their standard deviations, all directions."""
    config = replace(cfg.mapper, latent_channels=fit_on.shape[2], neighbourhood=neighbourhood)
    ridge, found = LatentMapper(config).fit_ridge(fit_on, fit_have), []
    for s, t in directions(judge_have):
        both = judge_have[:, s] & judge_have[:, t]
        source, target = (torch.full((int(both.sum()),), m) for m in (s, t))
        error = ridge.ridge_latents(*in_slot(judge_on[both, s], source), target) - judge_on[both, t]
        found.append((error / ridge.latent_deviation).square().mean())
    return float(torch.stack(found).mean().sqrt())


# %%
train = load_slices([case for case in cases if case.split == "train"][:8], cfg.data.size)
some = torch.arange(0, len(train), max(1, len(train) // 100))
fitted = SliceSet(train.x[some], train.have[some], train.mask[some], train.case[some], train.names)
z_fitted, z_judged = (encode_slices(vae, slices)[0].float() for slices in (fitted, judged))    # n m k h w
print(f"{'neighbourhood':>14}{'weights':>9}{'fitted patients [SD]':>22}{'validation patients [SD]':>26}")
for n in (1, 3, 5):
    own = ridge_error(n, z_fitted, fitted.have, z_fitted, fitted.have)
    other = ridge_error(n, z_fitted, fitted.have, z_judged, judged.have)
    print(f"{f'{n} x {n}':>14}{n * n * z_fitted.shape[2] + 1:>9}{own:>22.3f}{other:>26.3f}")

# %% [markdown]
# **Read.** Weights are counted for each number predicted. On the fitted patients a wider view can only help: the narrow
# one is a special case of it. On the others it may not, if there are too few patients for so many weights. The gap
# between the two columns is what a paper hides when it reports on its training patients.
#
# ## 4 · What a line cannot do: look around
#
# Air and bone are both black in MR. To tell them apart one has to look further: is this dark pixel in the nose, or
# between scalp and brain? **Attention** lets each latent pixel (now called a *token*) read all others. Token $i$
# asks a question $q_i$, each token $j$ offers a key $k_j$ and a value $v_j$. The answer is a weighted mean:
#
# $$ o_i = \sum_j w_{ij} \, v_j,
#    \qquad w_{ij} = \frac{\exp(q_i \cdot k_j / \sqrt d)}{\sum_{j'} \exp(q_i \cdot k_{j'} / \sqrt d)} $$
#
# (Vaswani et al. 2017, equation 1.)
#
# ### Try it 2: attention

# %% tags=["exercise"]
def my_attention(q, k, v):
    """q, k: (n, d); v: (n, c) -> (n, c)."""
    ...                                                      # two lines


# %% tags=["check"]
def check_attention(attend):
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    found = attend(torch.zeros(3, 4), torch.ones(3, 4), v)
    if found is None:
        return "not attempted yet"
    assert found.shape == v.shape, f"3 tokens ask for 2 numbers each; yours has shape {tuple(found.shape)}"
    assert torch.allclose(found, v.mean(0).expand(3, 2)), "a question of zeros weighs all values alike: 1/n each"
    q = torch.tensor([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    k = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 2.0]])
    first = torch.softmax(torch.tensor([2.0, 0.0, 0.0]), 0) @ v    # 4 * 1 / sqrt(4) = 2
    assert torch.allclose(attend(q, k, v)[0], first), "divide q . k by sqrt(d); the weights of a question sum to 1"
    wanted = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    assert torch.allclose(attend(q, k, v), wanted, atol=1e-6), "each ROW holds one question: normalise over its keys"
    return "correct"


print(check_attention(my_attention))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_attention(q, k, v):
    weights = torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1)
    return weights @ v


print(check_attention(my_attention))

# %% [markdown]
# The mapper's own attention is your two lines for several heads, with $q$ and $k$ normalised before (so no token can
# shout) and one linear layer after. No mask: a token reads those before it **and** those behind it. That is what
# *bidirectional* means; a language model that writes from left to right may only look back.

# %%
show_source(Block.attend)

# %% [markdown]
# Attention is the first of three branches of a **block**. The second is a 3 x 3 convolution over the grid of tokens,
# the third a small network that works on each token alone. Each branch adds a correction to the tokens, and a few
# blocks follow one another.
#
# **How is it told where to go?** Each modality has an *embedding*, a learnt vector, as source and another as target.
# In every block their sum sets a scale and a shift for what enters attention and network, and for each branch a
# *gate*, a learnt factor for what it adds (adaLN-Zero, Peebles and Xie 2023). The gates start at zero: before
# training, the mapper *is* the ridge, and it learns what the ridge leaves over. That is our choice; the paper
# publishes no architecture.
#
# ## 5 · Train it
#
# **Predict.** In how many directions will the ridge beat copying? In how many will the trained mapper beat the ridge?

# %%
my_guess_ridge, my_guess_mapper = None, None                 # two numbers

# %%
train_mapper(cfg, cases, run)
translator = load_mapped(run)                                # stages 1 and 2 as lesson 03 will find them

# %%
draw_training(run.stages["mapper"]["history"], "mapper", "mean |error| [SD of a latent]")

# %% [markdown]
# **Read.** The loss is the mean **absolute** error of a latent, in its standard deviations, on **training** patients.
# It starts at the ridge. Lesson 01 measured what an error in the latents costs in dB: look at its table "How exact
# must a latent be?". That table counts the root mean square, which is never smaller: 1.25 times the mean absolute
# error if errors are normal, more if a few are large. And on other patients the error is larger too.
#
# ## 6 · All directions, three methods
#
# *copy* hands back the source, *ridge* is the closed form, *mapped* is what the trained mapper makes of it.

# %%
errors = direction_errors(translator, judged, ("copy", "ridge", "mapped"))
draw_direction_matrix(errors)

# %%
better_ridge = sum(error["ridge"] < error["copy"] for error in errors.values())
better_mapper = sum(error["mapped"] < error["ridge"] for error in errors.values())
print(f"ridge beats copying in {better_ridge} of {len(errors)} directions (you said {my_guess_ridge}); "
      f"the mapper beats the ridge in {better_mapper} (you said {my_guess_mapper}).")
left_over = {direction: error["mapped"] / error["copy"] for direction, error in errors.items()}
for direction in sorted(left_over, key=left_over.get):
    print(f"{direction:>10}  the mapper leaves {100 * left_over[direction]:4.0f} % of the error of copying")

# %% [markdown]
# **Read.** Blue is better than copying, red worse. Where copying was already good there is little to win and
# something to lose: every translation goes through the tokenizer, which blurs. So a direction above 100 % does not
# prove that the mapper failed. Lesson 03 separates the two errors.
#
# ### Try it 3: one number that can be compared
#
# HU and % cannot be averaged, *skill* can: 1 is perfect, 0 as good as doing nothing, negative worse than nothing.

# %% tags=["exercise"]
def my_skill(error, error_of_copy):
    ...                                                      # one line


# %% tags=["check"]
def check_skill(skill):
    if skill(50.0, 100.0) is None:
        return "not attempted yet"
    assert abs(skill(0.0, 80.0) - 1) < 1e-9, "no error is skill 1"
    assert abs(skill(80.0, 80.0)) < 1e-9, "as good as copying is skill 0"
    assert abs(skill(20.0, 80.0) - 0.75) < 1e-9, "a quarter of the error of copying is skill 0.75: divide by it"
    assert skill(90.0, 80.0) < 0, "worse than copying must show as a negative number"
    return "correct"


print(check_skill(my_skill))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_skill(error, error_of_copy):
    return 1 - error / error_of_copy


print(check_skill(my_skill))

# %%
skill = {method: [1 - error[method] / error["copy"] for error in errors.values()] for method in ("ridge", "mapped")}
for method, values in skill.items():
    print(f"{method:>8}: mean skill {sum(values) / len(values):.2f}, worst {min(values):.2f}, best {max(values):.2f} "
          f"({len(values)} directions, {len(judged)} validation slices)")

# %% [markdown]
# ## 7 · Does it really look both ways?
#
# We ask the trained mapper itself. How much does target token $i$ move if source token $j$ moves? That is the
# **Jacobian** $\partial \hat z_i / \partial z_j$; its norm is drawn for one target token (red square).
#
# **Predict.** How many tokens can the ridge see? And the mapper?

# %%
def influence(mapped, z, token):
    """Norm of the Jacobian of one target token with respect to each source token: (h, w)."""
    jacobian = torch.autograd.functional.jacobian(lambda source: mapped(source)[0, :, token[0], token[1]], z)
    return jacobian.square().sum((0, 1, 2)).sqrt()           # out 1 in h w -> h w


source, target = modalities[-1], "CT" if "CT" in modalities[:-1] else modalities[0]


def from_source(mapped, name, target):
    """The function z -> mapped latents, with z told to be of modality `name`."""
    to = torch.tensor([MODALITIES.index(target)])
    return lambda z: mapped(*in_slot(z, torch.tensor([MODALITIES.index(name)])), to)


z = vae.encode(x_of[source][None, None]).mean
token = (z.shape[2] // 2, z.shape[3] // 2)
seen = {"ridge": influence(from_source(translator.mapper.ridge_latents, source, target), z, token),
        "mapper": influence(from_source(translator.mapper, source, target), z, token)}

# %%
order = seen["mapper"].flatten()
here = token[0] * z.shape[3] + token[1]
before, after = int((order[:here] > 0).sum()), int((order[here + 1:] > 0).sum())
draw_influence(seen, token, f"{source} to {target}: a target token reads {before} before it and {after} behind it")

# %%
assert before == here and after == len(order) - here - 1, "a bidirectional mapper reads every token"
around = seen["mapper"][token[0] - 1:token[0] + 2, token[1] - 1:token[1] + 2]
own, near = float(order[here] / order.sum()), float(around.sum() / order.sum())
print(f"share of the influence: its 3 x 3 neighbourhood {100 * near:.0f} % (its own place alone {100 * own:.0f} %), "
      f"the {len(order) - around.numel()} tokens beyond {100 * (1 - near):.0f} %")

# %% [markdown]
# **Read.** The ridge sees its 3 x 3 neighbourhood and nothing else, by construction. The mapper reads every token. What
# all those beyond the neighbourhood count together is printed above; a single one of them counts little, which the
# logarithmic scale hides. Reading everything is not the same as using it.
#
# ### Explore 1: who reads what?
#
# The Jacobian counts all ways from source to target. Attention alone can be looked at directly: its weights
# $w_{ij}$ for the token you choose, by a click or with the sliders, in each block and head. The scale is the *even
# share*: 1 is what a token would get if all got the same.
#
# **Predict.** Half of a token's weight: will it lie on the body, or on the air around it?

# %%
explore_attention(translator, judged, row, source, target, pixel_mm)

# %%
with torch.no_grad():
    stack, given, to = translator.read(x_of[source][None, None], (source,), target)
    weights = translator.mapper.attention_maps(translator.encode(stack, given), given, to)[:, 0]    # block head n n
assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5), "each token shares out exactly one"
token_mm = cfg.vae.factor * pixel_mm
places = token_mm * torch.cartesian_prod(*(torch.arange(float(side)) for side in z.shape[2:]))
distance_mm = torch.cdist(places, places)
reach_mm = (weights * distance_mm).sum(-1).mean(-1)          # block head
print(f"mean distance read [mm]; even weights would give {distance_mm.mean():.0f}")
for block, heads in enumerate(reach_mm, 1):
    print(f"block {block}: {', '.join(f'head {head} {mm:.0f}' for head, mm in enumerate(heads.tolist(), 1))}")

# %% [markdown]
# **Read.** A head well below the even distance looks around its own place, one near it at everything. Weight on air is
# not a mistake: a head that needs nothing has to put its one whole somewhere, and air says little. So a weight is not a
# cause. What a token *does* is in the Jacobian above, where value, gate and the blocks that follow count too.
#
# ## 8 · Guidance: say where to go, or lie about it
#
# Same latents, same weights; only the target's name changes.

# %%
with torch.no_grad():
    translated = {t: (translator.slices(x_of[source][None, None], source, t, "mapped")[0, 0], x_of[t])
                  for t in x_of if t != source}
draw_targets(source, x_of[source], translated, pixel_mm, judged.mask[row])

# %% [markdown]
# ### Break it
#
# **Predict.** We hand over a picture and give it a false name. What happens to the error?

# %%
unit = "HU" if target in ("CBCT", "CT") else "%"
for claimed in [source] + [m for m in x_of if m not in (source, target)]:
    predicted = vae.decode(from_source(translator.mapper, claimed, target)(z)).detach()[0, 0].clamp(-1, 1)
    error = mean_error(predicted, x_of[target], target, judged.mask[row])
    print(f"a {source} that is called {claimed:>4}: error in {target} {error:6.1f} {unit}")
if len(x_of) < 3:
    print("Two modalities leave no room for a lie: this needs a third.")

# %% [markdown]
# **Read.** One model serves all directions only because it is told which. A wrong label in a data archive therefore
# does silent harm: nothing crashes, and a picture made of soft blocks does not give it away. That is why `load_cases`
# refuses a CT that is not in HU.
#
# ## 9 · Two sources know more than one
#
# In the clinic some images of a patient exist and some do not. The same mapper takes whatever is there: every modality has
# its slot in `z`, `given` says which slots to read. In a quarter of its training pairs each further modality joined with
# probability 1/2.
#
# **Predict.** Which pair of modalities is worth joining for CT, and does joining ever hurt?

# %%
fused = direction_errors(translator, judged, ("ridge", "mapped"), fusions=True)
for name in (name for name in fused if "+" in name):
    to = name.split(">")[1]
    for method, all_sources in fused[name].items():
        alone = {d: e[method] for d, e in fused.items() if d.endswith(f">{to}") and "+" not in d}
        best = min(alone, key=alone.get)
        print(f"{to:>5}, {method:>6}: all sources leave {100 * all_sources / alone[best]:4.0f} % of the error of the best single "
              f"one ({best.split('>')[0]})")
if not translator.fusions():
    print("Two modalities leave nothing to join: this needs a third.")

# %% [markdown]
# **Read.** Below 100 % the further sources help. The ridge is fitted anew for every set of sources (one Gram matrix holds
# them all), so on training patients it can only gain. A mean of single translations would be worse than the best of them:
# fusion has to weigh the sources together.
#
# ## 10 · Worst first
#
# Papers show good cases. Look at the worst one before you believe a mean.

# %%
worst_source, worst_target = max(left_over, key=left_over.get).split(">")
x_source, x_target = (judged.x[:, MODALITIES.index(m)].float() for m in (worst_source, worst_target))
predicted = translator.slices(x_source[:, None], worst_source, worst_target, "mapped")[:, 0]
both = judged.have[:, [MODALITIES.index(m) for m in (worst_source, worst_target)]].all(1)
wrong = [mean_error(p, x, worst_target, m) if m.any() and has_both else 0.0
         for p, x, m, has_both in zip(predicted, x_target, judged.mask, both)]
worst = int(torch.tensor(wrong).argmax())
print(f"worst direction: {worst_source} to {worst_target}; its worst slice: {worst} of {len(judged)}, "
      f"patient {held_out.names[judged.case[worst]]}")

# %%
predictions = {"copy": x_source[worst], "mapped": predicted[worst],
               "ridge": translator.slices(x_source[worst][None, None], worst_source, worst_target, "ridge")[0, 0]}
draw_translations(worst_source, x_source[worst], worst_target, x_target[worst], predictions, pixel_mm,
                  judged.mask[worst])

# %% [markdown]
# ### Explore 2: any direction, any slice

# %%
def draw_direction(translator, slices, pixel_mm, direction, slice, method):
    source, target = direction.split(" to ")
    x_source, x_target = (slices.x[slice, MODALITIES.index(m)].float() for m in (source, target))
    predicted = translator.slices(x_source[None, None], source, target, method)[0, 0]
    return draw_translations(source, x_source, target, x_target, {"copy": x_source, method: predicted}, pixel_mm,
                             slices.mask[slice])


names = [f"{s} to {t}" for s, t in translator.directions()]
explore(partial(draw_direction, translator, judged, pixel_mm),
        "Which source gives the best CT at the skull base, and which at the neck?",
        direction=names, slice=widgets.IntSlider(row, 0, len(judged) - 1), method=["mapped", "ridge"])

# %% [markdown]
# ## 11 · Check yourself
#
# 1. With five modalities, how many networks would the pairwise way need? (Checked below.)
# 2. Why must the error of copying be printed beside every result?
# 3. A mapper with causal attention (a token reads only itself and those before it) would still be trained without an
#    error message. What would be wrong with it?

# %%
my_networks = None                                           # your answer to question 1
right = my_networks == 5 * 4
print("not attempted yet" if my_networks is None else "correct" if right else "no: each ordered pair is one network")

# %% [markdown]
# <details><summary>Answers 2 and 3</summary>
#
# 2: Because an error alone has no scale: the same number of HU may be a great gain for MR to CT, where copying errs by
# hundreds, and none for CBCT to CT, where copying errs little. 3: The token at the upper left would decide without
# having seen the rest of the head, the one at the lower right with all of it. Quality would depend on where in the
# picture a tissue lies.
# </details>

# %%
won = sum(value > 0 for value in skill["mapped"])
print(f"Can one model translate between any two modalities? {won} of {len(errors)} directions better than copying, "
      f"mean skill {sum(skill['mapped']) / len(errors):.2f} (profile {profile_name}, {len(judged)} validation slices).")
print(f"saved: {run.file_of('mapper')}, {run.stages['mapper']['parameters']:,} parameters, "
      f"{run.stages['mapper']['seconds']:.0f} s")

# %% [markdown]
# **What we did.** One model maps latents in every direction. We set it beside doing nothing and beside a
# closed-form ridge, proved with its Jacobian that it reads both ways, and saw what guidance does and what a false
# label does.
#
# **What it cannot do.** It cannot restore what the tokenizer lost, and it draws the mean of what is possible where
# the source does not tell: expect soft pictures, and from MR to CT blocky ones (one latent pixel is 8 x 8 pixels),
# above all in bone. It knows only modalities it was trained on. Numbers are from validation patients of this data set;
# nothing here is a medical device.
#
# **Next.** Lesson 03 fine-tunes the decoder on mapped latents, with the source slice at hand, and asks whether that
# sharpens or invents. For your own patients: one `data_dir`, one `run_dir`, lessons 01 and 02 in this order.
