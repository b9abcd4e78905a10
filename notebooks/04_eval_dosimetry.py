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
# # 04 · Is it good enough for dose?
#
# A synthetic CT is not made to be looked at. In radiotherapy it has one job: a dose calculated on it must be the dose
# the patient would get. This lesson judges the pictures, then plans a treatment and lets the dose speak. It also
# shows how both judgements can be made to say almost anything, and ends with a report card that nobody has polished.
#
# | | |
# |---|---|
# | **Goal** | judge a finished run: image metrics with their conventions, dose, DVH, gamma, and a verdict |
# | **Time** | smoke: about 2 min · laptop: about 8 min · paper: not yet measured |
# | **Needs** | a run with `vae`, `mapper`, `decoder` (lessons 01 to 03); dose needs contours and a prescription |
# | **Makes** | `report.json` and `dose/` in `runs/<name>/`; with a reader's name, `readers/` |
# | **You should know** | lesson 03; what a Hounsfield unit is. Radiotherapy terms are explained where they come up |

# %% tags=["parameters"]
profile_name = "laptop"
data_dir = "data/phantom-laptop"
run_dir = "runs/phantom-laptop"

# %%
# %matplotlib inline
from functools import partial

import ipywidgets as widgets
import numpy as np
from IPython.display import Markdown, display
from scipy import stats

from vaelite.cases import load_cases
from vaelite.distribution import frechet_distance, kid
from vaelite.explore import explore, show_source
from vaelite.figures import draw_convention, draw_translations
from vaelite.intensity import from_unit, hu_to_unit, to_unit
from vaelite.metrics import CONVENTIONS, every_convention, mae_hu, value_range
from vaelite.profiles import profile
from vaelite.report import (METHODS, NOT_COMPARABLE, STAND_IN_METRICS, comparison_table, distribution_table, dose_label,
                            dose_methods, dvh_table, fusion_table, gamma_table, lesion_table, markdown, prediction_table,
                            rank_correlation, reconstruction_table, report_card, rows_of, sensitivity_curves, shape_table,
                            slices_table, stand_in_points, training_table, translation_table, uncertainty_table)
from vaelite.runs import open_run
from vaelite.stages import evaluate, load_translator

# %%
from vaelite import dose_figures as figures
from vaelite.altered_ct import bone_scaled, noise, shifted
from vaelite.dose import depth_dose_in_water, radiological_depth, recalculate, relative_density_table
from vaelite.dose_evaluation import compare_cts, compare_doses, load_doses, plan_of_case, prescriptions, structures_in_body
from vaelite.dose_metrics import dvh, target_dose_error
from vaelite.gamma import gamma_map, gamma_pass_rate

# %% [markdown]
# ## 1 · A pair of images
#
# We practise on a **validation** patient. The test patients come once, in section 6.

# %%
cfg = profile(profile_name)
cases, run = load_cases(data_dir), open_run(run_dir)
translator = load_translator(run, cfg)                       # refuses, and says what to do, if a lesson is missing
case = next(case for case in cases if case.split == "validation")
sources = [m for m in translator.modalities if m != "CT" and m in case.modalities]
missing = sorted({"CBCT", "T1c", "T2w"} - set(sources))
print(f"{case.name}: synthetic CTs from {', '.join(sources)}.")
if missing:
    print(f"Left out, not in these data: {', '.join(missing)}.")

# %%
source = sources[0]
ct_hu, body = case.volume("CT"), case.mask()
unit, _ = to_unit(case.volume(source), source, body)
sct_hu = from_unit(translator.volume_unit(unit, source, "CT"), "CT")
z = int(0.6 * len(ct_hu))
draw_translations(source, unit[z], "CT", hu_to_unit(ct_hu)[z], {"copy": unit[z], "vaelite": hu_to_unit(sct_hu)[z]},
                  case.spacing_mm[2], body[z])

# %% [markdown]
# **Look.** Source, synthetic CT, real CT; below, the errors. `vaelite` is, as in lesson 03, the decoder chosen there,
# direction by direction. Would you plan on it? Hold that thought.
#
# ## 2 · A number without its convention is not a number
#
# PSNR is $10 \log_{10}(R^2/\mathrm{MSE})$, with the mean squared error MSE. Which range $R$? Over which voxels? Papers
# differ, and often do not say.
#
# **Predict.** This one pair, five conventions: by how many dB can PSNR differ?

# %%
my_guess_db = None                                           # dB between the lowest and the highest
values = every_convention(ct_hu, sct_hu, body)
decibels = [found["PSNR"] for found in values.values()]
print(f"One pair of images: PSNR differs by {max(decibels) - min(decibels):.1f} dB. You said {my_guess_db}.")
rows = []
for name, found in values.items():
    mae = f"{100 * found['MAE']:.1f} % of range" if CONVENTIONS[name].clip is None else f"{found['MAE']:.1f} HU"
    rows.append([name, CONVENTIONS[name].label, mae, f"{found['PSNR']:.2f}", f"{found['SSIM']:.3f}"])
Markdown(markdown(["convention", "meaning", "MAE", "PSNR [dB]", "SSIM"], rows))

# %% [markdown]
# `mr1` is meant for MR, which has no HU. Nothing stops us from using it on a CT, and nothing in a table would show it.
#
# ### Explore: the same picture, another number

# %%
def draw_pair(ct_hu, made_hu, body, pixel_mm, values, convention, method, slice_number):
    """One slice of the real and of a made CT [HU], and what a convention counts of their difference."""
    spec = CONVENTIONS[convention]
    counted = np.ones_like(body[slice_number]) if spec.whole_grid else body[slice_number]
    return draw_convention(ct_hu[slice_number], made_hu[method][slice_number], counted, value_range(ct_hu, body, spec),
                           values[method], convention, pixel_mm)


