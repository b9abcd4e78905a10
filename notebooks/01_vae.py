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
# # 01 · Can a few hundred numbers stand for a slice?
#
# A slice of a head has thousands of pixels. This lesson squeezes it into fewer numbers, the **latents**, and asks
# what is lost. One network does it for CT, CBCT and MR alike. Lesson 02 will translate between modalities by moving
# latents (Liang et al. 2025, below "the paper"), so whatever is lost here is lost for good.
#
# | | |
# |---|---|
# | **Goal** | build, train and judge a shared variational autoencoder (VAE), and know its rival: PCA |
# | **Time** | two sessions of 90 minutes with the exercises; minutes of the cells alone: `notebooks/README.md` |
# | **Needs** | a data set (`make data`, or your own patients as case folders) |
# | **Makes** | stage `vae` in `runs/<name>/`, read by lesson 02 |
# | **You should know** | matrices, means and variances, what a convolution does. No deep learning beyond that |

# %% tags=["parameters"]
profile_name = "laptop"
data_dir = "data/phantom-laptop"
run_dir = "runs/phantom-laptop"

# %%
# %matplotlib inline
import math
import sys
from functools import partial

import ipywidgets as widgets
import torch
from einops import rearrange
from IPython.display import Markdown, display

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES, hu_to_unit
from vaelite.data.slices import every_nth, load_slices
from vaelite.explore.cloud import explore_latent_cloud
from vaelite.explore.explorers import encode, explore_latent_map, explore_morph, explore_walk, neighbours, principal_directions
from vaelite.explore.panel import explore, show_source
from vaelite.figures import (TIE, draw_components, draw_modalities, draw_quality, draw_reconstruction, draw_slices,
                             draw_training, headline, mean_error)
from vaelite.models.losses import kl_divergence
from vaelite.models.vae import VAE
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import load_vae, reconstruction_psnr, train_vae

# %% [markdown]
# ## 1 · Whose heads are these?
#
# `load_cases` checks every file once: one grid for each patient, CT in HU, nobody in two splits. **Training** patients teach the
# network, **validation** patients judge it in lessons 01 to 03, **test** patients once, in lesson 04.

# %%
cfg, run = profile(profile_name), open_run(run_dir)
cases = load_cases(data_dir)
modalities = [m for m in MODALITIES if all(any(m in case.modalities for case in cases if case.split == name)
                                           for name in ("train", "validation"))]
for name in ("train", "validation", "test"):
    print(f"{name:>10}: {sum(case.split == name for case in cases)} patients")
print(f"source: {cases[0].info.get('source', 'not stated')}\nmodalities: {', '.join(modalities)}")
if missing := sorted(set(MODALITIES) - set(modalities)):
    print(f"Training or validation has no {' and no '.join(missing)}: what follows leaves them out.")

# %%
train = load_slices([case for case in cases if case.split == "train"], cfg.data.size)
held_out_cases = [case for case in cases if case.split == "validation"]
held_out = load_slices(held_out_cases, cfg.data.size)
grid = held_out_cases[0].volume(held_out_cases[0].modalities[0]).shape
pixel_mm = held_out_cases[0].spacing_mm[1] * max(grid[1:]) / cfg.data.size
row = int((held_out.case == 0).sum() * 0.6)                  # a slice through the face of the first validation patient
picture = {m: held_out.x[row, i].float() for i, m in enumerate(MODALITIES) if m in modalities and held_out.have[row, i]}
first = "CT" if "CT" in picture else next(iter(picture))     # shown first where there is a choice
print(f"held_out.x [slice, modality, row, column]: {tuple(held_out.x.shape)}, in [-1, 1]",
      f"for section 2: f = {cfg.vae.factor}, k = {cfg.vae.latent_channels}", sep="\n")
draw_modalities(picture, pixel_mm, held_out.mask[row])

# %% [markdown]
# **Read.** The same anatomy four times (or as often as your data have it). CT and CBCT measure X-ray attenuation in
# Hounsfield units: water 0, air -1000, dense bone above 1000. MR has no unit: T1c makes fat and contrast agent
# bright, T2w water; bone and air are dark in both. For the network all become `x` in [-1, 1]: HU from -1000 to 2000
# linearly, MR from its 0.5 to its 99.5 percentile in the body. That range is the *%* of every MR picture.
#
# ### Explore 1: take a cone-beam CT apart
#
# CBCT and CT both measure attenuation, so why do they differ? The phantom's generator (`data_scripts/PHANTOM.md`) builds every
# scan step by step, and each step has a switch. Here it scans a slab of one head at the height of the mouth, with every setting
# in turn. *Original CT* is the anatomy itself, before any scanner.
#
# **Predict.** Rank three faults by the error they add: a sixth of the views, no scatter correction, photon noise.

# %%
sys.path.append("data_scripts")                              # the generator stands beside the library
from phantom.cbct import IDEAL, CbctSettings, simulate_cbct
from phantom.scans import draw_patient, inject
from phantom.tissues import MODALITY_COLUMNS

