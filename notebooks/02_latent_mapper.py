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
# networks. The claim of Liang et al. 2025 (below "the paper") is that **one** is enough, if it works on the shared latents
# of lesson 01 and is told where to go.
#
# | | |
# |---|---|
# | **Goal** | train a latent mapper for all directions, and judge it against doing nothing and linear regression |
# | **Time** | two sessions of 90 minutes with the exercises; minutes of the cells alone: `notebooks/README.md` |
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

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import load_slices, thinned
from vaelite.evaluation.probes import direction_errors
from vaelite.exercises import check_attention, check_least_squares, check_skill
from vaelite.explore.explorers import explore_attention
from vaelite.explore.panel import explore, show_source
from vaelite.figures import (DISPLAYS, TIE, draw_direction_matrix, draw_influence, draw_modalities, draw_targets, draw_training,
                             draw_translations, mean_error)
from vaelite.models.layers import in_slot
from vaelite.models.mapper import Block, LatentMapper, ridge_regression, solve_ridge
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import encode_slices, load_mapped, load_vae, named, train_mapper
from vaelite.training.train import directions, tasks
from vaelite.translate import Translator

# %% [markdown]
# ## 1 · One head, many directions

# %%
cfg = profile(profile_name)
run = open_run(run_dir)
vae = load_vae(run)                                          # refuses, and says what to do, if lesson 01 was not run
cases = load_cases(data_dir)
modalities = [m for m in MODALITIES if all(any(m in case.modalities for case in cases if case.split == name)
                                           for name in ("train", "validation"))]
held_out_cases = [case for case in cases if case.split == "validation"]
held_out = load_slices(held_out_cases, cfg.data.size)
judged = thinned(held_out, 60)                               # about 60 slices judge; more only make us wait
print(f"source: {cases[0].info.get('source', 'not stated')}")
print(f"{len(held_out_cases)} validation patients, {len(judged)} slices")
print(f"{len(modalities)} modalities: {', '.join(modalities)}; {len(modalities) * (len(modalities) - 1)} directions")
if missing := sorted(set(MODALITIES) - set(modalities)):
    print(f"Training or validation has no {' and no '.join(missing)}: their directions are left out.")
grid = held_out_cases[0].volume(held_out_cases[0].modalities[0]).shape
pixel_mm = held_out_cases[0].spacing_mm[1] * max(grid[1:]) / cfg.data.size
row = int((judged.case == 0).sum() * 0.6)                    # a slice through the face of the first validation patient
x_of = {m: judged.x[row, i].float() for i, m in enumerate(MODALITIES) if judged.have[row, i]}
draw_modalities(x_of, pixel_mm, judged.mask[row])

# %% [markdown]
# ### A toy first
#
# A row of 16 random numbers $x_1 \dots x_{16}$, its ends joined; the answer is known. (A) *bias*: $y_i = x_i$ + the mean of
# all 16. (B) *edge*: $y_i$ = right neighbour − left neighbour. Three translators: *copy*; *near*, a weighted sum of a number
# and its two neighbours; *far*, a weighted sum of a number and the mean of all. Least squares finds the weights (section 3).
# **Predict** the winner of each.

# %%
x = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
near = torch.stack([x.roll(1, 1), x, x.roll(-1, 1)], -1).reshape(-1, 3)
mean = x.mean(1, keepdim=True).expand_as(x)
far = torch.stack([x, mean], -1).reshape(-1, 2)
truths = {"bias": x + mean, "edge": x.roll(-1, 1) - x.roll(1, 1)}

# %%
half, rms = x.numel() // 2, {}
print(f"{'RMS error':>10}{'copy':>8}{'near':>8}{'far':>8}   (fitted to {half:,} numbers, judged on {half:,} others)")
for name, y in truths.items():
    y, error = y.reshape(-1, 1), {"copy": (x - y).reshape(-1, 1)}
    for rival, seen in {"near": near, "far": far}.items():
        weights = ridge_regression(seen[:half], y[:half], 0.0)    # penalty 0: least squares
        error[rival] = seen @ weights[:-1] + weights[-1] - y
    rms[name] = {rival: float(e[half:].square().mean().sqrt()) for rival, e in error.items()}
    print(f"{name:>10}" + "".join(f"{value:>8.3f}" for value in rms[name].values()))