# %%
made_hu = {name: from_unit(translator.volume_unit(unit, source, "CT", name), "CT")
           for name in ("vaelite", "unet", "copy") if name in translator.methods()}
scores = {name: every_convention(ct_hu, volume, body) for name, volume in made_hu.items()}
inside = np.flatnonzero(body.any((1, 2)))
draw = partial(draw_pair, ct_hu, made_hu, body, case.spacing_mm[2], scores)
explore(draw, "The picture stays. Which convention gives the most dB: is it the range, or the voxels that count?",
        convention=list(CONVENTIONS), method=widgets.Dropdown(options=[(METHODS[name], name) for name in made_hu]),
        slice_number=widgets.IntSlider(z, int(inside[0]), int(inside[-1])))

# %% [markdown]
# **Read.** The picture did not change. Air outside the patient is easy, and the grid is full of it: averaging over
# the grid makes everybody look good. So every number in our report carries its convention, and the body and the grid
# stand side by side. Compare numbers only within one convention, on one set of patients.
#
# ### Try it 1: undo the flattery
#
# A paper reports an MAE over the whole grid. The body fills a fraction of it, and outside both images are air, so the
# error there is 0. What is the MAE inside the body?

# %% tags=["exercise"]
def my_body_mae(grid_mae_hu, body_fraction):
    ...                                                      # one line


# %% tags=["check"]
def check_body_mae(to_body):
    if to_body(10.0, 0.5) is None:
        return "not attempted yet"
    assert abs(to_body(10.0, 1.0) - 10) < 1e-9, "if the body fills the grid, both are the same"
    assert to_body(10.0, 0.5) > 10, "the errors all lie in the body: there the mean is higher, not lower"
    assert abs(to_body(10.0, 0.25) - 40) < 1e-9, "the sum of errors stays; a quarter of the voxels share it"
    assert abs(to_body(22.0, 0.4) - 55) < 1e-9, "22 HU over the grid are 55 HU in a body that fills 40 % of it"
    return "correct"


print(check_body_mae(my_body_mae))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_body_mae(grid_mae_hu, body_fraction):
    return grid_mae_hu / body_fraction


print(check_body_mae(my_body_mae))

# %% [markdown]
# ## 3 · What a photon cares about
#
# A beam of photons is attenuated by electrons. Through layers of thickness $d_i$ with attenuation coefficients
# $\mu_i$ comes the fraction
#
# $$ T = \exp\Big(-\sum_i \mu_i d_i\Big) $$
#
# The sum divided by $\mu_\mathrm{water}$ is the **radiological depth**: the water that would attenuate as much.
#
# ### Try it 2: a slab whose truth is known

# %% tags=["exercise"]
def my_transmission(mu_per_cm, thickness_cm):
    """Two lists of equal length: coefficient and thickness of each layer -> fraction that comes through."""
    ...                                                      # one line; numpy is np


# %% tags=["check"]
def check_transmission(through):
    if through([0.05], [10.0]) is None:
        return "not attempted yet"
    assert abs(through([0.05], [0.0]) - 1) < 1e-9, "no thickness: everything comes through"
    assert abs(through([0.05], [10.0]) - 0.60653) < 1e-4, "10 cm of 0.05 per cm: exp(-0.5), less than 1"
    two = through([0.05, 0.08], [10.0, 2.0])
    assert abs(two - 0.60653 * 0.85214) < 1e-4, "the second layer attenuates what the first let through: multiply"
    assert abs(through([0.08, 0.05], [2.0, 10.0]) - two) < 1e-9, "the order of the layers does not matter"
    return "correct"


print(check_transmission(my_transmission))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_transmission(mu_per_cm, thickness_cm):
    return float(np.exp(-np.dot(mu_per_cm, thickness_cm)))


print(check_transmission(my_transmission))

# %% [markdown]
# Dose is not transmission: photons scatter, and the electrons they set free need some depth to build up. This is our
# dose engine (pyRadPlan's *pencil beam*: it adds up what many thin rays leave around them) in plain water, 10 × 10 cm
# field, 6 MV, source 100 cm from the surface.
#
# **Predict.** How many percent of the maximum are left at 10 cm?

# %%
depth_cm, dose_percent = depth_dose_in_water()
percent_per_mm = float((np.interp(5, depth_cm, dose_percent) - np.interp(10, depth_cm, dose_percent)) / 50)
peak_mm = 10 * depth_cm[dose_percent.argmax()]
figures.draw_depth_dose(depth_cm, dose_percent, f"Dose peaks at {peak_mm:.0f} mm, then each mm of water costs "
                                                f"{percent_per_mm:.2f} % (5 to 10 cm)")

# %% [markdown]
# **Read.** The published table (British Journal of Radiology, supplement 25: 6 MV, 10 × 10 cm, source 100 cm from the
# surface) gives about 67 % at 10 cm, so the engine is right within a few percent.
#
# The engine knows no HU, only **electron density** relative to water. This table turns one into the other, for the plan and
# for every recalculation alike (pyRadPlan's default; a clinic measures its own scanner's).

# %%
hu, density = relative_density_table()
tissues = {"air": (-1050, -200), "soft": (-200, 250), "bone": (250, 3050)}
points = {where: 100 * float(np.interp(at + 40, hu, density) - np.interp(at, hu, density))
          for where, at in {"soft tissue": 0, "bone": 1000}.items()}
figures.draw_density_table(hu, density, tissues, "40 HU too many: "
                           + ", ".join(f"{value:+.1f} % of water's density in {where}" for where, value in points.items()))

# %% [markdown]
# The price list is now simple: a wrong HU becomes a wrong density, a wrong density a wrong depth in water, and each
# millimetre costs the fraction above. **Predict** the costliest of these four errors.