head = draw_patient(seed=0, index=1, size=96)
mouth = slice(17, 23)                                        # slices of 5 mm
hu, middle = head.planned.values[0][mouth], 3
scatters = {"no scatter": (0.0, 0.0), "scatter corrected": (0.5, 0.15), "scatter left in": (0.5, 1.0)}
scans = {}                                                   # scanned once: the picture then follows the controls
for scatter, (amount, left) in scatters.items():             # scatter / primary signal, and the share that correction leaves
    for views in (60, 120, 360):
        for noise in (False, True):
            settings = CbctSettings(**IDEAL | {"scatter_to_primary": (amount, amount), "scatter_left": (left, left),
                                               "noise": noise, "views": views, "arc_degree": 360.0})
            scans[scatter, views, noise] = simulate_cbct(hu, head.grid.spacing_mm, 0, settings)[middle]
print(f"{len(scans)} scans of {hu.shape[0]} x {hu.shape[1]} x {hu.shape[2]} voxels")


# %%
def draw_scan(anatomy, scans, mask, pixel_mm, scatter, views, noise):
    scan = hu_to_unit(scans[scatter, views, noise])
    figure = draw_reconstruction(hu_to_unit(anatomy), {"CBCT": scan}, "CT", pixel_mm, mask)
    error_hu = mean_error(scan, hu_to_unit(anatomy), "CT", mask)
    headline(figure, f"{views} views, {scatter}, noise {'on' if noise else 'off'}: mean error in the body {error_hu:.0f} HU")
    return figure


draw = partial(draw_scan, hu[middle], scans, head.mask[mouth][middle], head.grid.spacing_mm[2])
explore(draw, "Which switch hurts most, and what is its sign in the picture: a cup, streaks or grain?",
        scatter=list(scatters), views=widgets.SelectionSlider(options=(60, 120, 360), value=60),
        noise=widgets.Checkbox(True))

# %%
def scan_error_hu(scatter, views, noise):
    """Mean absolute error in the body [HU] of one scan against the anatomy."""
    scan, anatomy = hu_to_unit(scans[scatter, views, noise]), hu_to_unit(hu[middle])
    return mean_error(scan, anatomy, "CT", head.mask[mouth][middle])


ideal_hu = scan_error_hu("no scatter", 360, False)
faults = {"a sixth of the views": ("no scatter", 60, False), "no scatter correction": ("scatter left in", 360, False),
          "photon noise": ("no scatter", 360, True)}
added_hu = {name: scan_error_hu(*settings) - ideal_hu for name, settings in faults.items()}
print(f"The best scan errs by {ideal_hu:.0f} HU. Each fault alone adds:")
for name in sorted(added_hu, key=added_hu.get, reverse=True):
    print(f"{added_hu[name]:6.1f} HU  {name}")
finding = "Mean error added to the best scan: " + ", ".join(f"{name} {hu:.1f} HU" for name, hu in added_hu.items())
alone, body = {}, torch.as_tensor(head.mask[mouth][middle])
for name, settings in faults.items():
    fault = torch.as_tensor(scans[settings] - scans["no scatter", 360, False])
    limit_hu = 300 if "scatter" in name else 100 if "views" in name else 10    # one grey scale would not show the grain
    alone[f"{name}\nblack to white: ±{limit_hu} HU"] = fault / limit_hu
draw_slices(alone, "model space", head.grid.spacing_mm[2], finding, body, False)

# %% [markdown]
# **Read.** MAE is the mean absolute error, here in the body. The panels show each fault alone: too few views draw streaks,
# scatter left in the data a cup, and bone too dark, photons grain. The best scan errs too: its voxels blur every edge. A network
# that turns CBCT into CT has to undo all of this at once, and nothing in the picture says which is which.
#
# MR has switches too. The contrast agent gadolinium shortens T1 in blood vessels and where they leak: mucosa, glands,
# tumour. Below, the T1 signal of the same anatomy before any scanner, without and with it, on one grey scale. Fat is
# white before and after: see the third panel.

# %%
t1c = MODALITY_COLUMNS.index("T1c")
before, after = (patient.planned.values[t1c][mouth][middle] for patient in (inject(head, dose=0.0), head))
signals = {"before gadolinium": before, "after": after, "what it adds": after - before}
shown = {title: (2 * signal / after.max() - 1).clip(-1, 1) for title, signal in signals.items()}
gained = 100 * float((after - before)[head.mask[mouth][middle]].sum() / before[head.mask[mouth][middle]].sum())
finding = f"Gadolinium adds {gained:.0f} % to the signal of the body (tumour: {head.traits.tumour_site}); 100 %: the most"
draw_slices(shown, "T1c", head.grid.spacing_mm[2], finding, head.mask[mouth][middle])

# %% [markdown]
# ## 2 · How many numbers?
#
# The VAE (called *tokenizer* later) cuts a slice into patches of `f × f` pixels and keeps `k` numbers of each. The first
# picture's cell printed our `f` and `k`. The paper calls its own *KL-16*; in the literature: `f = 16`, `k = 16`.
#
# **Predict.** How many latents has one of our slices?

