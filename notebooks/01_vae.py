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
# latents, so whatever is lost here is lost for good.
#
# | | |
# |---|---|
# | **Goal** | build, train and judge a shared variational autoencoder (VAE), and know its rival: PCA |
# | **Time** | smoke: about 1 min · laptop: about 2 min · paper: needs a GPU, not yet measured |
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

from vaelite.cases import load_cases
from vaelite.explore import explore, show_source
from vaelite.explorers import encode, explore_latent_map, explore_morph, explore_walk, principal_directions
from vaelite.figures import (draw_components, draw_modalities, draw_quality, draw_reconstruction, draw_slices, draw_training,
                             mean_error)
from vaelite.intensity import MODALITIES, hu_to_unit
from vaelite.losses import kl_divergence
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.slices import every_nth, load_slices
from vaelite.stages import load_vae, reconstruction_psnr, train_vae
from vaelite.vae import VAE

cfg = profile(profile_name)
run = open_run(run_dir)

# %% [markdown]
# ## 1 · Whose heads are these?
#
# `load_cases` checks every file once: one grid for each patient, CT in HU, nobody in two splits. **Training**
# patients teach the network. **Validation** patients judge it in lessons 01 to 03, where we still make choices.
# **Test** patients are touched once, in lesson 04.

# %%
cases = load_cases(data_dir)
modalities = [m for m in MODALITIES if any(m in case.modalities for case in cases)]
for name in ("train", "validation", "test"):
    print(f"{name:>10}: {sum(case.split == name for case in cases)} patients")
print(f"source: {cases[0].info.get('source', 'not stated')}\nmodalities: {', '.join(modalities)}")
first = "CT" if "CT" in modalities else modalities[0]        # shown first where there is a choice
if missing := sorted(set(MODALITIES) - set(modalities)):
    print(f"This data set has no {' and no '.join(missing)}: what follows leaves them out.")

# %%
train = load_slices([case for case in cases if case.split == "train"], cfg.data.size)
held_out_cases = [case for case in cases if case.split == "validation"]
held_out = load_slices(held_out_cases, cfg.data.size)
grid = held_out_cases[0].volume(held_out_cases[0].modalities[0]).shape
pixel_mm = held_out_cases[0].spacing_mm[1] * max(grid[1:]) / cfg.data.size
row = int((held_out.case == 0).sum() * 0.6)                  # a slice through the face of the first validation patient
picture = {m: held_out.x[row, i].float() for i, m in enumerate(MODALITIES) if held_out.have[row, i]}
draw_modalities(picture, pixel_mm, held_out.mask[row])

# %% [markdown]
# **Read.** The same anatomy four times (or as often as your data have it). CT and CBCT measure X-ray attenuation in
# Hounsfield units: water 0, air -1000, dense bone above 1000. MR has no unit: T1c makes fat and contrast agent
# bright, T2w water; bone and air are dark in both. For the network all become `x` in [-1, 1]: HU from -1000 to 2000
# linearly, MR from its 0.5 to its 99.5 percentile in the body.
#
# ### Explore 1: take a cone-beam CT apart
#
# CBCT and CT both measure attenuation, so why do they differ? The phantom's generator (`data_scripts/phantom`, its data
# card is `data_scripts/PHANTOM.md`) builds every scan step by step, and each step has a switch. Here it scans a slab of
# one phantom head at the height of the mouth, with every setting in turn. *Original CT* is the anatomy itself, before
# any scanner.
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
scatters = {"no scatter": (0.0, 0.0), "corrected": (0.5, 0.15), "not corrected": (0.5, 1.0)}    # to primary, left
scans = {}                                                   # scanned once: the picture then follows the controls
for scatter, (amount, left) in scatters.items():
    for views in (60, 120, 360):
        for noise in (False, True):
            settings = CbctSettings(**IDEAL | {"scatter_to_primary": (amount, amount), "scatter_left": (left, left),
                                               "noise": noise, "views": views, "arc_degree": 360.0})
            scans[scatter, views, noise] = simulate_cbct(hu, head.grid.spacing_mm, 0, settings)[middle]
print(f"{len(scans)} scans of {hu.shape[0]} x {hu.shape[1]} x {hu.shape[2]} voxels")


# %%
def draw_scan(anatomy, scans, mask, pixel_mm, scatter, views, noise):
    scan = hu_to_unit(scans[scatter, views, noise])
    return draw_reconstruction(hu_to_unit(anatomy), {f"CBCT, {views} views": scan}, "CT", pixel_mm, mask)