# %%
errors = {"muscle 40 HU too high, 100 mm": (50, 90, 100), "skull at half its HU, 8 mm": (1000, 500, 8),
          "air cavity filled with water, 25 mm": (-1000, 0, 25), "CBCT shading -60 HU, 150 mm": (40, -20, 150)}
rows = []
for name, (true_hu, wrong_hu, path_mm) in errors.items():
    shift_mm = path_mm * float(np.interp(wrong_hu, hu, density) - np.interp(true_hu, hu, density))
    rows.append([name, f"{abs(wrong_hu - true_hu)}", f"{shift_mm:+.1f}", f"{-percent_per_mm * shift_mm:+.1f} %"])
Markdown(markdown(["error along one beam", "HU off", "depth in water [mm]", "dose behind it, of the maximum"], rows))

# %% [markdown]
# **Read.** What counts is HU times path. A skull that is hundreds of HU wrong is thin; a shading that the eye
# forgives lies along the whole beam and costs more. A filled cavity costs most. And with beams from all sides, only a
# part of the dose crosses any one error.
#
# ## 4 · A plan
#
# Seven photon fields from around the head (intensity modulated, **IMRT**). The visible tumour (**GTV**) with what it
# may have invaded unseen (**CTV**) and a margin for errors of positioning makes the target volume (**PTV**). The
# planner prescribes a dose to it and limits for organs; an optimiser finds the *fluence*, how much each small piece of
# a beam (a *beamlet*) sends. All of it is our choice: the paper publishes no geometry. The **DVH** (dose-volume
# histogram) then says which part of a structure gets at least which dose. **D95** is one point of it, the dose that
# 95 % of the target get at least.

# %%
targets_gy = prescriptions(case)
plan = None
if targets_gy:
    contours = structures_in_body(case)
    plan = plan_of_case(case, cfg.dose, run)                 # kept in the run: made again only if something changes
    ptv = max(targets_gy, key=targets_gy.get)
    d95_gy = float(np.percentile(plan.dose_gy[contours[ptv]], 5))
    finding = f"{len(plan.gantry_deg)} fields: 95 % of {ptv} get {d95_gy:.1f} Gy of {targets_gy[ptv]:g} Gy"
    display(figures.draw_dose_wash(ct_hu, plan.dose_gy, contours, case.spacing_mm, plan.prescription_gy, finding))
else:
    print(f"Left out: {case.name} has no prescription with a contour. Sections 4, 5 and 8 need one.")

# %% [markdown]
# **Read.** The colours follow the target and spare what lies beside it. A real plan has finer beamlets, and a planner
# who argues with it for an hour. Ours is a teaching plan, but on **both** CTs it is the same plan, and that is what
# we test.
#
# ### Try it 3: D95 by hand
#
# $D_{95}$ is the dose that 95 % of the volume receive **at least**: the coverage of the target in one number.

# %% tags=["exercise"]
def my_d95(dose_gy):
    """dose_gy: the dose of each voxel of a structure (n,) [Gy] -> D95 [Gy]."""
    ...                                                      # one line


# %% tags=["check"]
def check_d95(d95):
    even = np.arange(101.0)                                  # 0, 1, ..., 100 Gy
    if d95(even) is None:
        return "not attempted yet"
    assert abs(d95(np.full(50, 70.0)) - 70) < 1e-9, "the same dose everywhere: D95 is that dose"
    found = d95(even)
    assert found < 50, f"95 % of the voxels must get more than D95, not 5 %; you said {found:.1f} Gy of 0 to 100"
    assert abs(found - 5) < 0.6, f"of 0, 1, ..., 100 Gy, 95 % of the voxels get at least 5 Gy; you said {found:.1f}"
    cold = np.r_[np.full(10, 20.0), np.full(90, 70.0)]
    assert d95(cold) < 21, "10 % of this target are cold, and D95 must show it"
    assert d95(np.r_[0.0, np.full(99, 70.0)]) > 69, "one cold voxel in a hundred is not the minimum's business"
    return "correct"


print(check_d95(my_d95))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_d95(dose_gy):
    return float(np.percentile(dose_gy, 5))                  # 5 % get less, so 95 % get at least this


print(check_d95(my_d95))

# %% [markdown]
# ## 5 · Break it: half the skull
#
# The usual verdict on two doses is the **gamma index** (Low et al. 1998). For each reference point, look for the
# nearest point of the other dose, in millimetres **and** in dose, each measured in units of its criterion:
#
# $$ \gamma = \min_{r'} \sqrt{\frac{|r - r'|^2}{\Delta d^2} + \frac{(D(r) - D'(r'))^2}{\Delta D^2}} $$
#
# A point passes if $\gamma \le 1$. "2 %/2 mm" is $\Delta D$ = 2 % of the prescription and $\Delta d$ = 2 mm.
#
# We now damage the CT: every bone gets **half its HU**. Same fluence, new dose.
#
# **Predict.** How many percent of the points pass 2 %/2 mm?

# %%
my_guess_percent = None
damaged_hu = bone_scaled(ct_hu, body, percent=50)
passed = {}
if plan is not None:
    damaged_gy = recalculate(plan, damaged_hu)
    settings = {"normalisation_gy": plan.prescription_gy, "cutoff_percent": cfg.dose.cutoff_percent,
                "mode": cfg.dose.gamma_mode}
    for percent, mm in cfg.dose.gamma_criteria:
        result = gamma_pass_rate(plan.dose_gy, damaged_gy, case.spacing_mm, dose_percent=percent, distance_mm=mm,
                                 **settings)
        passed[f"{percent:g} %/{mm:g} mm"] = result["pass_percent"]
    high_percent = 100 * float((damaged_gy - plan.dose_gy).max()) / plan.prescription_gy
    error_percent = target_dose_error(plan.dose_gy, damaged_gy, plan.prescription_gy)
    print(f"MAE in the body: this CT {mae_hu(ct_hu, damaged_hu, body):.0f} HU, vaelite from {source} "
          f"{mae_hu(ct_hu, sct_hu, body):.0f} HU. Voxels that pass (n = {result['n_voxels']:,}):")
    print(", ".join(f"{name}: {value:.2f} %{' (above 99)' if value > 99 else ''}" for name, value in passed.items()),
          f"You said {my_guess_percent}.", sep=". ")