# %%
my_guess_latents = None                                      # your number
f, k, size = cfg.vae.factor, cfg.vae.latent_channels, cfg.data.size
n_pixels, n_latents = size**2, (size // f) ** 2 * k
print(f"{size} x {size} = {n_pixels:,} pixels; ({size} / {f})^2 x {k} = {n_latents:,} latents: "
      f"{n_pixels / n_latents:g} x fewer.  You said {my_guess_latents}.")

# %% [markdown]
# ## 3 · A rival that needs no training: PCA
#
# Before any network: what does the best **linear** code achieve? Principal component analysis (Hotelling 1933) finds the `k`
# patterns whose weighted sum comes closest to every patch, on average, in closed form. With the mean patch $m$ and
# the orthonormal patterns $c_1 \dots c_k$ (`patch_mean`, `components`):
#
# $$ z_j = \frac{c_j \cdot (p - m)}{s_j}, \qquad \hat p = m + \sum_j s_j \, z_j \, c_j $$
#
# with $s_j$ (`deviations`) the standard deviation along $c_j$, so every latent has variance 1.
#
# A VAE whose networks have not been trained is exactly this: we let them start at zero.

# %%
generator = torch.Generator().manual_seed(0)                 # a toy first: slices made of two known patterns
two = torch.linalg.qr(torch.randn(f * f, 2, generator=generator)).Q.T
toy = rearrange(torch.randn(8, size // f, size // f, 2, generator=generator) @ two, "b h w (f g) -> b 1 (h f) (w g)", f=f)
found = VAE(cfg.vae).fit_pca(toy)
known = 100 * float((found.components[:2, 0].flatten(1) @ two.T).square().sum()) / 2
print(f"toy: the first two patterns found lie to {known:.1f} % in the plane of the two it was made of")
assert known > 99.9, "PCA finds what the patches are made of"
some = every_nth(train, 8)                                   # every 8th slice, in all its modalities
x_train = some.x[some.have][:, None].float()                 # (b, 1, h, w) in [-1, 1]
assert some.have[:, [MODALITIES.index(m) for m in modalities]].any(0).all(), "the rival has seen every modality"
pca = VAE(cfg.vae).fit_pca(x_train).eval().requires_grad_(False)
patches = rearrange(x_train, "b 1 (h f) (w g) -> (b h w) (f g)", f=f, g=f)
draw_components(pca.components[:, 0], pca.deviations, float(patches.var(0).sum()), pixel_mm)

# %% [markdown]
# **Read.** The first pattern is flat: it carries the mean of a patch. The next are slopes, then curves and stripes,
# like the first terms of a Fourier series. The number above each is its share of the variance of all training
# patches.
#
# The fit is these lines:

# %%
show_source(VAE.fit_pca)

# %% [markdown]
# ### Try it 1: project a patch
#
# Write $\hat p$ for one patch $p$ (`patch`), as above, without $s_j$: what the first formula divides by, the second multiplies
# by. `components` has one pattern in each row.

# %% tags=["exercise"]
def my_projection(patch, mean, components):
    """patch, mean: (d,); components: (k, d), orthonormal rows -> (d,)."""
    ...                                                      # one or two lines


# %% tags=["check"]
from vaelite.exercises import check_kl, check_projection, check_sample

print(check_projection(my_projection))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_projection(patch, mean, components):
    return mean + components.T @ (components @ (patch - mean))


print(check_projection(my_projection))

# %% [markdown]
# ### Explore 2: turn patterns off
#
# **Predict**, before you touch it: from how many patterns on can you no longer tell the copy from the original, if ever?

# %%
def draw_pca(vae, slices, row, pixel_mm, patterns, modality):
    x = slices.x[row, MODALITIES.index(modality)][None, None].float()
    z = vae.linear_encode(x)                                 # 1 k h w
    z[:, patterns:] = 0
    name = f"{z[:, :patterns].numel():,} numbers"
    return draw_reconstruction(x[0, 0], {name: vae.linear_decode(z)[0, 0]}, modality, pixel_mm, slices.mask[row])


explore(partial(draw_pca, pca, held_out, row, pixel_mm), "What goes first when numbers are few: bone, brain or air?",
        patterns=widgets.IntSlider(k // 4, 1, k), modality=widgets.Dropdown(options=list(picture), value=first))

# %%
def unit_psnr(x, reference):
    """Peak signal-to-noise ratio [dB] of images in [-1, 1]: range 2, one mean over all pixels."""
    return float(10 * torch.log10(4 / (x - reference).square().mean()))


steps = [n for n in (1, 2, 4, 8, 16, 32) if n <= k]
columns = {m: MODALITIES.index(m) for m in modalities}
x_held_out = {m: held_out.x[held_out.have[:, i], i][:, None].float() for m, i in columns.items()}
pca_db = {m: [] for m in modalities}
for m, x in x_held_out.items():
    z = pca.linear_encode(x)
    for n in steps:
        kept = torch.where(torch.arange(k).view(1, k, 1, 1) < n, z, 0.0)
        pca_db[m].append(unit_psnr(pca.linear_decode(kept).clamp(-1, 1), x))
gains = ", ".join(f"{m} {db[-1] - db[0]:+.1f} dB" for m, db in pca_db.items())
print(f"{steps[-1]} numbers a patch in place of {steps[0]}: {gains} (n = {len(held_out)} slices, validation)")
draw_quality([n * (size // f) ** 2 for n in steps], pca_db, n_pixels)

# %% [markdown]
# **Read.** PSNR (peak signal-to-noise ratio) is a logarithm: 20 dB is a root-mean-square error of 10 % of the range, and
# every +6 dB halves it. Find the line's value for the setting at which *you* stopped seeing a difference above. Whole
# slices count, air too, of validation patients, whom the PCA never saw. Thin bone and small cavities go first when numbers are
# few, smooth brain last; noise cannot be compressed. Yet a grainy CBCT may come out best: CT's scale spans 3000 HU, so its
# soft tissue and noise hardly count, while MR's range is its own contrast. So do not compare dB between modalities.
#
# ## 4 · From a point to a cloud: the variational autoencoder
#
# A VAE adds two things to PCA. Its encoder and decoder may be **curved** (small convolutional networks that add to
# the linear path), and its code is a **cloud** instead of a point. For each latent the encoder gives the mean $\mu$
# (`mean`) and the logarithm of the variance $\log \sigma^2$ (`logvar`) of a normal distribution $q(z|x)$, the
# *posterior*:
#
# $$ z = \mu + \sigma \, \epsilon, \qquad \epsilon \sim N(0, 1) $$
#
# Why so? Every point of a cloud must decode to the same slice, so the decoder must not jump between neighbouring
# points. Small errors in a latent then do small harm: just what a mapper between modalities needs.
#
# ### Try it 2: the reparameterisation trick
#
# Write $z$, given `mean`, `logvar` and $\epsilon$ (`noise`), tensors of any shape. Training works because the noise comes from
# outside: $z$ can be differentiated with respect to `mean` and `logvar`.

# %% tags=["exercise"]
def my_sample(mean, logvar, noise):
    ...                                                      # one line; note: logvar is log(sigma^2)


# %% tags=["check"]
print(check_sample(my_sample))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_sample(mean, logvar, noise):
    return mean + torch.exp(0.5 * logvar) * noise


print(check_sample(my_sample))

# %% [markdown]
# ### What a cloud costs
#
# Nothing yet keeps the encoder from shrinking every cloud to a point. The **Kullback-Leibler divergence** does: it
# says how many nats (1 nat = 1.44 bit) it takes to tell $q(z|x)$ from the prior $N(0, 1)$:
#
# $$ \mathrm{KL} = \mathbb{E}_{z \sim q}\left[\log q(z|x) - \log N(z; 0, 1)\right]
#    = \tfrac12 \left(\mu^2 + \sigma^2 - 1 - \log \sigma^2\right) $$
#
# (Kingma and Welling 2014, appendix B). By the book, training minimises the negative *evidence lower bound* (on how
# probable the model finds the data). Ours keeps its two parts, but L1 (mean absolute difference) plus SSIM is no likelihood that
# sums to 1, so it bounds nothing:
#
# $$ \mathcal L = \underbrace{|\hat x - x| + w_s\,(1 - \mathrm{SSIM})}_{\texttt{image}} +
#    \beta \, \underbrace{\mathrm{KL}/n_z}_{\texttt{kl\_per\_latent}} $$
#
# with $w_s$ = `cfg.loss.ssim`, $\beta$ = `cfg.loss.kl` and $n_z$ (`n_latents`) latents a slice. SSIM, structural similarity
# (Wang et al. 2004), compares small windows; 1 is equal. The paper publishes no losses: these are our choice.
#
# ### Try it 3: the divergence of one latent

# %% tags=["exercise"]
def my_kl(mu, logvar):
    ...                                                      # one line, in nats; tensors of any shape


# %% tags=["check"]
print(check_kl(my_kl))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_kl(mu, logvar):
    return 0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar)


print(check_kl(my_kl))

# %% [markdown]
# The check compared yours with a **Monte Carlo** estimate of the definition, which knows nothing of the formula. The
# library's `kl_divergence` sums yours over the latents of a slice.
#
# ## 5 · Train it
#
# One function, the same as behind `.venv/bin/vaelite vae --data data/phantom-laptop --run runs/phantom-laptop`. It fits
# the PCA, then trains the networks on single slices of all modalities; it is never told which modality it sees. A *step*
# takes a few random slices (a *batch*) and moves the weights down the slope of their loss; how far, says the *learning rate*.
#
# **Predict.** How many dB will the networks gain over PCA with the same number of latents? (+6 dB is half the error.)

# %%
my_guess_gain_db = None                                      # your number
train_vae(cfg, cases, run)
vae = load_vae(run)                                          # from the run folder: what the next lesson will get
draw_training(run.stages["vae"]["history"], "VAE")

# %%
vae_db = reconstruction_psnr(vae, held_out)                  # of the same slices as PCA's
gain_db = sum(vae_db[m] - pca_db[m][-1] for m in modalities) / len(modalities)
print(f"measured: {gain_db:+.2f} dB over PCA, mean of {len(modalities)} modalities, {len(held_out_cases)} validation "
      f"patient(s), n = {len(held_out)} slices.  You said {my_guess_gain_db}.")
print("of each: " + ", ".join(f"{m} {vae_db[m] - pca_db[m][-1]:+.1f} dB" for m in modalities))
draw_quality([n * (size // f) ** 2 for n in steps], pca_db, n_pixels, vae_db)

# %% [markdown]
# **Read.** The loss of the recorded steps (*records*) starts at PCA's, so judge the end by the first ones and not by the spike:
# there the learning rate moves the networks off PCA before they know where to. The KL grows as clouds shrink. The stars are the
# VAE, the end of each line PCA with as many numbers. If the gains are small, training was too short (profile `smoke`). A method
# that costs minutes has to beat one that costs a second.
#
# ### Explore 3: where is the error?

# %%
def draw_codes(pca, vae, slices, pixel_mm, modality, number):
    x = slices.x[number, MODALITIES.index(modality)][None, None].float()
    codes = {"PCA": pca.decode(pca.encode(x).mean)[0, 0], "VAE": vae.decode(vae.encode(x).mean)[0, 0]}
    return draw_reconstruction(x[0, 0], codes, modality, pixel_mm, slices.mask[number])


n_slices = int((held_out.case == 0).sum())                   # of the first validation patient
x = held_out.x[:n_slices, MODALITIES.index(first)][:, None].float()
pca_error, vae_error = ((code.decode(code.encode(x).mean) - x).abs().mean((1, 2, 3)) for code in (pca, vae))
most = int((pca_error - vae_error).argmax())
print(f"Slice {most} gains most in {first}: from {50 * pca_error[most]:.2f} to {50 * vae_error[most]:.2f} % of the range (mean "
      f"absolute error, whole slice).")
explore(partial(draw_codes, pca, vae, held_out, pixel_mm), "Where are both wrong: at edges, in bone, in the noise?",
        modality=widgets.Dropdown(options=list(picture), value=first),
        number=widgets.IntSlider(most, 0, n_slices - 1, description="slice"))

# %% [markdown]
# **Read.** Red is too high, blue too low. The errors follow edges, because an edge needs many patterns at once. How
# much worse are edges, and is it there that the VAE repairs?

# %%
coded = every_nth(held_out, 3)                               # every third slice is enough for what follows
codes = encode(vae, coded)                                   # codes.z: (n, k, h / f, w / f), variance about 1
posterior = codes.posterior
x = coded.x[coded.have][:, None].float()                     # (n, 1, h, w), all modalities mixed
x_decoded = codes.decoded[:, None]
inside = coded.mask[codes.row][:, None]
steepness = torch.stack(torch.gradient(x, dim=(-2, -1))).square().sum(0).sqrt()
steep = steepness > steepness[inside][:1_000_000].quantile(0.9)
print(f"mean absolute error in the body [% of the range], n = {len(x)} pictures of {len(coded)} slices, validation")
found = {}
for name, image in {"PCA": pca.linear_decode(pca.linear_encode(x)).clamp(-1, 1), "VAE": x_decoded}.items():
    error = 100 * (image - x).abs() / 2                      # x goes from -1 to 1
    edge, elsewhere = found[name] = error[inside & steep].mean(), error[inside & ~steep].mean()
    print(f"{name}: {edge:.2f} in the steepest tenth of the pixels, {elsewhere:.2f} elsewhere: {edge / elsewhere:.1f} x more")
edge, elsewhere = (1 - vae_error / pca_error for pca_error, vae_error in zip(found["PCA"], found["VAE"]))
where = ("little in both (a tie)" if max(abs(edge), abs(elsewhere)) < TIE else "alike in both" if abs(edge - elsewhere) < TIE
         else "more at edges" if edge > elsewhere else "more elsewhere")
print(f"The VAE takes {100 * edge:.1f} % off PCA's error at edges, {100 * elsewhere:.1f} % elsewhere: {where}.")

# %% [markdown]
# ## 6 · How exact must a latent be?
#
# Lesson 02 will **predict** latents, and predictions are never exact. So we add noise of a known size to the
# latents and decode. One knob, five values. Latents have about unit variance, so 0.1 is an error of 10 %.
#
# **Predict.** At which noise is the picture as bad as PCA with half of its patterns?

# %%
my_guess_noise = None                                        # one of the five: 0.0, 0.1, 0.3, 0.7 or 1.0


def mean_psnr(decoded):
    """PSNR [dB] of all codes' pictures (n, 1, h, w), mean of the modalities as in section 5."""
    found = [unit_psnr(decoded[codes.modality == m].clamp(-1, 1), x[codes.modality == m]) for m in codes.modality.unique()]
    return sum(found) / len(found)


generator = torch.Generator().manual_seed(0)
noise = torch.randn(posterior.mean.shape, generator=generator)
print(f"{'noise [SD of a latent]':>24}{'PSNR [dB]':>12}   (mean of modalities, n = {len(x)} pictures of {len(coded)} slices)")
noisy_db = {}
for level in (0.0, 0.1, 0.3, 0.7, 1.0):
    noisy_db[level] = mean_psnr(torch.cat([vae.decode(part) for part in (posterior.mean + level * noise).split(32)]))
    print(f"{level:>24}{noisy_db[level]:>12.1f}")
half = torch.where(torch.arange(k).view(1, k, 1, 1) < k // 2, pca.linear_encode(x), 0.0)
half_db = mean_psnr(pca.linear_decode(half))
print(f"{f'PCA, {k // 2} of {k} patterns':>24}{half_db:>12.1f}   (the same slices, no noise)")
as_bad = [level for level, db in noisy_db.items() if db <= half_db]
print(f"As bad as that or worse: {f'noise from {as_bad[0]} on' if as_bad else 'none of the five'}.  "
      f"You said {my_guess_noise}.")

# %%
nats = kl_divergence(posterior.mean, posterior.logvar)       # (n,) nat per slice
start, sigma = (code.logvar.mul(0.5).exp().median() for code in (pca.encode(x), posterior))    # pca: networks untrained
kilobytes = nats.mean() / math.log(2) / 8 / 1000
assert (nats >= 0).all(), "a divergence is never negative"
print(f"A slice costs {nats.mean():,.0f} nats = {kilobytes:.1f} kB; as 16-bit pixels {2 * n_pixels / 1000:.1f} kB. "
      f"The median cloud has sigma = {sigma:.3f}, before training {start:.3f}; beta = {cfg.loss.kl:g}, n = {len(nats)} pictures.")

# %% [markdown]
# **Read.** The table says how exact lesson 02 has to be. The kilobytes are no contest: the code is lossy, the pixels are not.
# The clouds (the median $\sigma$) start small, our choice, and stay small because $\beta$ is. So this VAE is a good
# **tokenizer**, and a bad **generator**:
#
# ### Break it: decode latents that nobody encoded
#
# If the clouds filled the prior, any draw from $N(0, 1)$ would decode to a head. **Predict**: will it?

# %%
draws = torch.randn(3, *posterior.mean.shape[1:], generator=generator)
alike = [float(torch.corrcoef(torch.stack([z[:, 0, :, 1:].flatten(), z[:, 0, :, :-1].flatten()]))[0, 1])    # side by side
         for z in (posterior.mean, draws)]
print(f"Latents side by side (channel 1) correlate with r = {alike[0]:.2f} in {len(x)} coded slices, {alike[1]:.2f} in "
      f"{len(draws)} draws; the clouds have sigma {sigma:.3f}, the prior 1.")
dreams = {f"draw {number}": image[0] for number, image in enumerate(vae.decode(draws), 1)}
finding = f"Draws from the prior: neighbours correlate with r = {alike[1]:.2f}, in coded slices with r = {alike[0]:.2f}"
draw_slices(dreams, "model space", pixel_mm, finding)

# %% [markdown]
# **Read.** Neighbouring latents of a real head belong together ($r$ above); independent draws know nothing of it. With a large
# $\beta$ the clouds would grow to $\sigma = 1$ and the mean to 0: every slice would get the same code, and the decoder would
# ignore it. That is **posterior collapse**: a *channel* (one of the `k` numbers, at all places) whose KL is near 0 says nothing.
#
# ### Ablate: other codes
#
# Made once: tokenizers trained equally long on 64 x 64 slices of phantom patients (`tests/benchmarks/tokenizers.py`). *KL-8*: `f
# = 8`, with 4 channels or our 16; *KL-16*: `f = 16`, 16 channels; *VQ-16* (van den Oord et al. 2017) keeps of each patch only
# the index of the nearest of 1,024 learnt vectors. *MONAI's*: another library's network. KID (Bińkowski et al. 2018), a distance
# between crowds of pictures, is 0 for equal ones.
#
# **Predict.** Is it better to keep 256 numbers as 4 of each small patch or as 16 of each large one? And between which two
# $\beta$ does a code fall nearly silent?

# %%
from vaelite.evaluation.studies import load_study, tokenizer_sentence, tokenizer_table


def rms_percent(db):
    """Root-mean-square error [% of the range] of a PSNR [dB]."""
    return 100 * 10 ** (-db / 20)


(study,) = load_study("tokenizers_64px_*.json")
print(f"{study['seconds']:g} processor seconds each, one seed, n = {study['test_patients']} test patients; means of modalities")
print(tokenizer_sentence(study))
kl_8 = next(of["quality"] for of in study["tokenizers"] if of["tokenizer"] == "KL-8")
print("RMS error of KL-8 [% of the range]: " + ", ".join(f"{m} {rms_percent(q['psnr']):.1f}" for m, q in kl_8.items()))
Markdown(tokenizer_table(study))

# %% [markdown]
# **Read.** Fewer numbers cost dB; of KL-8, KL-16 and VQ-16 the indices cost most, at a fiftieth of the bits stored. The column
# KL is what a latent tells: a larger $\beta$ (the first row has ours, `cfg.loss.kl`) keeps fewer nats, and the picture is lost
# before a channel has collapsed (printed). A random start is behind PCA's after the same time; *MONAI's*, which also starts so,
# takes far fewer steps in it.
#
# ## 7 · One space for all modalities: where do CT and MR of one head lie?
#
# Nobody told the VAE about modalities. **Predict**: is the CT of a slice closer to the MR of the *same* slice, or
# to the CT of a slice above it? (Every third slice is coded.)
#
# ### Explore 4: the map
#
# Each point is the code of one slice in one modality. *PCA* shows the two directions in which whole codes differ most;
# *t-SNE* (van der Maaten and Hinton 2008) bends the plane so that neighbours stay neighbours, and gives up distances.
# Beside the map, the chosen code is decoded, and with it the **nearest** code of every other modality, measured in all
# latents. **Find**: a slice whose nearest neighbours are all the slice itself. Is there one where none is? (Its slice $i$ of the
# first patient is slice $3(i - 1)$ of explorer 3.)
#
# A map is a shadow of the cloud. Below it are three directions, to be turned. **Find** the view in which CT and MR separate best,
# then the share of the variance in the title: how much of the space do you still not see?

# %%
display(explore_latent_map(codes, pixel_mm, row // 3))
explore_latent_cloud(codes)

# %%
flat = codes.z.flatten(1)
apart = torch.cdist(flat, flat) / flat.shape[1] ** 0.5       # (n, n), RMS difference of a latent
own_slice = [[int(codes.row[number]) == int(row_of_code) for number in nearest.values()]
             for row_of_code, nearest in zip(codes.row, neighbours(codes.z, codes.modality))]
print(f"Explore 4: of {len(flat)} codes {sum(map(all, own_slice))} have the slice itself as the nearest of every other modality, "
      f"{sum(not any(of_code) for of_code in own_slice)} of none.")
closest = torch.where(torch.eye(len(flat)).bool(), math.inf, apart).argmin(1)
mr = torch.tensor([codes.modality_of(number) in ("T1c", "T2w") for number in range(len(flat))])
if mr.any():
    print(f"{100 * mr[closest[mr]].float().mean():.0f} % of the {mr.sum()} MR codes lie next to an MR, by chance "
          f"{100 * (mr.sum() - 1) / (len(flat) - 1):.0f} %.")
print(f"PCA's two directions hold {100 * principal_directions(codes.z).share[:2].sum():.0f} % of the variance; all of it counts "
      f"here and below.")

# %%
gap_mm = 3 * held_out_cases[0].spacing_mm[0]
patient, of = coded.case[codes.row], {m: (codes.modality == i).nonzero()[:, 0] for m, i in columns.items()}
print(f"distance, RMS of a latent, medians; any two codes: {torch.pdist(flat).median() / flat.shape[1] ** 0.5:.2f} "
      f"(n = {len(flat) * (len(flat) - 1) // 2} pairs)")
beside = {}                                                  # {what: its distance}
for m in modalities:
    block = apart[of[first]][:, of[m]]                       # from each code of the one to each of the other
    up = codes.row[of[m]] - codes.row[of[first]][:, None]    # how many coded slices higher
    if m == first:
        above = block[(up == 1) & (patient[of[m]] == patient[of[m]][:, None])]
        beside[f"the {first} {gap_mm:g} mm above"] = above.median()
    else:
        beside[f"the {m} of the same slice"] = block[up == 0].median()
        hits = int((up.gather(1, block.argmin(1, keepdim=True)) == 0).sum())
        print(f"{first} to {m}: same slice {block[up == 0].median():.2f}, another {block[up != 0].median():.2f}; the own slice "
              f"is the nearest {m} in {hits} of {int((up == 0).sum())}, by chance 1 in {len(of[m])}")
print(f"nearest to a {first}: " + ", ".join(f"{what} {beside[what]:.2f}" for what in sorted(beside, key=beside.get)))

# %% [markdown]
# **Read.** A shared space does not mean one place for one anatomy. A CT has its CBCT beside it anyway, so read the line of MR
# alone: above chance the kinds lie apart, at chance they are mixed. PCA shows a part of the variance and t-SNE no distances:
# trust the numbers. If the same slice is nearer than another, and more often the nearest than by chance, codes of different
# modalities share some anatomy. They need not: the modality, too, is part of what draws the slice again.
#
# ### Explore 5: walk through the latent space
#
# We start at one slice and walk along a direction, in standard deviations (SD), decoding on the way. *Principal*: the
# directions of the map, sorted by variance. *Channel*: one of the `k` numbers of every patch at once. At step 0 stands
# the decoded slice. **Predict**: what does channel 1 do? (Section 3 drew the patterns.)

# %%
for channel in range(min(2, k)):
    moved = codes.z.clone()
    moved[:, channel] += codes.z[:, channel].std()
    change = 50 * (torch.cat([vae.decode(part) for part in moved.split(32)]).clamp(-1, 1) - x_decoded)
    print(f"channel {channel + 1}, +1 SD: {change.mean():+.1f} % of the range on average, varying by {change.std():.1f} % "
          f"(n = {len(moved)} codes)")
explore_walk(vae, codes, row // 3, pixel_mm)

# %% [markdown]
# **Read.** Channel 1 makes the whole picture brighter or darker; channel 2 slopes each patch alone: the same stripe every `f`
# pixels, for a channel knows nothing of the next patch. Principal directions move tissue over the whole head. They are sorted by
# variance and not by meaning, so no single one is "the modality", and a few SD away no head is left.
#
# ### Explore 6: morph
#
# A straight line between two codes (two patients where there are two), beside the plain cross-fade of the pictures. Press
# play. **Predict**: is the slice halfway one picture, or two on top of each other?

# %%
explore_morph(vae, codes, pixel_mm)

# %% [markdown]
# **Read.** Two on top of each other: the headline says how little the morph differs from a cross-fade. For PCA they are the same
# by algebra, and this VAE is nearly linear. The code of a place describes that place: half of *bone here* and half of *air here*
# is not *bone a centimetre further*. To move an outline a code must know that it is one. That is what a tokenizer gives up to be
# exact.
#
# ## 8 · Check yourself
#
# 1. The paper's KL-16 codes a slice of 256 x 256 with `f = 16`, `k = 16`. How many latents is that? (Checked below.)
# 2. Why does the encoder give the *logarithm* of the variance?
# 3. A colleague shows a VAE with a KL of 0.00 nats and is pleased. What has happened?

# %%
my_latents = None                                            # your answer to question 1
right = my_latents == (256 // 16) ** 2 * 16
print("not attempted yet" if my_latents is None else "correct" if right else "no: count patches, times numbers each")

# %% [markdown]
# <details><summary>Answers 2 and 3</summary>
#
# 2: A variance must be positive; its logarithm may be any number, and halving and doubling are equal steps. 3: Posterior
# collapse: every slice has the code of the prior, so the code says nothing and the decoder draws the mean of all slices.
# </details>

# %%
few = min(range(len(steps)), key=lambda i: abs(steps[i] * (size // f) ** 2 - 256))
tie_db = 0.5                                                 # closer is a tie; our choice
rows = {f"{steps[few] * (size // f) ** 2:,} numbers (PCA)": {m: db[few] for m, db in pca_db.items()},
        f"{n_latents:,} numbers (VAE)": vae_db}
print(f"Can a few hundred numbers stand for a slice? RMS error [% of the range], whole slices (validation, n = {len(held_out)}):")
for name, db in rows.items():
    print(f"{name:>24}: " + ", ".join(f"{m} {rms_percent(db[m]):.1f}" for m in modalities))
pair = held_out.x[held_out.have[:, [MODALITIES.index("CBCT"), MODALITIES.index("CT")]].all(1)].float()
if len(pair):                                                # a scale: what separates the two of one physics
    copy_db = unit_psnr(pair[:, MODALITIES.index("CBCT")], pair[:, MODALITIES.index("CT")])
    print(f"{'the CBCT in place of CT':>24}: CT {rms_percent(copy_db):.1f}")
    better = {name: db["CT"] - copy_db for name, db in rows.items()}
    answers = [f"{'a tie' if abs(db) < tie_db else 'yes' if db > 0 else 'no'} with {name}" for name, db in better.items()]
    print(f"If it may lose no more of a CT than taking the CBCT for it does: {'; '.join(answers)}.")
all_db, pca_all_db = (sum(db) / len(db) for db in ([vae_db[m] for m in modalities], [pca_db[m][-1] for m in modalities]))
print("A network trained to code as few numbers, on other data: KL-8, section 6.")
verdict = "a tie" if abs(gain_db) < tie_db else "the VAE wins" if gain_db > 0 else "PCA wins"
print(f"{n_latents:,} numbers: VAE {all_db:.1f} dB, PCA {pca_all_db:.1f} dB, means of modalities: {verdict} ({profile_name}).")
print(f"saved: {run.file_of('vae')}, {run.stages['vae']['parameters']:,} parameters, {run.stages['vae']['seconds']:.0f} s")

# %% [markdown]
# **What we did.** We coded slices of all modalities with one VAE that starts at PCA, measured what is lost against PCA with as
# many numbers, and looked at where modalities lie.
#
# **What it cannot do.** It loses fine structure, most at edges. It generates no new heads. Our numbers (but for the study's)
# come from validation patients of this data set; on a phantom they say nothing about patients. Nothing here is a medical device.
#
# **Next.** Lesson 02 freezes this VAE and learns to map the latents of one modality to those of another. To use
# your own patients, write case folders (README, "your own data") and set `data_dir` and `run_dir` above.