assert abs(rms["bias"]["near"] - math.sqrt(13) / 16) < 0.01, "13 of 16 numbers are out of its sight"

# %% [markdown]
# **Read.** By theory: 1/4, $\sqrt{13}/16 = 0.225$ and 0; $\sqrt 3$, 0 and $\sqrt 2$. What is near, the line over neighbours
# finds exactly; what is far, only looking around finds. Near and far win once each, so the mapper has both: a line over
# neighbours (section 3) and attention (section 4), which with equal weights is the mean of all.

# %% [markdown]
# ## 2 · First rival: do nothing
#
# The cheapest translator hands back its source. Where modalities nearly agree it is hard to beat, and a paper that
# does not print its error hides something.
#
# **Predict.** Between which two modalities does copying do best? And worst?

# %%
def in_unit(error, modality):
    """An error of x, which spans 2, in what the modality is shown in: HU, or % of the range."""
    display = DISPLAYS[modality]
    return f"{error / 2 * (display.high - display.low):.3g} {display.unit}"


my_guess_best, my_guess_worst = None, None                   # for example "CT and T1c"
can = named(tasks(judged.have))
untrained = Translator(vae, None, None, cfg.data.size, tuple(modalities), can)    # no mapper yet: all it can do is copy
copied = direction_errors(untrained, judged, ("copy",))
print(f"error of copying as a fraction of the range, n = {len(judged)} slices.  You said {my_guess_best}; {my_guess_worst}.")
for a, b in sorted((d.split(">") for d in copied), key=lambda pair: copied[">".join(pair)]["copy"]):
    if modalities.index(a) < modalities.index(b):            # as far there as back
        error = copied[f"{a}>{b}"]["copy"]                   # of x, which spans 2
        print(f"{a:>6} and {b:<4}{error / 2:6.3f}  = {in_unit(error, b)} in {b}, {in_unit(error, a)} in {a}")
draw_direction_matrix(copied)

# %% [markdown]
# **Read.** Mean absolute error in the body, validation patients. The fractions share one scale, that of the network's `x`,
# and can be ranked. Which error is worse they do not say: 1 % of CT's range is 30 HU, 1 % of an MR's a hundredth of its own
# contrast (so lesson 01 compares no dB between modalities). In the picture compare within a column, for columns differ in
# unit. Copying an MR to CT reads its grey values as Hounsfield units, which is nonsense, and gives errors of hundreds of HU.
# Two MRs may lie as far apart on the network's scale as MR and CT: copying is scored on grey values, not on anatomy. CBCT and
# CT are another matter.
#
# ## 3 · Second rival: linear regression
#
# Take one *latent pixel* of the target: the numbers of one patch. Predict it as a weighted sum of the 3 x 3 latent
# pixels of the source around it. The best weights have a closed form. With one example in each row of $X$ (`x`, a
# column of ones added) and $Y$ (`y`):
#
# $$ W = (X^\top X + \lambda g\, I)^{-1} X^\top Y $$
#
# `penalty` $\lambda$ keeps $W$ small where the data say little ($g$ is `gram.diagonal().mean()`, of $X^\top X$; our $\lambda$
# stands in the call of `fit_ridge` below). That is **ridge regression** (Hoerl and Kennard 1970).
#
# ### Try it 1: least squares
#
# Take $\lambda = 0$, and `torch.linalg.solve(a, b)` for $a^{-1} b$. Return the weights, the intercept last.

# %% tags=["exercise"]
def my_least_squares(x, y):
    """x: (n, p), y: (n,) -> (p + 1,): p weights, then the intercept."""
    ...                                                      # two or three lines


# %% tags=["check"]
print(check_least_squares(my_least_squares))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_least_squares(x, y):
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return torch.linalg.solve(x.T @ x, x.T @ y)


print(check_least_squares(my_least_squares))

# %%
show_source(ridge_regression)

# %%
show_source(solve_ridge)