# %%
if plan is not None:
    percent, mm = cfg.dose.gamma_criteria[-1]
    gamma = gamma_map(plan.dose_gy, damaged_gy, case.spacing_mm, dose_percent=percent, distance_mm=mm, **settings)
    z_hot = figures.hottest_slice(plan.dose_gy, plan.prescription_gy)
    loose = list(passed)[len(passed) // 2]                   # the middle criterion
    finding = (f"Bone at half its HU passes {loose} in {passed[loose]:.2f} % of the voxels; the dose in the target is "
               f"off by {error_percent:.1f} % on average, some voxels get {high_percent:.1f} % too much")
    display(figures.draw_comparison(ct_hu, damaged_hu, plan.dose_gy, damaged_gy, gamma, case.spacing_mm,
                                    plan.prescription_gy, finding, z_hot, f"gamma {percent:g} %/{mm:g} mm"))

# %% [markdown]
# **Read.** Compare the two CTs: half of every bone's HU is gone, and few voxels fail. Why? Bone is thin, seven beams
# share the error, most voxels lie far from the target where the dose is low and 2 % **of the prescription** is
# generous, and one may search 2 mm around for a match. The paper reports rates above 99 % and not their criteria.
#
# The mean error in the target and the DVH (below) show size and sign of the error, which a pass rate hides.

# %%
SHOWN = ("PTV", "SpinalCord", "Brainstem", "Parotid")
if plan is not None:
    chosen = {name: mask for name, mask in contours.items() if name.startswith(SHOWN)}
    curves = {name: {"plan": dvh(plan.dose_gy, mask), "bone at half its HU": dvh(damaged_gy, mask)}
              for name, mask in chosen.items()}
    change_gy = float(np.percentile(damaged_gy[contours[ptv]], 5)) - d95_gy
    display(figures.draw_dvh(curves, f"Half the bone moves D95 of {ptv} by {change_gy:+.2f} Gy", targets_gy))

# %% [markdown]
# ### What does tell?
#
# Two more CTs with **the same MAE** as the half skull: white noise, and one bias everywhere. For MAE the three are equal.
#
# **Predict.** Which has the largest dose error, and which measure says so?

# %%
my_guess = None                                              # "bone", "noise" or "bias"
judged = {}
if plan is not None:
    mae = mae_hu(ct_hu, damaged_hu, body)
    altered = {"bone": damaged_hu, "noise": noise(ct_hu, body, mae), "bias": shifted(ct_hu, body, mae)}
    depth_mm = radiological_depth(plan, ct_hu)
    for name, other_hu in altered.items():
        other_gy = recalculate(plan, other_hu)
        judged[name] = {STAND_IN_METRICS[metric]: value for (metric, _), value in
                        compare_cts(plan, ct_hu, other_hu, depth_mm).items()}
        for table, metric, unit, _, value, _ in compare_doses(plan, other_gy, cfg.dose):
            judged[name] |= {f"{metric}, fails [%]": 100 - value} if table == "gamma" else {f"{metric} [{unit}]": value}
        judged[name][f"D95 of {ptv}, change [Gy]"] = float(np.percentile(other_gy[contours[ptv]], 5)) - d95_gy

# %%
if judged:
    rows, told = [], {}
    for measure in judged["bone"]:
        values = [abs(of_ct[measure]) for of_ct in judged.values()]
        told[measure] = max(values) / max(min(values), 0.01)  # less than 0.01 is nothing, in all of these units
        rows.append([measure, *[f"{of_ct[measure]:.2f}" for of_ct in judged.values()], f"{told[measure]:.1f}"])
    worst = max(judged, key=lambda name: judged[name]["MAE_target [% of prescription]"])
    hidden = [measure for measure in told if "fails" in measure and max(of_ct[measure] for of_ct in judged.values()) < 1]
    print(f"Largest dose error: {worst}. You said {my_guess}. All three above 99 % at:",
          ", ".join(measure.split(",")[0] for measure in hidden) or "no criterion")
    display(Markdown(markdown(["measure", *judged, "largest : smallest"], rows)))

# %% [markdown]
# **Read.** The last column is what a measure can tell. MAE: 1, by design; it forgets sign and place. Noise cancels along a
# beam, a bias adds up: the **radiological depth** (the water that attenuates like the tissue in front of the target) sees
# that without any dose, the mean error in the target and D95 see it in the dose. A loose gamma passes what it should tell
# apart; 1 %/1 mm, or how **much** fails, tells more.
#
# ### Try it 4: gamma of one point
#
# Write the formula for one reference point and a list of points of the other dose along a line.

# %% tags=["exercise"]
def my_gamma(x_mm, dose_gy, other_x_mm, other_dose_gy, distance_mm, criterion_gy):
    """x_mm, dose_gy: the reference point; other_*: (n,) arrays -> gamma, one number."""
    ...                                                      # one or two lines


# %% tags=["check"]
def check_gamma(gamma):
    x = np.arange(0.0, 21.0)
    ramp, flat = 2.0 * x, np.full(21, 30.0)                  # 2 Gy for each mm; 30 Gy everywhere
    if gamma(10.0, 20.0, x, ramp, 2.0, 1.4) is None:
        return "not attempted yet"
    assert abs(gamma(10.0, 20.0, x, ramp, 2.0, 1.4)) < 1e-9, "a dose compared with itself: 0"
    assert abs(gamma(10.0, 31.4, x, flat, 2.0, 1.4) - 1) < 1e-9, "flat, 1.4 Gy off: no search helps, gamma is 1"
    shifted = gamma(10.0, 20.0, x + 1, ramp, 2.0, 1.4)
    assert shifted < 0.5 + 1e-9, f"steep, shifted by 1 mm: the match 1 mm away counts, at most 1/2; not {shifted:.2f}"
    assert abs(shifted - 0.5) < 1e-9, "half a criterion in mm, nothing in dose: 0.5"
    both = gamma(0.0, 30.0, np.array([1.0]), np.array([31.4]), 2.0, 1.4)
    assert abs(both - np.sqrt(1.25)) < 1e-6, "0.5 and 1 add as sides of a right angle: the root of 0.25 + 1"
    return "correct"


print(check_gamma(my_gamma))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_gamma(x_mm, dose_gy, other_x_mm, other_dose_gy, distance_mm, criterion_gy):
    squared = ((other_x_mm - x_mm) / distance_mm) ** 2 + ((other_dose_gy - dose_gy) / criterion_gy) ** 2
    return float(np.sqrt(squared.min()))


print(check_gamma(my_gamma))

# %% [markdown]
# ## 6 · The test patients, once
#
# Everything so far, in all four lessons, used training and validation patients. This is the only cell that **judges**
# the test patients: images of all of them, in every direction and by every method; dose, which takes longer, on the
# first `cfg.dose.cases` that can be planned (laptop: 3). What follows reads its results: `report.json`, the doses in
# `dose/`, and for the pictures the CT and contours of one of them. If a number disappoints you and you go back to
# change a knob, the test has become a second validation, and you need new patients.

# %%
report = evaluate(cases, run)
counts = report["data"]["cases"]
print(f"{len(report['rows']):,} numbers, each with its convention and n, from {counts['test']} test patient(s).")
Markdown(training_table(report))

# %% [markdown]
# ## 7 · Pictures in numbers
#
# Mean ± SD over test patients (no SD for a single one), never over slices. **Predict**: from which source is CT the
# hardest, and does any baseline beat us there? The best mean of each row is bold.

# %%
Markdown(translation_table(report, "MAE") + "\n\n" + translation_table(report, "MAE", on_grid=True))

# %%
into_ct = {}                                                 # {source: {method: mean MAE in the body [HU]}}
for row in rows_of(report, table="translation", target="CT", metric="MAE", convention="synthrad2023"):
    into_ct.setdefault(row["source"], {})[row["method"]] = row["mean"]
hardest = max(into_ct, key=lambda origin: into_ct[origin]["vaelite"])
ours = into_ct[hardest]["vaelite"]
ahead = [METHODS[name] for name, mean in into_ct[hardest].items() if mean < ours]
print(f"CT is hardest from {hardest}: {ours:.0f} HU by vaelite; better there: {', '.join(ahead) or 'none'}.")

# %%
Markdown("\n\n".join(translation_table(report, metric, on_grid) for metric in ("PSNR", "SSIM") for on_grid in (False, True)))

# %% [markdown]
# Two questions of the lessons before: do all sources at once beat the best single one, and do intervals that held 80 % of
# the validation patients' body hold 80 % here?

# %%
asked = (("fusion", fusion_table), ("uncertainty", uncertainty_table))
Markdown("\n\n".join(table(report) for name, table in asked if rows_of(report, table=name)))

# %%
Markdown("**Reconstruction by the tokenizer alone**\n\n" + reconstruction_table(report)
         + f"\n\n**The paper beside it.** {NOT_COMPARABLE}")

# %% [markdown]
# **Read.** The paper's figures stand beside ours because readers look for them, and cannot be compared: other
# patients, an unknown mask, an unknown window. Section 2 showed what those can do. And a phantom is cleaner than any
# patient.
#
# ### More than luck?
#
# The patients are the same for every method, so compare patient by patient: a head that is hard is hard for all.
# **Predict**: is a baseline that loses in all test patients *significantly* worse?

# %%
has_pairs = bool(rows_of(report, table="comparison", target="CT"))
Markdown(comparison_table(report, "CT") if has_pairs else "No baseline in this run, nothing to compare with.")

# %% [markdown]
# **Read.** The interval says how large the difference is, p how often chance alone would order so few patients like this, and
# Holm what is left of it when so many questions are asked at once. A handful of patients can show a size, hardly a proof;
# a paper that compares ten methods on eight patients cannot either.
#
# ### What the mean hides
#
# Tissues, shapes, the way from slice to slice, and a lesion that nobody wants to lose.

# %%
Markdown("\n\n".join(text for table in (shape_table, slices_table, lesion_table) if (text := table(report))))

# %% [markdown]
# **Read.** A mean over the body is mostly a mean over soft tissue. Bone and air are where MR is blind; section 3 says
# what that costs: HU times path.
#
# How sure is a mean over so few patients?

# %%
row = rows_of(report, table="translation", method="vaelite", source=source, target="CT", metric="MAE",
              convention="synthrad2023")[0]
values = row["values"]
if len(values) > 1:
    half_hu = [np.nan]                                       # Student's t: small n, unknown SD
    for n in range(2, len(values) + 1):
        half_hu.append(stats.t.ppf(0.975, n - 1) * np.std(values[:n], ddof=1) / np.sqrt(n))
    finding = f"{source} → CT: {row['mean']:.1f} HU from n = {len(values)} patients, known to ±{half_hu[-1]:.1f} HU"
    display(figures.draw_mean_against_n(values, half_hu, "HU", finding))
else:
    print(f"One test patient: {values[0]:.1f} HU, and nothing can be said about another one. No interval from n = 1.")

# %% [markdown]
# ## 8 · Dose in numbers
#
# The plan is made on the real CT. The **same fluence** is calculated again on each synthetic CT, and on what a clinic uses
# without one: the **raw CBCT**, the body as **water**, and **water + bone + air** (bulk densities). *MAE_target* is the mean
# absolute dose error where the plan has at least 90 % of the prescription, in % of the prescription: the "off on average" of
# section 5; *ME_target* keeps the sign. Planned are the first `cfg.dose.cases` test patients (laptop: 3): n may be smaller
# here than in section 7.
#
# The figure below shows what **fails**, on a logarithmic axis: rates near 100 % would lie on each other.

# %%
has_dose = bool(rows_of(report, table="gamma"))
if has_dose:
    display(Markdown(gamma_table(report)))
else:
    print("Left out: no test patient has contours with a prescription, so no dose was calculated.")

# %% [markdown]
# Which of these would a clinic accept? The sign matters: too much is another harm than too little.

# %%
if has_dose:
    signed = {(row["source"], row["method"]): row["values"] for row in rows_of(report, table="dose", metric="ME_target")}
    outside = [dose_label(*key) for key in dose_methods(report) if max(map(abs, signed[key])) > 2]
    finding = f"{len(outside)} of {len(signed)} replacements move the target's dose by more than 2 % in a patient"
    display(figures.draw_errors_by_patient({dose_label(*key): signed[key] for key in dose_methods(report)}, finding))

# %%
if has_dose:
    rates = {}
    for row in rows_of(report, table="gamma"):
        if row["method"] in ("ridge", "control"):            # they are in the table; fewer lines can be told apart
            continue
        criterion = row["metric"].removeprefix("gamma ").replace("%/", " %/").replace("mm", " mm")
        rates.setdefault(f"{row['source']} by {row['method']}", {})[criterion] = row["mean"]
    criteria = list(next(iter(rates.values())))
    spread = {c: max(r[c] for r in rates.values()) - min(r[c] for r in rates.values()) for c in criteria}
    loose, strict = criteria[0], criteria[-1]
    display(figures.draw_pass_rates(rates, f"Best and worst lie {spread[loose]:.1f} points apart at {loose}, "
                                           f"{spread[strict]:.1f} at {strict}"))

# %% [markdown]
# **Predict.** Does a lower MAE of the image mean a lower error of the dose?

# %%
if has_dose:
    panels, rho = {}, {}
    for metric in ("MAE", "depth"):
        points = stand_in_points(report, metric)
        rho[metric] = rank_correlation(points)
        said = "too few CTs to say" if rho[metric] is None else f"rank correlation {rho[metric]:+.2f}, n = {len(points)}"
        panels[STAND_IN_METRICS[metric]] = (said, points)
    said = ", ".join(f"{name} {rho[metric]:+.2f}" for metric, name in {"MAE": "MAE", "depth": "radiological depth"}.items()
                     if rho[metric] is not None)
    display(figures.draw_error_against_dose(panels, f"What orders the doses of {len(points)} CTs? Rank correlation: {said}"))
    display(Markdown(prediction_table(report)))

# %% [markdown]
# **Read.** Over CTs that differ by hundreds of HU, MAE orders the doses. Look within one source, where the choice between
# methods is made: there it need not. MAE forgets the sign, and a bias adds up along a beam where noise cancels. The
# radiological depth keeps both, needs no plan but the beams' directions, and says *why* a dose is wrong.
#
# How large an error may be, kind by kind: errors of known size on one patient, the same plan.

# %%
curves = sensitivity_curves(report)
if curves:
    shown = [metric for metric in curves["bone HU"] if metric.startswith("gamma ")][1:]
    half = curves["bone HU"]["amount"].index(50)
    half_percent, bias = curves["bone HU"]["ME_target"][half], curves["uniform HU bias"]
    per_10_hu = 10 * float(np.polyfit(bias["amount"], bias["ME_target"], 1)[0])
    finding = f"10 HU everywhere cost {per_10_hu:+.2f} % in the target; half of every bone's HU {half_percent:+.2f} %"
    display(figures.draw_sensitivity(curves, tuple(shown), finding))

# %% [markdown]
# Now one test patient, from the doses that `evaluate` has kept: the target, and the organ whose mean dose `vaelite`
# gets most wrong.

# %%
if has_dose:
    row = rows_of(report, table="dose", method="vaelite")[-1]
    origin = row["source"]
    tested = next(case for case in cases if case.name == row["cases"][0])
    levels_gy, inside = prescriptions(tested), tested.mask()
    top = max(levels_gy, key=levels_gy.get)
    masks = {name: mask & inside for name, mask in tested.structures().items() if name.startswith(SHOWN)}
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    doses = load_doses(run, tested.name)

# %%
if has_dose:
    shown = {"plan": "CT", "vaelite": f"vaelite/{origin}", "U-Net": f"unet/{origin}", "raw CBCT": "copy/CBCT",
             "water": "water/CT"}
    shown = {label: doses[key] for label, key in shown.items() if key in doses}
    error_gy = {name: abs(float((shown["vaelite"] - shown["plan"])[mask].mean())) for name, mask in masks.items()}
    organs = [name for name in masks if not name.startswith("PTV")]
    pair = [top, max(organs, key=error_gy.get)] if organs else [top]
    curves = {name: {label: dvh(dose, masks[name]) for label, dose in shown.items()} for name in pair}
    d95 = {label: float(np.percentile(dose[masks[top]], 5)) for label, dose in shown.items()}
    change_gy = d95["vaelite"] - d95["plan"]
    finding = f"{tested.name}, CT made from {origin}: vaelite changes D95 of {top} by {change_gy:+.2f} Gy"
    display(figures.draw_dvh(curves, finding, levels_gy))

# %% [markdown]
# And all structures in numbers. **D2** is the dose that the hottest 2 % get at least, **Dmax** the highest dose of any
# voxel, **Dmean** the mean. Targets are judged by D95 and D2, a cord or brainstem by Dmax, as one hot spot harms it,
# and a gland by Dmean, as it works on with the part that was spared.

# %%
if has_dose:
    display(Markdown(dvh_table(report)))

# %% [markdown]
# ### A dose from elsewhere
#
# Some data sets come with the dose that was really planned. Ours need not agree with it: other beams, other limits,
# another engine. But both should be plans that a physicist recognises.

# %%
published_gy = tested.published_dose_gy() if has_dose else None
if published_gy is not None:
    curves = {name: {"our plan": dvh(doses["CT"], mask), "published": dvh(published_gy, mask)}
              for name, mask in masks.items()}
    their_d95_gy = float(np.percentile(published_gy[masks[top]], 5))
    finding = f"D95 of {top}: {d95['plan']:.1f} Gy in our plan, {their_d95_gy:.1f} Gy in the published one ({tested.name})"
    display(figures.draw_dvh(curves, finding, levels_gy))
else:
    print("Left out: this data set has no published dose (OpenKBP has; see the README).")

# %% [markdown]
# ### Explore: where is the dose wrong?

# %%
def gamma_near(reference_gy, evaluated_gy, spacing_mm, z, criterion, **settings):
    """Gamma on axial slice z; only the slices near enough to matter are searched. criterion: "2 %/2 mm"."""
    percent = mm = float(criterion.split()[0])
    reach = int(np.ceil(2 * mm / spacing_mm[0])) + 1
    slab = slice(max(0, z - reach), z + reach + 1)
    gamma = np.full_like(reference_gy, np.nan)
    gamma[slab] = gamma_map(reference_gy[slab], evaluated_gy[slab], spacing_mm, dose_percent=percent, distance_mm=mm,
                            **settings)
    return gamma


# %%
def draw_dose(ct_hu, doses, masks, top, spacing_mm, settings, synthetic_ct, view, slice_number):
    """View "dose", "difference" or "gamma 2 %/2 mm" of one dose, axial; masks[top] is the target to be outlined."""
    reference_gy, evaluated_gy, prescription_gy = doses["CT"], doses[synthetic_ct], settings["normalisation_gy"]
    method, _, origin = synthetic_ct.partition("/")
    finding = (f"{dose_label(origin, method)}: target off by "
               f"{target_dose_error(reference_gy, evaluated_gy, prescription_gy):.1f} % on average")
    target = {top: masks[top]}
    if view == "dose":
        return figures.draw_dose_wash(ct_hu, evaluated_gy, masks, spacing_mm, prescription_gy, finding, slice_number)
    if view == "difference":
        return figures.draw_dose_difference(ct_hu, reference_gy, evaluated_gy, spacing_mm, prescription_gy, finding,
                                            slice_number, structures=target)
    gamma = gamma_near(reference_gy, evaluated_gy, spacing_mm, slice_number, view.removeprefix("gamma "), **settings)
    counted = gamma[slice_number][np.isfinite(gamma[slice_number])]
    finding += f"; {view}: {100 * np.mean(counted <= 1):.1f} % of this slice pass"
    return figures.draw_gamma(ct_hu, gamma, spacing_mm, finding, slice_number, target)


# %%
panel = None
if has_dose:
    prescription_gy = levels_gy[top]
    reached = np.flatnonzero((doses["CT"] >= 0.1 * prescription_gy).any((1, 2)))
    hot = figures.hottest_slice(doses["CT"], prescription_gy)
    settings = {"normalisation_gy": prescription_gy, "cutoff_percent": cfg.dose.cutoff_percent,
                "mode": cfg.dose.gamma_mode}
    draw = partial(draw_dose, tested.volume("CT"), doses, masks, top, tested.spacing_mm, settings)
    question = "Which synthetic CT has the largest dose error in the target, and which gamma criterion shows it?"
    parts = [name.split("/") for name in doses if name != "CT"]
    names = [(dose_label(s, method), f"{method}/{s}") for method, s in parts]
    panel = explore(draw, question, synthetic_ct=widgets.Dropdown(options=names, value=f"vaelite/{origin}"),
                    view=["difference", "dose", "gamma 3 %/3 mm", "gamma 2 %/2 mm", "gamma 1 %/1 mm"],
                    slice_number=widgets.IntSlider(hot, int(reached[0]), int(reached[-1])))
panel

# %% [markdown]
# ## 9 · Ask a reader
#
# A metric cannot say whether a radiologist would trust the picture. The paper asked readers, and they scored synthetic
# MR lower than real MR; how many readers and on which scale is not published. Ours (our choice): five criteria from 1
# to 5, each step in words, then *real or synthetic?*
#
# Such a study is easily fooled, so ours is **blind**: real and synthetic slices of the test patients, mixed, under
# meaningless names, all drawn by one function. A tenth comes twice: who does not agree with himself cannot judge us.
#
# **Predict.** Synthetic slices score half a point lower. With three readers, how many patients does it take to show it?

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

from vaelite.errors import VaeliteError
from vaelite.figures import draw_power
from vaelite.reader_panel import ReaderPanel
from vaelite.reader_statistics import power, reader_report, reader_tables
from vaelite.reader_study import make_study, slice_pairs

# %%
my_guess_patients = None
patients = list(range(5, 41))
chance = {readers: [power(n, readers=readers) for n in patients] for readers in (1, 3, 5)}
print(f"You said {my_guess_patients}.")
draw_power(patients, chance, 0.5, counts["test"])

# %% [markdown]
# **Read.** This is a simulation; its two scatters, between patients and between ratings, are our choice. The test is
# Wilcoxon's signed rank on one mean **per patient**: ten slices of one head are no ten patients. Up to seven
# patients, five criteria cannot reach 5 % (after Holm's correction) even if every reader sees the difference each time.
# Six test patients teach how it is done; they cannot prove anything.
#
# ### Take part
#
# Type your name and run the cells below. Each answer is on the disk when you have clicked: close the browser, restart
# the kernel, and you go on where you were. Without a name it is a rehearsal, and nothing is kept.

# %%
reader = ""                                                  # your name: letters and digits
mr_to_mr = [pair for pair in translator.directions() if {*pair} == {"T1c", "T2w"}]
given, wanted = (mr_to_mr or translator.directions())[0]
rehearsal = tempfile.TemporaryDirectory()
home = run.path / "readers" if reader else Path(rehearsal.name)
pairs = slice_pairs(translator, cases, given, wanted)
study = make_study(home / f"{given}-{wanted}", pairs, wanted, cfg.seed)
print(f"Real {wanted}, and {wanted} made from {given}: {len(study.order)} pictures of {counts['test']} patient(s).")

# %% [markdown]
# **Is it blind?** Before a study is written, a classifier tries to tell real from synthetic *without looking at the
# patient*: from the header of the files, the border of the pictures, their order. If it can, the study is refused.
#
# **Break it.** Scanners leave noise in air, networks hardly any, so our studies show air in black. What if they did not?

# %%
with_air = [replace(pair, body=np.ones_like(pair.body)) for pair in pairs]
try:
    make_study(Path(rehearsal.name) / "with air", with_air, wanted, cfg.seed)
    print(f"Not refused: {2 * len(pairs)} pictures are too few to tell, or this network makes noise in air as well.")
except VaeliteError as refused:
    print(refused)

# %% [markdown]
# Now answer, with the mouse or without: Tab goes from answer to answer, space chooses.

# %%
panel = ReaderPanel(study, reader or "rehearsal")
panel

# %% [markdown]
# When you have answered all, lock. After the lock nothing can be changed, and when **every** reader has locked, the next
# cell opens the key. Other readers type their names above; each has a file of his own.

# %%
waiting = [name for name in study.readers() if not study.is_locked(name)]
if waiting:
    print(f"No result: {', '.join(waiting)} not locked.")
elif study.readers():
    display(Markdown(reader_tables(reader_report(study.unblind()))))
else:
    print("No result: nobody has answered. What stands here will be answers of people, never of a program.")

# %% [markdown]
# **Read** the middle table first. If readers do not agree with themselves (*kappa with oneself*) or with each other
# (*ICC*, *kappa between readers*; 1 = always, 0 = chance), the scores are noise. "Undefined" means that all gave the
# same score.
#
# ## 10 · The report card
#
# The questions a clinic would ask. The answers are computed from `report.json`; where a baseline wins, it says so.

# %%
card = report_card(report)
Markdown(markdown(["question", "answer", "in numbers"], [list(line.values()) for line in card]))

# %%
show_source(report_card)

# %% [markdown]
# ## Check yourself
#
# 1. Two papers report CBCT → CT: 40 HU and 60 HU. Which is better?
# 2. A synthetic CT passes gamma 2 %/2 mm with 99.9 %. What do you ask next?
# 3. A beam crosses 3 mm of water too much. By how many Gy is a dose of 70 Gy behind it wrong? Use the
#    price of a millimetre from section 3. The next cell verifies it.
#
# <details><summary>Answers 1 and 2</summary>
#
# 1: Unknown. Which mask, which patients? (Section 2.) 2: How large is the mean error in the target, with which sign,
# what do the DVHs of the organs say, and over which voxels, normalised to what, was gamma counted? (Section 5.)
#
# </details>

# %%
my_answer_gy = None
truth_gy = 70 * 3 * percent_per_mm / 100
if my_answer_gy is None:
    print("not attempted yet")
elif abs(my_answer_gy - truth_gy) < 0.1 * truth_gy:
    print("correct")
else:
    print(f"no: {percent_per_mm:.2f} % for each mm, 3 mm, of 70 Gy")

# %% [markdown]
# ## So: is it good enough for dose?

# %%
for line in card:
    print(f"{line['question']:<66} {line['answer']}")
print(f"n = {counts['test']} test patient(s) of {report['data']['name']}. Research and teaching, not for treatment.")

# %% [markdown]
# **What we did.** We judged one run on patients it had never seen: images under named conventions, dose on the same
# fluence, DVH, gamma at three criteria, each beside its baselines. All numbers are in `report.json`, the doses in
# `dose/`.
#
# **What it cannot do.** A pencil beam does not model electrons at air cavities, so its dose there is wrong on both
# CTs alike. A few test patients give wide intervals. A phantom has no motion and few surprises, and what passes on it
# is no clinical evidence.
#
# **Next.** Repeat all four lessons on real CTs (`make run-all DATA=data/openkbp`, see the README) or on your own case
# folders. Then train with one knob changed (`.venv/bin/vaelite config` prints all) in a run folder of its own:
#
# ```
# .venv/bin/vaelite vae --data data/phantom-laptop --run runs/factor16 --set vae.factor=16
# ```
#
# The same line with `mapper`, `finetune` and `unet` for `vae` trains the other stages,
# `.venv/bin/vaelite evaluate runs/factor16 --data data/phantom-laptop` judges them. Which number of the report moves?