draw = partial(draw_scan, hu[middle], scans, head.mask[mouth][middle], head.grid.spacing_mm[2])
explore(draw, "Which switch hurts most, and what is its sign in the picture: a cup, streaks or grain?",
        scatter=list(scatters), views=widgets.SelectionSlider(options=(60, 120, 360), value=360),
        noise=widgets.Checkbox(True))

# %%
def scan_error_hu(scatter, views, noise):
    """Mean absolute error in the body [HU] of one scan against the anatomy."""
    scan, anatomy = hu_to_unit(scans[scatter, views, noise]), hu_to_unit(hu[middle])
    return mean_error(scan, anatomy, "CT", head.mask[mouth][middle])


ideal_hu = scan_error_hu("no scatter", 360, False)
faults = {"a sixth of the views": ("no scatter", 60, False), "no scatter correction": ("not corrected", 360, False),
          "photon noise": ("no scatter", 360, True)}
added_hu = {name: scan_error_hu(*settings) - ideal_hu for name, settings in faults.items()}
print(f"The best scan errs by {ideal_hu:.0f} HU. Each fault alone adds:")
for name in sorted(added_hu, key=added_hu.get, reverse=True):
    print(f"{added_hu[name]:6.1f} HU  {name}")

# %% [markdown]
# **Read.** MAE is the mean absolute error, here in the body. Too few views draw streaks, scatter left in the data a cup
# and dark bands between bones, photons grain. Even the best scan is not free of error: its voxels blur every edge, and
# a grain of a few HU hardly adds to that. A network that turns CBCT into CT has to undo all of this at once, and
# nothing in the picture says which is which.
#
# MR has switches too. The contrast agent gadolinium shortens T1 where blood vessels leak: mucosa, glands, tumour. Below,
# the T1 signal of the same anatomy before any scanner, without and with it, on one grey scale.

# %%
t1c = MODALITY_COLUMNS.index("T1c")
before, after = (patient.planned.values[t1c][mouth][middle] for patient in (inject(head, dose=0.0), head))
signals = {"before gadolinium": before, "after": after, "what it adds": after - before}
shown = {title: (2 * signal / after.max() - 1).clip(-1, 1) for title, signal in signals.items()}
finding = f"What gadolinium lights up (tumour: {head.traits.tumour_site})"
draw_slices(shown, "T1c", head.grid.spacing_mm[2], finding, head.mask[mouth][middle])

# %% [markdown]
# ## 2 · How many numbers?
#
# The VAE (called *tokenizer* later) cuts a slice into patches of `f × f` pixels and keeps `k` numbers of each. Our `f`
# and `k` are in `cfg.vae`. The paper calls its own *KL-16*; in the literature this name stands for `f = 16`, `k = 16`.
#
# **Predict.** How many pixels does one of our slices have, and how many latents? Write it down, then run.