# %% [markdown]
# The penalty stands on the whole diagonal, so the intercept is penalised too.
#
# ### Ablate: how far should a line look?
#
# One knob, three values: predict each latent pixel from 1 x 1, 3 x 3 or 5 x 5 source pixels. We fit on some training
# patients and judge on validation patients. The error is the root mean square, in standard deviations (SD) of a latent over
# the fitted patients: predicting their mean scores 1 there.
#
# In code, latents stand in *slots*: `z` has the shape (b, m, k, h, w), `b` slices with one slot for each of `m` modalities,
# in it `k` numbers at each of `h` x `w` places. `in_slot` puts latents into their slot and says which slots to read.
#
# **Predict.** Which has the smallest error on the patients it was fitted to? And on the others?

# %%
@torch.no_grad()
def latent_errors(mapped, deviation, z, have):
    """Errors of the mapped latents in standard deviations of a latent, of each direction (b, k, h, w)."""
    found = []
    for s, t in directions(have):
        both = have[:, s] & have[:, t]
        source, target = (torch.full((int(both.sum()),), m) for m in (s, t))
        found.append((mapped(*in_slot(z[both, s], source), target) - z[both, t]) / deviation)
    return found


# %%
train = load_slices([case for case in cases if case.split == "train"][:8], cfg.data.size)
fitted = thinned(train, 100)
z_fitted, z_judged = (encode_slices(vae, slices)[0].float() for slices in (fitted, judged))    # b m k h w
print(f"fitted: {len(fitted)} slices of {len(set(fitted.case.tolist()))} patients, validation: {len(judged)} slices of "
      f"{len(held_out_cases)}")
print(f"{'neighbourhood':>14}{'weights':>9}{'fitted patients [SD]':>22}{'validation patients [SD]':>26}")
own, other, kept = {}, {}, cfg.mapper.neighbourhood
for n in sorted({1, 3, 5, kept}):
    shape = replace(cfg.mapper, latent_channels=z_fitted.shape[2], neighbourhood=n)
    ridge = LatentMapper(shape).fit_ridge(z_fitted, fitted.have, penalty=1e-2)      # lambda, the default: our choice
    for rms, z, slices in ((own, z_fitted, fitted), (other, z_judged, judged)):
        errors = latent_errors(ridge.ridge_latents, ridge.latent_deviation, z, slices.have)
        rms[n] = float(torch.cat(errors).square().mean().sqrt())
    print(f"{f'{n} x {n}':>14}{n * n * z_fitted.shape[2] + 1:>9}{own[n]:>22.3f}{other[n]:>26.3f}")
best = min(other, key=other.get)
print(f"Best on validation: {best} x {best}. The kit keeps {kept} x {kept}" + (
    "." if best == kept else f", {100 * (other[kept] / other[best] - 1):.1f} % worse here: its weights are fitted to "
    f"{len(set(fitted.case.tolist()))} patients only, and to choose by {len(held_out_cases)} patient(s) is to fit them, too."))

# %% [markdown]
# **Read.** Weights are counted for each number predicted. On the fitted patients a wider view can only help: the narrow
# one is a special case of it. On the others it may not, if there are too few patients for so many weights. Compare
# **down** a column: the two columns are of different patients, and a few validation patients may be the easier ones. The best
# row of the fitted patients need not be the best of the others.
#
# ## 4 · What a line cannot do: look around
#
# Air and bone are both black in MR. To tell them apart one has to look further: is this dark pixel in the nose, or between
# scalp and brain? **Attention** lets each latent pixel (now called a *token*) read all others. Token $i$ asks a question
# $q_i$, each token $j$ offers a key $k_j$ (not the number `k` above) and a value $v_j$; a question and a key have $d$
# numbers each. The answer is a weighted mean:
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
print(check_attention(my_attention))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_attention(q, k, v):
    weights = torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1)
    return weights @ v


print(check_attention(my_attention))

# %% [markdown]
# The mapper's own attention is your two lines in several copies side by side (`a` of them), called *attention heads*, each with
# its own $q$, $k$ and $v$; $q$ and $k$ are normalised before (Henry et al. 2020: no token can shout), and one linear layer
# follows. No mask: a token reads those before it **and** those behind it. That is what *bidirectional* means; a language model
# that writes from left to right may only look back. Your two lines do not know where a token stands. (The line with `autocast`
# is for speed: it keeps `bfloat16`, numbers of half the length, away from a CPU.)

# %%
show_source(Block.attend)

# %% [markdown]
# Attention is the first of three branches of a **block**. The second is a 3 x 3 convolution over the grid of tokens,
# the third a small network that works on each token alone. Each branch adds a correction to the tokens, and a few
# blocks follow one another. Sines and cosines of row and column are added to each token: without them attention would not know
# places.
#
# **How is it told where to go?** The names choose the ridge's $W$ (`ridge_kernel`): one for each target and set of sources. For
# the rest each modality has an *embedding*, a learnt vector, as source and another as target. In every block their sum sets a
# scale and a shift for what enters attention and network, and for each branch a *gate*, a learnt factor for what it adds
# (adaLN-Zero, Peebles and Xie 2023). The gates start at zero: before training, the mapper *is* the ridge, and it learns what the
# ridge leaves over. That is our choice; the paper publishes no architecture.
#
# ## 5 · Train it
#
# **Predict.** In how many directions will the ridge beat copying? In how many will the trained mapper beat the ridge?

# %%
def from_source(mapped, name, target):
    """The function z -> mapped latents, with z told to be of modality `name`."""
    s, t = MODALITIES.index(name), MODALITIES.index(target)
    return lambda z: mapped(*in_slot(z, torch.full((len(z),), s)), torch.full((len(z),), t))


my_guess_ridge, my_guess_mapper = None, None                 # two numbers
train_mapper(cfg, cases, run)
translator = load_mapped(run)                                # stages 1 and 2 as lesson 03 will find them
draw_training(run.stages["mapper"]["history"], "mapper", "mean |error| [SD of a latent]")

# %%
print(f"error of a latent [SD] on validation: {len(judged)} slices of {len(held_out_cases)} patient(s), all directions")
for name, mapped in {"ridge": translator.mapper.ridge_latents, "mapper": translator.mapper}.items():
    errors = latent_errors(mapped, translator.mapper.latent_deviation, z_judged, judged.have)
    rms = [float(error.square().mean().sqrt()) for error in errors]
    print(f"{name:>8}: mean absolute {torch.cat(errors).abs().mean():.3f}; root mean square by direction {min(rms):.2f} to "
          f"{max(rms):.2f}")

# %%
decoded_db, generator = {"as mapped": [], "as much plain noise": []}, torch.Generator().manual_seed(0)
for (s, t), size in zip(directions(judged.have), rms):       # of the mapper
    both = judged.have[:, [s, t]].all(1)
    noise = size * translator.mapper.latent_deviation * torch.randn(z_judged[both, t].shape, generator=generator)
    mapped = from_source(translator.mapper, MODALITIES[s], MODALITIES[t])
    for name, z in {"as mapped": mapped(z_judged[both, s]), "as much plain noise": z_judged[both, t] + noise}.items():
        with torch.no_grad():
            error = vae.decode(z).clamp(-1, 1)[:, 0] - judged.x[both, t].float()
        decoded_db[name].append(float(10 * torch.log10(4 / error.square().mean())))    # PSNR [dB] as in lesson 01
print("; ".join(f"{name}: {sum(db) / len(db):.1f} dB" for name, db in decoded_db.items()),
      f"(latents decoded, mean of {len(rms)} directions, n = {len(judged)} slices)")

# %% [markdown]
# **Read.** The loss is the mean **absolute** error of a latent, in its standard deviations, on **training** patients; batches
# scatter (grey). It starts at the ridge, which is not quite that of section 3: `train_mapper` fits it to slices of all training
# patients and their mirror images. Lesson 01 asked how exact a latent must be, with noise. Here each direction's true latents
# got as much noise as the mapper errs (root mean square): if *as mapped* has more dB, the mapper errs where a picture forgives,
# while noise hits all latents alike.
#
# ## 6 · All directions, three methods
#
# *copy* hands back the source, *ridge* is the closed form, *mapped* is what the trained mapper makes of it.