# %%
my_guess_latents = None                                      # your number
f, k, size = cfg.vae.factor, cfg.vae.latent_channels, cfg.data.size
n_pixels, n_latents = size**2, (size // f) ** 2 * k
print(f"{size} x {size} = {n_pixels:,} pixels; ({size} / {f})^2 x {k} = {n_latents:,} latents: "
      f"{n_pixels / n_latents:g} x fewer.  You said {my_guess_latents}.")

# %% [markdown]
# ## 3 · A rival that needs no training: PCA
#
# Before any network: what does the best **linear** code achieve? Principal component analysis finds the `k`
# patterns whose weighted sum comes closest to every patch, on average, in closed form. With the mean patch $m$ and
# the orthonormal patterns $c_1 \dots c_k$ (`patch_mean`, `components`):
#
# $$ z_j = \frac{c_j \cdot (p - m)}{s_j}, \qquad \hat p = m + \sum_j s_j \, z_j \, c_j $$
#
# with $s_j$ (`deviations`) the standard deviation along $c_j$, so every latent has variance 1.
#
# A VAE whose networks have not been trained is exactly this: we let them start at zero.

# %%
x_train = train.x[train.have][::8, None].float()             # every 8th slice of any modality: (b, 1, h, w) in [-1, 1]
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
# Write $\hat p$ for one patch, as above, without $s_j$: what the first formula divides by, the second multiplies by.
# `components` has one pattern in each row.

# %% tags=["exercise"]
def my_projection(patch, mean, components):
    """patch, mean: (p,); components: (k, p), orthonormal rows -> (p,)."""
    ...                                                      # one or two lines


# %% tags=["check"]
def check_projection(project):
    mean, components = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    found = project(mean, mean, components)
    if found is None:
        return "not attempted yet"
    assert found.shape == mean.shape, f"a patch has {tuple(mean.shape)} numbers, yours {tuple(found.shape)}"
    assert torch.allclose(found, mean), "the mean patch must come back as it is: subtract the mean first, add it last"
    inside = mean + 2 * components[0] - components[1]
    assert torch.allclose(project(inside, mean, components), inside), "a sum of the patterns must come back unchanged"
    outside = mean + torch.tensor([0.8, -0.6, 0.0])          # at right angles to both patterns
    assert torch.allclose(project(outside, mean, components), mean), "what no pattern carries must be lost"
    return "correct"


print(check_projection(my_projection))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_projection(patch, mean, components):
    return mean + components.T @ (components @ (patch - mean))


print(check_projection(my_projection))

# %% [markdown]
# ### Explore 2: turn patterns off
#
# **Predict**, before you touch it: from how many patterns on can you no longer tell the copy from the original?

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
draw_quality([n * (size // f) ** 2 for n in steps], pca_db, n_pixels)

# %% [markdown]
# **Read.** PSNR (peak signal-to-noise ratio) is a logarithm: +6 dB means half the root-mean-square error. To get a
# feeling for it, find the line's values for the settings at which *you* stopped seeing a difference above. Whole
# slices count here, air too, of validation patients, whom the PCA never saw. Smooth pictures are cheap; noise cannot
# be compressed, because what is random in one pixel is not told by its neighbours. Yet a grainy CBCT may come out
# best: CT's scale spans 3000 HU, so its soft tissue and noise hardly count, while MR's range is its own contrast. So
# do not compare dB between modalities.
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
# Write $z$, given `mean`, `logvar` and the noise. Training works because the noise comes from outside: $z$ can be
# differentiated with respect to `mean` and `logvar`.

# %% tags=["exercise"]
def my_sample(mean, logvar, noise):
    ...                                                      # one line; note: logvar is log(sigma^2)


# %% tags=["check"]
def check_sample(sample):
    def z(*numbers):                                         # tensors go in, as in training
        return sample(*(torch.tensor(number, dtype=torch.double) for number in numbers))

    if z(0.0, 0.0, 1.0) is None:
        return "not attempted yet"
    assert abs(z(3.0, 0.0, 0.0) - 3) < 1e-9, "without noise, z is the mean"
    assert abs(z(0.0, 0.0, 2.0) - 2) < 1e-9, "logvar 0 means sigma 1: the noise passes unchanged"
    assert abs(z(0.0, math.log(9), 1.0) - 3) < 1e-9, "variance 9 is sigma 3: take half of logvar before exp"
    assert abs(z(5.0, math.log(9), -1.0) - 2) < 1e-9, "the mean is added to the noise, and noise has a sign"
    return "correct"


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
# $$ \mathrm{KL} = \mathbb{E}_{z \sim q}\left[\log q(z|x) - \log p(z)\right]
#    = \tfrac12 \left(\mu^2 + \sigma^2 - 1 - \log \sigma^2\right) $$
#
# (Kingma and Welling 2014, appendix B). Training minimises the negative *evidence lower bound* (a lower bound on how
# probable the model finds the data), in our weights
#
# $$ \mathcal L = \underbrace{|\hat x - x| + w_s\,(1 - \mathrm{SSIM})}_{\texttt{image}} +
#    \beta \, \underbrace{\mathrm{KL}/n}_{\texttt{kl\_per\_latent}} $$
#
# with $w_s$ = `cfg.loss.ssim`, $\beta$ = `cfg.loss.kl` and $n$ latents a slice. SSIM, structural similarity, compares
# small windows (lesson 03); 1 is equal. The paper publishes no losses: these are our choice.
#
# ### Try it 3: the divergence of one latent

# %% tags=["exercise"]
def my_kl(mu, logvar):
    ...                                                      # one line, in nats


# %% tags=["check"]
def check_kl(kl):
    def nats(*numbers):                                      # tensors go in, as in training
        return kl(*(torch.tensor(number, dtype=torch.double) for number in numbers))

    if nats(0.0, 0.0) is None:
        return "not attempted yet"
    assert abs(nats(0.0, 0.0)) < 1e-9, "the prior is 0 nats from itself"
    assert abs(nats(1.0, 0.0) - 0.5) < 1e-9, "moving mu by one sigma costs half a nat"
    assert nats(0.0, math.log(0.01)) > 0, "a divergence is never negative: look at the sign of logvar"
    z = 0.5 + 0.2 * torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    log_ratio = -0.5 * ((z - 0.5) / 0.2) ** 2 - math.log(0.2) + 0.5 * z**2
    difference = abs(float(nats(0.5, math.log(0.04)) - log_ratio.mean()))
    assert difference < 0.02, f"200,000 draws disagree by {difference:.2f} nat: sigma^2 is exp(logvar); all terms?"
    return "correct"


print(check_kl(my_kl))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_kl(mu, logvar):
    return 0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar)


print(check_kl(my_kl))

# %% [markdown]
# The library's version does the same for a whole slice. The check above compared yours with a **Monte Carlo**
# estimate of the definition, which knows nothing of the formula.

# %%
show_source(kl_divergence)

# %% [markdown]
# ## 5 · Train it
#
# One function, the same as behind `.venv/bin/vaelite vae --data data/phantom-laptop --run runs/phantom-laptop`. It fits
# the PCA, then trains the networks on single slices of all modalities; it is never told which modality it sees.
#
# **Predict.** How many dB will the networks gain over PCA with the same number of latents? (+6 dB is half the error.)

# %%
my_guess_gain_db = None                                      # your number

# %%
train_vae(cfg, cases, run)
vae = load_vae(run)                                          # from the run folder: what the next lesson will get

# %%
draw_training(run.stages["vae"]["history"], "VAE")

# %%
vae_db = reconstruction_psnr(vae, held_out)                  # of the same slices as PCA's
gain_db = sum(vae_db[m] - pca_db[m][-1] for m in modalities) / len(modalities)
print(f"measured: {gain_db:+.1f} dB over PCA, mean of {len(modalities)} modalities, {len(held_out_cases)} validation "
      f"patients, n = {len(held_out)} slices.  You said {my_guess_gain_db}.")
draw_quality([n * (size // f) ** 2 for n in steps], pca_db, n_pixels, vae_db)

# %% [markdown]
# **Read.** The stars are the VAE, the end of each line is PCA with as many numbers. If the star is hardly higher,
# training was too short to matter: at profile `smoke` that is so. A method that costs minutes has to beat one that
# costs a second; always print both.
#
# ### Explore 3: where is the error?

# %%
def draw_codes(pca, vae, slices, pixel_mm, modality, slice):
    x = slices.x[slice, MODALITIES.index(modality)][None, None].float()
    codes = {"PCA": pca.decode(pca.encode(x).mean)[0, 0], "VAE": vae.decode(vae.encode(x).mean)[0, 0]}
    return draw_reconstruction(x[0, 0], codes, modality, pixel_mm, slices.mask[slice])


n_slices = int((held_out.case == 0).sum())                   # of the first validation patient
explore(partial(draw_codes, pca, vae, held_out, pixel_mm), "Where does the VAE repair what PCA gets wrong?",
        modality=widgets.Dropdown(options=list(picture), value=first), slice=widgets.IntSlider(row, 0, n_slices - 1))

# %% [markdown]
# **Read.** Red is too high, blue too low. The errors follow edges, because an edge needs many patterns at once. How
# much worse are edges? Let us measure instead of trusting the eye.

# %%
coded = every_nth(held_out, 3)                               # every third slice is enough for what follows
codes = encode(vae, coded)                                   # each modality of each slice: one code, and its picture
posterior = codes.posterior
x = coded.x[coded.have][:, None].float()                     # (n, 1, h, w), all modalities mixed
x_decoded = codes.decoded[:, None]

# %%
inside = coded.mask[codes.row][:, None]
steepness = torch.stack(torch.gradient(x, dim=(-2, -1))).square().sum(0).sqrt()
steep = steepness > steepness[inside][:1_000_000].quantile(0.9)
error = (x_decoded - x).abs() / 2                            # of the range: x goes from -1 to 1
edge, elsewhere = error[inside & steep].mean(), error[inside & ~steep].mean()
print(f"mean absolute error in the body: {edge:.3f} of the range in the steepest tenth of the pixels, "
      f"{elsewhere:.3f} elsewhere: {edge / elsewhere:.1f} x more (n = {len(x)} slices, validation)")

# %% [markdown]
# ## 6 · How exact must a latent be?
#
# Lesson 02 will **predict** latents, and predictions are never exact. So we add noise of a known size to the
# latents and decode. One knob, four values. Latents have about unit variance, so 0.1 is an error of 10 %.
#
# **Predict.** At which noise is the picture as bad as PCA with half of its patterns?

# %%
my_guess_noise = None                                        # one of the four: 0.0, 0.1, 0.3 or 1.0

# %%
generator = torch.Generator().manual_seed(0)
noise = torch.randn(posterior.mean.shape, generator=generator)
print(f"{'noise [SD of a latent]':>24}{'PSNR [dB]':>12}   (one mean over {len(x)} slices of all modalities)")
noisy_db = {}
for level in (0.0, 0.1, 0.3, 1.0):
    noisy = torch.cat([vae.decode(part) for part in (posterior.mean + level * noise).split(32)])
    noisy_db[level] = unit_psnr(noisy.clamp(-1, 1), x)
    print(f"{level:>24}{noisy_db[level]:>12.1f}")

# %%
half = torch.where(torch.arange(k).view(1, k, 1, 1) < k // 2, pca.linear_encode(x), 0.0)
half_db = unit_psnr(pca.linear_decode(half).clamp(-1, 1), x)
print(f"{f'PCA, {k // 2} of {k} patterns':>24}{half_db:>12.1f}   (the same slices, no noise)")
as_bad = [level for level, db in noisy_db.items() if db <= half_db]
print(f"As bad as that or worse: {f'noise from {as_bad[0]} on' if as_bad else 'none of the four'}.  "
      f"You said {my_guess_noise}.")

# %%
nats = kl_divergence(posterior.mean, posterior.logvar)       # (n,) nat per slice
sigma = posterior.logvar.mul(0.5).exp().median()
kilobytes = nats.mean() / math.log(2) / 8 / 1000
assert (nats >= 0).all(), "a divergence is never negative"
print(f"A slice costs {nats.mean():,.0f} nats = {kilobytes:.1f} kB; as 16-bit pixels {2 * n_pixels / 1000:.1f} kB. "
      f"The median cloud has sigma = {sigma:.3f}.")

# %% [markdown]
# **Read.** The table says how exact lesson 02 has to be. The kilobytes are a scale, not a contest: the code is
# lossy, the pixels are not. And the encoder chose its clouds (the median $\sigma$) much smaller than 1, because
# $\beta$ is tiny. So this VAE is a good **tokenizer**, and a bad **generator**. See what that means:
#
# ### Break it: decode latents that nobody encoded
#
# If the clouds filled the prior, any draw from $N(0, 1)$ would decode to a head. **Predict**: will it?

# %%
draws = torch.randn(3, *posterior.mean.shape[1:], generator=generator)
dreams = {f"draw {number}": image[0] for number, image in enumerate(vae.decode(draws), 1)}
draw_slices(dreams, "model space", pixel_mm,
            f"No heads: independent draws from the prior (clouds have sigma {sigma:.2f}, the prior 1)")

# %% [markdown]
# **Read.** Neighbouring latents of a real head belong together; independent draws know nothing of it. With a large
# $\beta$ the clouds would grow to $\sigma = 1$ and the mean to 0: every slice would get the same code, and the
# decoder would ignore it. That is **posterior collapse**. Between the two, $\beta$ is a choice.
#
# ## 7 · One space for all modalities: where do CT and MR of one head lie?
#
# Nobody told the VAE about modalities. **Predict**: is the CT of a slice closer to the MR of the *same* slice, or
# to the CT of a slice above it? (We coded every third slice; how many millimetres that is will be printed.)
#
# ### Explore 4: the map
#
# Each point is the code of one slice in one modality. *PCA* shows the two directions in which whole codes differ most;
# *t-SNE* (van der Maaten and Hinton 2008) bends the plane so that neighbours stay neighbours, and gives up distances.
# Beside the map, the chosen code is decoded, and with it the **nearest** code of every other modality, measured in all
# latents. **Find**: a slice whose nearest neighbours are all the slice itself, and one where none is.

# %%
explore_latent_map(codes, pixel_mm, row // 3)

# %%
def distance(a, b):
    """Root-mean-square difference per latent between codes of the same length: (n, d), (n, d) -> number."""
    return float((a - b).square().mean(1).sqrt().median())


flat = rearrange(codes.z, "n k h w -> n (k h w)")
code = {m: flat.new_full((len(coded), flat.shape[1]), math.nan) for m in modalities}
for m in modalities:
    chosen = codes.modality == MODALITIES.index(m)
    code[m][codes.row[chosen]] = flat[chosen]
gap_mm = 3 * held_out_cases[0].spacing_mm[0]
above = distance(code[first][:n_slices // 3 - 1], code[first][1:n_slices // 3])
share = principal_directions(codes.z).share
print(f"PCA's two directions hold {100 * share[:2].sum():.0f} % of the variance; these distances count all of it:")
print(f"from a {first} to the {first} {gap_mm:g} mm above:  {above:.2f} (RMS per latent, median)")
for m in modalities:
    if m != first:
        both = code[m].isfinite().all(1) & code[first].isfinite().all(1)
        print(f"from a {first} to the {m} of the same slice:  {distance(code[first][both], code[m][both]):.2f}")

# %% [markdown]
# **Read.** A shared space does not mean one place for one anatomy. If the map's headline is near chance, colour does
# not split it; but PCA shows only a part of the variance and t-SNE no distances, so trust the numbers. CT and CBCT show
# the same physics and are each other's neighbours; from CT to MR the nearest code is often another slice, of like size
# and place. Where a modality is far from the other, a mapper has a way to go. If your prediction was
# "closest to its own MR": the VAE was asked to keep everything needed to draw the slice again, and the modality is
# part of that.
#
# ### Explore 5: walk through the latent space
#
# We start at one slice and walk along a direction, in standard deviations (SD), decoding on the way. *Principal*: the
# directions of the map, sorted by variance. *Channel*: one of the `k` numbers of every patch at once. At step 0 stands
# the decoded slice. **Predict**: what does channel 1 do? (Section 3 drew the patterns.)

# %%
explore_walk(vae, codes, row // 3, pixel_mm)

# %% [markdown]
# **Read.** Channel 1 makes the whole picture brighter or darker, channel 2 slopes each patch alone: every 8 pixels the
# same stripe, for a channel knows nothing of the next patch. Principal directions move tissue over the whole head. They
# are sorted by variance and not by meaning, so no single one is "the modality", and a few SD away no head is left.
#
# ### Explore 6: morph
#
# A straight line between two codes, patients or modalities, beside the plain cross-fade of the two pictures. Press
# play. **Predict**: is the slice halfway a head, or two heads on top of each other?

# %%
explore_morph(vae, codes, pixel_mm)

# %% [markdown]
# **Read.** Two heads on top of each other: the headline says how little the morph differs from a cross-fade. The code
# of a place describes that place (one patch and a little around it), and half of *bone here* and half of *air here* is
# not *bone a centimetre further*. To move an outline a code must know that it is one: that needs a far smaller code, or
# a model that draws from it. It is what a tokenizer gives up to be exact.
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
# 2: A variance must be positive; its logarithm may be any number, so the network needs no constraint, and its scale
# is even: halving and doubling are equal steps. 3: Posterior collapse: every slice has the code of the prior, so
# the code says nothing and the decoder draws the mean of all slices.
# </details>

# %%
few, few_db = steps[0] * (size // f) ** 2, sum(pca_db[m][0] for m in modalities) / len(modalities)
all_db = sum(vae_db[m] for m in modalities) / len(modalities)
print(f"Can a few hundred numbers stand for a slice? {few:,} numbers: {few_db:.1f} dB (PCA). {n_latents:,} numbers, "
      f"{n_pixels / n_latents:g} x fewer than pixels: {all_db:.1f} dB (VAE), profile {profile_name}, validation.")
print(f"saved: {run.file_of('vae')}, {run.stages['vae']['parameters']:,} parameters, "
      f"{run.stages['vae']['seconds']:.0f} s")

# %% [markdown]
# **What we did.** We coded slices of all modalities with one VAE that starts at PCA, measured what is lost against
# PCA with as many numbers, and looked at where modalities lie. A few hundred numbers keep the head, a few thousand
# the picture: the line above gives both in dB.
#
# **What it cannot do.** It loses fine structure, most at edges. It generates no new heads. Our numbers come from
# validation patients of this data set; on a phantom they say nothing about patients. Nothing here is a medical
# device.
#
# **Next.** Lesson 02 freezes this VAE and learns to map the latents of one modality to those of another. To use
# your own patients, write case folders (README, "your own data") and set `data_dir` and `run_dir` above.