# %%
def tally(errors, method, rival):
    """In how many directions the method wins, ties (closer than 2 %, our choice) and loses against its rival."""
    ratio = [error[method] / error[rival] for error in errors.values()]
    wins, losses = sum(r <= 1 - TIE for r in ratio), sum(r >= 1 + TIE for r in ratio)
    return f"{method} against {rival}: {wins} wins, {len(ratio) - wins - losses} ties, {losses} losses"


errors = direction_errors(translator, judged, ("copy", "ridge", "mapped"))
change = [100 * (error["mapped"] / error["ridge"] - 1) for error in errors.values()]
print(f"{len(errors)} directions, {len(judged)} slices of {len(held_out_cases)} patient(s); less than {100 * TIE:g} % is a tie")
print(f"{tally(errors, 'ridge', 'copy')} (you said {my_guess_ridge})")
print(f"{tally(errors, 'mapped', 'ridge')} (you said {my_guess_mapper}); its error is {min(change):+.1f} to {max(change):+.1f} %")
print(tally(errors, "mapped", "copy"))
left_over = {direction: error["mapped"] / error["copy"] for direction, error in errors.items()}
for direction in sorted(left_over, key=left_over.get):
    print(f"{direction:>10}  the mapper leaves {100 * left_over[direction]:4.0f} % of the error of copying")
draw_direction_matrix(errors)

# %% [markdown]
# **Read.** Blue is better than copying, red worse. The tallies count on one rule, so they add up to the number of directions.
# Where copying was already good there is little to win and something to lose: every translation goes through the tokenizer,
# which blurs. So a direction above 100 % (a loss against copy) does not prove that the mapper failed. Lesson 03 separates the
# two errors.
#
# ### Try it 3: one number that can be compared
#
# HU and % cannot be averaged, *skill* (Murphy 1988) can: 1 is perfect, 0 as good as doing nothing, negative worse than nothing.

# %% tags=["exercise"]
def my_skill(error, error_of_copy):
    ...                                                      # one line


# %% tags=["check"]
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
alike = {"CBCT>CT", "CT>CBCT"}                               # one physics: chosen before the results
for method in ("ridge", "mapped") if errors.keys() - alike else ():
    others = [1 - error[method] / error["copy"] for direction, error in errors.items() if direction not in alike]
    print(f"{method:>8}: mean skill {sum(others) / len(others):.2f} without CBCT and CT to each other")

# %% [markdown]
# **Read.** A few directions in which copying is hard to beat pull the mean down: twice a small error is skill -1. The last lines
# leave out CBCT and CT, chosen for their physics and not for their result.
#
# ## 7 · Does it really look both ways?
#
# We ask the trained mapper itself. How much does target token $i$ move if source token $j$ moves? That is the
# **Jacobian** $\partial \hat z_i / \partial z_j$; its norm is drawn for one target token (red square); $\hat z$ is `mapped(z)`.
#
# **Predict.** The mapper *can* read every token. What share of the influence comes from beyond the 3 x 3 around the target's
# own place?

# %%
def influence(mapped, z, token):
    """Norm of the Jacobian of one target token with respect to each source token: (h, w)."""
    jacobian = torch.autograd.functional.jacobian(lambda source: mapped(source)[0, :, token[0], token[1]], z)
    return jacobian.square().sum((0, 1, 2)).sqrt()           # out 1 in h w -> h w


source, target = modalities[-1], "CT" if "CT" in modalities[:-1] else modalities[0]
z = vae.encode(x_of[source][None, None]).mean
token = (z.shape[2] // 2, z.shape[3] // 2)
seen = {"ridge": influence(from_source(translator.mapper.ridge_latents, source, target), z, token),
        "mapper": influence(from_source(translator.mapper, source, target), z, token)}

# %%
order = seen["mapper"].flatten()
here = token[0] * z.shape[3] + token[1]
before, after = int((order[:here] > 0).sum()), int((order[here + 1:] > 0).sum())
assert before == here and after == len(order) - here - 1, "a bidirectional mapper reads every token"
around = seen["mapper"][token[0] - 1:token[0] + 2, token[1] - 1:token[1] + 2]
own, near = float(order[here] / order.sum()), float(around.sum() / order.sum())
print(f"share of the influence on one token of slice {row}: its 3 x 3 neighbourhood {100 * near:.1f} % (its own place "
      f"{100 * own:.1f} %), "
      f"the rest {100 * (1 - near):.1f} %. It reads {before} tokens before it and {after} behind it, in reading order.")
draw_influence(seen, token, f"{source} to {target}, mapper: the {len(order) - around.numel()} tokens beyond the 3 x 3 have "
                            f"{100 * (1 - near):.1f} % of the influence")

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
body = torch.nn.functional.avg_pool2d(judged.mask[row][None].float(), cfg.vae.factor).flatten()      # share of each token
on_body = 100 * (weights @ body).mean(-1)
print(f"slice {row}, mean over all tokens: distance read [mm] and weight on the body [%]; even weights would give "
      f"{distance_mm.mean():.0f} mm, {100 * body.mean():.0f} %")
for block, heads in enumerate(zip(reach_mm, on_body), 1):
    print(f"block {block}: " + "; ".join(f"head {n} {mm:.0f} mm, {share:.0f} %" for n, (mm, share) in enumerate(zip(*heads), 1)))
torch.manual_seed(0)                                         # a scale: heads that have learnt nothing
with torch.no_grad():
    blank = LatentMapper(translator.mapper.config).attention_maps(translator.encode(stack, given), given, to)[:, 0]
blank_mm, blank_body = (blank * distance_mm).sum(-1).mean(-1), 100 * (blank @ body).mean(-1)
print(f"untrained: {blank_mm.min():.0f} to {blank_mm.max():.0f} mm, {blank_body.min():.0f} to {blank_body.max():.0f} %")

# %% [markdown]
# **Read.** A head well below the even distance looks around its own place, one near it at everything, one above it at what is
# far. (The picture's title is about one token: in the middle of the grid even weights lie nearer than at its edge.) Body or
# air? Compare with even weights, and with the last line: what lies within its range an untrained network does, too, and needs no
# story. Weight on air is not a mistake: a head that needs nothing has to put its one whole somewhere. What a token *does* is in
# the Jacobian above, where value, gate and the blocks that follow count too.
#
# ## 8 · Guidance: say where to go, or lie about it
#
# *Guidance* is what tells the mapper its task: the names of source and target. They choose the ridge's matrix, and as embeddings
# they set scales, shifts and gates of every block (section 4). Here only the target's name changes.

# %%
with torch.no_grad():
    translated = {t: (translator.slices(x_of[source][None, None], source, t, "mapped")[0, 0], x_of[t])
                  for t in x_of if t != source}
draw_targets(source, x_of[source], translated, pixel_mm, judged.mask[row])

# %% [markdown]
# ### Break it
#
# Now the target's name stays and the source's is false. **Predict**: what happens to the error? (All validation slices
# count, one is drawn.)

# %%
s, t = MODALITIES.index(source), MODALITIES.index(target)
both, unit = judged.have[:, [s, t]].all(1), DISPLAYS[target].unit
told, error = {}, {}
with torch.no_grad():
    for name in [source] + [m for m in modalities if m not in (source, target)]:
        told[name] = vae.decode(from_source(translator.mapper, name, target)(z_judged[both, s])).clamp(-1, 1)[:, 0]
        error[name] = mean_error(told[name], judged.x[both, t].float(), target, judged.mask[both])
        ridge = vae.decode(from_source(translator.mapper.ridge_latents, name, target)(z_judged[both, s])).clamp(-1, 1)[:, 0]
        alone = mean_error(ridge, judged.x[both, t].float(), target, judged.mask[both])
        print(f"a {source} called {name:>4}: error in {target} {error[name]:6.1f} {unit}, of the ridge alone {alone:6.1f} {unit} "
              f"(n = {len(ridge)} slices)")
if len(told) < 2:
    print("Two modalities leave no room for a lie: this needs a third.")
lies = sorted((name for name in error if name != source), key=error.get)
for kind, name in zip(("quietest", "loudest"), (lies[:1] + lies[-1:])):
    print(f"the {kind} lie, {name}, changes the error by {100 * (error[name] / error[source] - 1):+.0f} %")
pictures = {f"called {name}": told[name][int(both[:row].sum())] for name in dict.fromkeys((source, *lies[:1], *lies[-1:]))}
draw_translations(source, x_of[source], target, x_of[target], pictures, pixel_mm, judged.mask[row])

# %% [markdown]
# **Read.** One model serves all directions only because it is told which. Where the ridge alone errs as much, the lie lies in
# the matrix that the name chose, not in the embeddings. A wrong label in a data archive crashes nothing. A loud lie, one that
# adds much to the error, gives itself away in the picture. A quiet one does silent harm: it looks as good as the honest picture,
# and who has no real one beside it cannot know. `load_cases` refuses a CT that is not in HU and a CT called MR; T1c called T2w,
# or CBCT called CT, it cannot see.
#
# ## 9 · Two sources know more than one
#
# In the clinic some images of a patient exist and some do not. The same mapper takes whatever is there: every modality has
# its slot in `z`, `given` says which slots to read. To a share `data.fused` of the training pairs further sources were added,
# one or all of them.
#
# **Predict.** Do all other modalities together beat the best single one, and does joining ever hurt?

# %%
fused, change = direction_errors(translator, judged, ("ridge", "mapped"), fusions=True), []
for name in (name for name in fused if "+" in name):
    to = name.split(">")[1]
    for method, all_sources in fused[name].items():
        alone = {d: e[method] for d, e in fused.items() if d.endswith(f">{to}") and "+" not in d}
        best = min(alone, key=alone.get)
        change.append(all_sources / alone[best] - 1)
        print(f"{to:>5}, {method:>6}: all sources leave {100 * all_sources / alone[best]:4.0f} % of the error of the best single "
              f"one ({best.split('>')[0]})")
if not translator.fusions():
    print("Two modalities leave nothing to join: this needs a third.")
helps, hurts = sum(c <= -TIE for c in change), sum(c >= TIE for c in change)
print(f"By {100 * TIE:g} % or more joining helps in {helps} and hurts in {hurts} of {len(change)} rows "
      f"(n = {len(judged)} slices of {len(held_out_cases)} patient(s)).")

# %% [markdown]
# **Read.** Below 100 % the further sources help, above they hurt; the last line counts both. The ridge is fitted anew for
# every set of sources (one matrix $X^\top X$ of all modalities holds them all), so on the patients it was fitted to it can
# only gain; on others more weights can lose, as in section 3. Fusion has to weigh the sources together.
#
# ## 10 · Worst first
#
# Papers show good cases. Look at the worst one before you believe a mean.

# %%
worst_source, worst_target = max(left_over, key=left_over.get).split(">")
x_source, x_target = (judged.x[:, MODALITIES.index(m)].float() for m in (worst_source, worst_target))
predicted = translator.slices(x_source[:, None], worst_source, worst_target, "mapped")[:, 0]
both = judged.have[:, [MODALITIES.index(m) for m in (worst_source, worst_target)]].all(1)
usable = [bool(m.any() and has_both) for m, has_both in zip(judged.mask, both)]
error_of = {name: torch.tensor([mean_error(p, x, worst_target, m) if ok else 0.0 for p, x, m, ok in
                                zip(images, x_target, judged.mask, usable)])
            for name, images in (("copy", x_source), ("mapped", predicted))}
worst = int((error_of["mapped"] / error_of["copy"].clamp_min(1e-6)).argmax())
print(f"worst direction: {worst_source} to {worst_target}; its worst slice by the same measure: {worst} of {len(judged)}, "
      f"patient {held_out.names[judged.case[worst]]}: "
      f"{100 * error_of['mapped'][worst] / error_of['copy'][worst]:.0f} % of the error of copying")
predictions = {"copy": x_source[worst], "mapped": predicted[worst],
               "ridge": translator.slices(x_source[worst][None, None], worst_source, worst_target, "ridge")[0, 0]}
tokenizer = translator.reconstruct(x_target[[worst]].numpy())[0]
blur, found = (mean_error(x, x_target[worst], worst_target, judged.mask[worst]) for x in (tokenizer, predicted[worst]))
print(f"The tokenizer alone, the real {worst_target} coded and decoded, errs by {100 * blur / found:.0f} % of the mapper's "
      "error.")
draw_translations(worst_source, x_source[worst], worst_target, x_target[worst], predictions, pixel_mm,
                  judged.mask[worst])

# %% [markdown]
# **Read.** Where source and target nearly agree, the tokenizer alone may err nearly as much (printed above for this slice): it
# blurs edges, grain, thin bone. Where they do not, it is what the source does not tell. Lesson 03 measures them apart.
#
# ### Explore 2: any direction, any slice

# %%
def draw_direction(translator, slices, pixel_mm, direction, number, method):
    source, target = direction.split(" to ")
    x_source, x_target = (slices.x[number, MODALITIES.index(m)].float() for m in (source, target))
    predicted = translator.slices(x_source[None, None], source, target, method)[0, 0]
    return draw_translations(source, x_source, target, x_target, {"copy": x_source, method: predicted}, pixel_mm,
                             slices.mask[number])


names = [f"{s} to {t}" for s, t in translator.directions()]
asked = "MR" if target == "CT" and {"T1c", "T2w"} <= set(modalities) else "source"    # the CBCT would be no question
low = row // 6                                               # a tenth of the way up the first patient: the lower end
explore(partial(draw_direction, translator, judged, pixel_mm),
        f"Which {asked} gives the best {target} at slice {row} (face), and which at slice {low} (lower end)?",
        direction=names, method=["mapped", "ridge"],
        number=widgets.IntSlider(row, 0, len(judged) - 1, description="slice"))

# %%
for number in (row, low):
    error_from = {}
    for name in (m for m in x_of if m != target):
        image = judged.x[number, MODALITIES.index(name)][None, None].float()
        predicted = translator.slices(image, name, target, "mapped")[0, 0]
        error_from[name] = mean_error(predicted, judged.x[number, t].float(), target, judged.mask[number])
    print(f"slice {number}, error in {target}: " + ", ".join(
        f"{error_from[name]:.3g} {unit} from {name}" for name in sorted(error_from, key=error_from.get)))

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
mean_skill = {method: sum(values) / len(values) for method, values in skill.items()}
trained, helped = mean_skill["mapped"] - mean_skill["ridge"], sum(ratio <= 1 - TIE for ratio in left_over.values())
print(f"Can one model translate between any two modalities? {'Yes' if helped == len(errors) else 'No'}: {helped} of "
      f"{len(errors)} directions beat copying ({profile_name}, validation, n = {len(judged)} slices).")
print(f"{tally(errors, 'mapped', 'copy')}; {tally(errors, 'mapped', 'ridge')} (a tie: closer than {100 * TIE:g} %).")
print(f"mean skill: mapper {mean_skill['mapped']:.2f}, ridge {mean_skill['ridge']:.2f}: "
      f"training {'changed nothing (a tie)' if abs(trained) < TIE else 'helped' if trained > 0 else 'hurt'}.")

# %%
kernel = translator.mapper.ridge_kernel
print(f"saved: {run.file_of('mapper')}, {run.stages['mapper']['parameters']:,} trained parameters and "
      f"{kernel.flatten(2).any(2).sum()} ridge matrices ({int((kernel != 0).sum()):,} numbers), "
      f"{run.stages['mapper']['seconds']:.0f} s")

# %% [markdown]
# **What we did.** One model maps latents in every direction. We set it beside doing nothing and beside a closed-form ridge,
# saw in its Jacobian that it reads both ways and how much that counts, and saw what guidance does and what a false label
# does. Twelve networks were not trained here: lesson 03, section 8, has them.
#
# **What it cannot do.** It cannot restore what the tokenizer lost, and it draws the mean of what is possible where
# the source does not tell: expect soft pictures, and from MR to CT blocky ones (one latent pixel is `factor` x
# `factor` pixels), above all in bone. It knows only modalities it was trained on. Numbers are from validation patients of
# this data set; nothing here is a medical device.
#
# **Next.** Lesson 03 trains a decoder on mapped latents, with the source slice at hand, and asks whether that
# sharpens or invents. For your own patients: one `data_dir`, one `run_dir`, lessons 01 and 02 in this order.
