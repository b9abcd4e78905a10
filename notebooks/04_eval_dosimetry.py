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
# A synthetic CT has one job in radiotherapy: a dose calculated on it must be the dose the patient would get. This lesson
# judges the pictures, then the dose, shows how both judgements can be made to say almost anything, and ends with a report card.
#
# | | |
# |---|---|
# | **Goal** | judge a finished run: image metrics with their conventions, dose, DVH, gamma, and a verdict |
# | **Time** | two sessions of 90 minutes with the exercises; minutes of the cells alone: `notebooks/README.md` |
# | **Needs** | a run with `vae`, `mapper`, `decoder` (lessons 01 to 03); dose needs contours and a prescription |
# | **Makes** | `report.json` and `dose/` in `runs/<name>/`; with a reader's name, `readers/` |
# | **You should know** | lesson 03; what a Hounsfield unit is. Radiotherapy terms are explained |
#
# ## 1 · A pair of images
#
# We practise on a **validation** patient. The test patients come once, in section 6.

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

from vaelite.data.cases import load_cases
from vaelite.data.intensity import from_unit, hu_to_unit, to_unit
from vaelite.dose import figures, tables as dose_tables
from vaelite.dose.altered_ct import SWEEPS, bone_scaled, noise, shifted
from vaelite.dose.evaluation import (ORGANS_SHOWN, compare_cts, compare_doses, doses_beside, load_doses, one_beam_table,
                                     plan_of_case, prescriptions, structures_in_body, telling_curves)
from vaelite.dose.gamma import gamma_map, gamma_pass_rate
from vaelite.dose.metrics import SERIAL_ORGANS, dvh, target_dose_error
from vaelite.dose.plan import depth_dose_in_water, radiological_depth, recalculate, relative_density_table
from vaelite.evaluation import tables
from vaelite.evaluation.comparison import half_widths
from vaelite.evaluation.metrics import every_convention, mae_hu, ssim
from vaelite.evaluation.probes import draw_pair
from vaelite.evaluation.rows import METHODS, rows_of
from vaelite.explore.panel import explore
from vaelite.figures import draw_translations
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import evaluate, load_translator

# %%
cfg = profile(profile_name)
cases, run = load_cases(data_dir), open_run(run_dir)
translator = load_translator(run, cfg)                       # refuses, and says what to do, if a lesson is missing
case = next(case for case in cases if case.split == "validation")
sources = [m for m in translator.modalities if m != "CT" and m in case.modalities]
missing = sorted({"CBCT", "T1c", "T2w"} - set(sources))
patients = [{case.patient for case in cases if case.split == name} for name in ("train", "validation", "test")]
assert sum(map(len, patients)) == len(set.union(*patients)), "no patient is in two splits"
print(f"{case.name}: synthetic CTs from {', '.join(sources)}.")
if missing:
    print(f"Left out, not in these data: {', '.join(missing)}.")
source = sources[0]
ct_hu, body = case.volume("CT"), case.mask()
unit, _ = to_unit(case.volume(source), source, body)         # [z, y, x], HU or MR -> [-1, 1]
sct_hu = from_unit(translator.volume_unit(unit, source, "CT"), "CT")
assert ct_hu.shape == sct_hu.shape == body.shape, "one grid"
print(f"CT and synthetic CT in HU, [z, y, x]: {ct_hu.shape} voxels of {' x '.join(f'{mm:.3g}' for mm in case.spacing_mm)} mm.")
z = int(0.6 * len(ct_hu))
draw_translations(source, unit[z], "CT", hu_to_unit(ct_hu)[z], {"copy": unit[z], "vaelite": hu_to_unit(sct_hu)[z]},
                  case.spacing_mm[2], body[z])

# %% [markdown]
# **Look.** Source, synthetic CT, real CT; below, the errors. Would you plan on it?
#
# ## 2 · A number without its convention is not a number
#
# PSNR is $10 \log_{10}(R^2/\mathrm{MSE})$, with the mean squared error MSE. Which range $R$? Over which voxels? Papers differ,
# and often do not say. Below, `mr1` is meant for MR: the 0.5 to 99.5 percentile of the reference becomes 0 to 1. The SSIM of
# `synthrad2025` multiplies five scales (Wang et al. 2003).
#
# **Predict.** This one pair, five conventions: by how many dB can PSNR differ?
#
# ### Explore 1: the same picture, another number

# %%
my_guess_db = None                                           # dB between the lowest and the highest
assert mae_hu(ct_hu, ct_hu, body) == 0 and abs(ssim(ct_hu, ct_hu, body, "synthrad2023") - 1) < 1e-6, "a CT is like itself"
made_hu = {name: from_unit(translator.volume_unit(unit, source, "CT", name), "CT")
           for name in ("vaelite", "unet", "copy") if name in translator.methods()}
scores = {name: every_convention(ct_hu, volume, body) for name, volume in made_hu.items()}
decibels = [found["PSNR"] for found in scores["vaelite"].values()]
print(f"One pair of images: PSNR differs by {max(decibels) - min(decibels):.1f} dB. You said {my_guess_db}.")
display(Markdown(tables.conventions_table(scores["vaelite"])))
inside = np.flatnonzero(body.any((1, 2)))
draw = partial(draw_pair, ct_hu, made_hu, body, case.spacing_mm[2], scores)
explore(draw, "The picture stays. Which convention gives the most dB: is it the range, or the voxels that count?",
        convention=list(scores["vaelite"]), method=widgets.Dropdown(options=[(METHODS[name], name) for name in made_hu]),
        slice_number=widgets.IntSlider(z, int(inside[0]), int(inside[-1])))

# %% [markdown]
# **Read.** Two things move: the **range** (a wide window buys dB) and the **voxels** that count (air outside the patient is easy,
# and the grid is full of it). So every number in our report carries its convention. Compare only within one, on one set of
# patients.
#
# ### Try it 1: undo the flattery
#
# A paper reports an MAE over the whole grid. The body fills a fraction of it; outside, the error is 0. What is the MAE inside
# the body?

# %% tags=["exercise"]
def my_body_mae(grid_mae_hu, body_fraction):
    ...                                                      # one line


# %% tags=["check"]
from vaelite.exercises import check_body_mae, check_d95, check_gamma, check_transmission

print(check_body_mae(my_body_mae))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_body_mae(grid_mae_hu, body_fraction):
    return grid_mae_hu / body_fraction


print(check_body_mae(my_body_mae))

# %% [markdown]
# ## 3 · What a photon cares about
#
# A beam of photons is attenuated by electrons. Through layers of thickness $d_i$ with attenuation coefficients
# $\mu_i$ comes (Lambert-Beer) the fraction
#
# $$ T = \exp\Big(-\sum_i \mu_i d_i\Big) $$
#
# The sum divided by $\mu_\mathrm{water}$ is the **radiological depth**: the water that would attenuate as much.
#
# ### Try it 2: a slab whose truth is known

# %% tags=["exercise"]
def my_transmission(mu_per_cm, thickness_cm):
    """Two arrays of equal length: coefficient and thickness of each layer -> fraction that comes through."""
    ...                                                      # one line; numpy is np


# %% tags=["check"]
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
at_5_cm, at_10_cm = np.interp((5, 10), depth_cm, dose_percent)
percent_per_mm = float(at_5_cm - at_10_cm) / 50
published_percent = 67                                       # British Journal of Radiology, supplement 25; same beam
assert abs(at_10_cm - published_percent) < 4, "a few percent, as the text below says"
print(f"At 10 cm: {at_10_cm:.1f} %, published: about {published_percent} %.")
figures.draw_depth_dose(depth_cm, dose_percent, f"Dose peaks at {10 * depth_cm[dose_percent.argmax()]:.0f} mm, then each "
                                                f"mm of water costs {percent_per_mm:.2f} % (5 to 10 cm)")

# %% [markdown]
# **Read.** A few percent off is what a pencil beam can promise. The price of a millimetre is in percent of the **maximum**. The
# engine knows no HU, only **electron density** relative to water, by one table for plan and recalculation (pyRadPlan's default; a
# clinic measures its own scanner's).
#
# **Predict** the costliest: muscle 40 HU too high along 100 mm, a skull at half its HU (8 mm), a cavity filled with water
# (25 mm), a CBCT's shading of -60 HU along 150 mm.

# %%
hu, density = relative_density_table()
assert abs(np.interp(0, hu, density) - 1) < 0.02, "0 HU is water"
more = [100 * float(np.interp(at + 40, hu, density) - np.interp(at, hu, density)) for at in (0, 1000)]
display(figures.draw_density_table(hu, density, {"air": (-1050, -200), "soft": (-200, 250), "bone": (250, 3050)},
                                   f"40 HU more: {more[0]:+.1f} % of water's density in soft tissue, {more[1]:+.1f} % in bone"))
errors = {"muscle 40 HU too high, 100 mm": (50, 90, 100), "skull at half its HU, 8 mm": (1000, 500, 8),
          "air cavity filled with water, 25 mm": (-1000, 0, 25), "CBCT shading -60 HU, 150 mm": (40, -20, 150)}
Markdown(one_beam_table(errors, percent_per_mm))

# %% [markdown]
# **Read.** What counts is density times path (1 HU of bone is about half of 1 HU of soft tissue). A skull hundreds of HU wrong
# is thin; a shading that the eye forgives lies along the whole beam. A filled cavity costs most.
#
# ## 4 · A plan
#
# Photon fields from around the head (intensity modulated, **IMRT**). The visible tumour (**GTV**) with what it
# may have invaded unseen (**CTV**) and a margin for positioning makes the target volume (**PTV**). The planner prescribes a
# dose to it and limits for organs; an optimiser finds the *fluence*, how much each small piece of a beam sends. All our choice:
# the paper publishes no geometry. The **DVH** (dose-volume histogram) says which part of a structure gets at least which dose.

# %%
targets_gy = prescriptions(case)
plan = None
if targets_gy:
    contours = structures_in_body(case)
    plan = plan_of_case(case, cfg.dose, run)                 # kept in the run: made again only if something changes
    assert np.allclose(recalculate(plan, ct_hu), plan.dose_gy, rtol=1e-4), "the same fluence on the same CT is the same dose"
    ptv = max(targets_gy, key=targets_gy.get)
    d95_gy = float(np.percentile(plan.dose_gy[contours[ptv]], 5))
    finding = f"{len(plan.gantry_deg)} fields: 95 % of {ptv} get {d95_gy:.1f} Gy of {targets_gy[ptv]:g} Gy"
    for organ in [name for name in SERIAL_ORGANS if name in contours]:
        shared = int((contours[organ] & contours[ptv]).sum())
        print(f"{organ}: Dmax {plan.dose_gy[contours[organ]].max():.1f} Gy; {shared} of its voxels lie in {ptv}.")
    display(figures.draw_dose_wash(ct_hu, plan.dose_gy, contours, case.spacing_mm, plan.prescription_gy, finding))
else:
    print(f"Left out: {case.name} has no prescription with a contour. Sections 4, 5 and 8 need one.")

# %% [markdown]
# **Read.** The dose (coloured from 10 % of the prescription) is highest in the target, of which a cut may show one part only,
# and falls with the distance from it; voxels shared with the target (printed above) get its dose. A teaching plan, but the same
# on **both** CTs.
#
# ### Try it 3: D95 by hand
#
# $D_{95}$ is the dose that 95 % of the volume receive **at least**: the coverage of the target in one number.

# %% tags=["exercise"]
def my_d95(dose_gy):
    """dose_gy: the dose of each voxel of a structure (n,) [Gy] -> D95 [Gy]."""
    ...                                                      # one line


# %% tags=["check"]
print(check_d95(my_d95))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_d95(dose_gy):
    return float(np.percentile(dose_gy, 5))                  # 5 % get less, so 95 % get at least this


print(check_d95(my_d95))

# %% [markdown]
# ## 5 · Break it: half the skull
#
# The usual verdict on two doses is the **gamma index** (Low et al. 1998). For each point $r$ of the reference dose $D$, look for
# the nearest point $r'$ of the other dose $D'$, in millimetres **and** in dose, each measured in units of its criterion:
#
# $$ \gamma = \min_{r'} \sqrt{\frac{|r - r'|^2}{\Delta d^2} + \frac{(D(r) - D'(r'))^2}{\Delta D^2}} $$
#
# A point passes if $\gamma \le 1$. "2 %/2 mm" is $\Delta D$ = 2 % of the prescription (`dose_percent`) and $\Delta d$ = 2 mm
# (`distance_mm`).
#
# We now damage the CT: every bone gets **half its HU**. Same fluence, new dose. Where the plan has at least 90 % of the
# prescription ("the target", here and in section 8), **MAE_target** is the mean absolute dose error and **ME_target** the mean
# with its sign, both in % of the prescription.
#
# **Predict.** How many percent of the points pass 2 %/2 mm?

# %%
my_guess_percent = None
damaged_hu = bone_scaled(ct_hu, body, percent=50)
passed = {}
if plan is not None:
    damaged_gy = recalculate(plan, damaged_hu)               # dose [z, y, x] in Gy
    settings = {"normalisation_gy": plan.prescription_gy, "cutoff_percent": cfg.dose.cutoff_percent,
                "mode": cfg.dose.gamma_mode}
    criterion = {"dose_percent": 1, "distance_mm": 1} | settings
    assert gamma_pass_rate(plan.dose_gy, plan.dose_gy, case.spacing_mm, **criterion)["pass_percent"] == 100
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
    finding = (f"Bone at half its HU passes {loose} in {passed[loose]:.2f} % of the voxels; MAE_target is "
               f"{error_percent:.1f} %, some voxels get {high_percent:.1f} % too much")
    display(figures.draw_comparison(ct_hu, damaged_hu, plan.dose_gy, damaged_gy, gamma, case.spacing_mm,
                                    plan.prescription_gy, finding, z_hot, f"gamma {percent:g} %/{mm:g} mm"))
    curves = {name: {"plan": dvh(plan.dose_gy, mask), "bone at half its HU": dvh(damaged_gy, mask)}
              for name, mask in contours.items() if name.startswith(ORGANS_SHOWN)}
    change_gy = float(np.percentile(damaged_gy[contours[ptv]], 5)) - d95_gy
    display(figures.draw_dvh(curves, f"Half the bone moves D95 of {ptv} by {change_gy:+.2f} Gy", targets_gy))

# %% [markdown]
# **Read.** Half of every bone's HU is gone, and few voxels fail. Why? Bone is thin and all beams share the error, so the dose
# changes little: where it changes by less than 2 % **of the prescription** (the title has the largest) gamma cannot fail, and
# beyond that one may search 2 mm around for a match. Gamma judges the dose, not the CT. The paper (Liang et al. 2025) reports
# rates above 99 % and not their criteria. The target's mean error and the DVH show what a pass rate hides: size and sign.
#
# ### What does tell?
#
# Two more CTs with **the same MAE** as the half skull: white noise, and one bias everywhere.
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
        judged[name] = {dose_tables.STAND_IN_METRICS[metric]: value for (metric, _), value in
                        compare_cts(plan, ct_hu, other_hu, depth_mm).items()}
        for table, metric, in_unit, _, value, _ in compare_doses(plan, other_gy, cfg.dose):
            judged[name] |= {f"{metric}, fails [%]": 100 - value} if table == "gamma" else {f"{metric} [{in_unit}]": value}
        judged[name][f"D95 of {ptv}, change [Gy]"] = float(np.percentile(other_gy[contours[ptv]], 5)) - d95_gy
    maes = [of_ct[dose_tables.STAND_IN_METRICS["MAE"]] for of_ct in judged.values()]
    assert max(maes) - min(maes) < 1, "the three are equal for MAE, to 1 HU"
    worst = max(judged, key=lambda name: judged[name]["MAE_target [% of prescription]"])
    hidden = [measure for measure in judged["bone"] if "fails" in measure and all(cts[measure] < 1 for cts in judged.values())]
    print(f"Largest dose error: {worst}. You said {my_guess}. All three above 99 % at:",
          ", ".join(measure.split(",")[0] for measure in hidden) or "no criterion")
    display(Markdown(dose_tables.judged_table(judged)))

# %% [markdown]
# **Read.** The last two columns are what a measure can tell. MAE: 1, by design. A huge ratio only means that the noise is near 0
# (it cancels along a beam): compare bone with bias, which adds up. The error of the **radiological depth** in front of the
# target (its size; mean over the beams) orders them without any dose; MAE_target and D95 see it in the dose. A loose gamma does
# not tell the three apart; how **much** fails at 1 %/1 mm tells more. A physicist looks at the target's mean error first.
#
# ### Try it 4: gamma of one point
#
# Write the formula for one reference point ($r$, $D$: `x_mm`, `dose_gy`) and a list of points of the other dose along a line.

# %% tags=["exercise"]
def my_gamma(x_mm, dose_gy, other_x_mm, other_dose_gy, distance_mm, criterion_gy):
    """x_mm, dose_gy: the reference point; other_*: (n,) arrays -> gamma, one number."""
    ...                                                      # one or two lines


# %% tags=["check"]
print(check_gamma(my_gamma))

# %% tags=["solution"] jupyter={"source_hidden": true}
def my_gamma(x_mm, dose_gy, other_x_mm, other_dose_gy, distance_mm, criterion_gy):
    squared = ((other_x_mm - x_mm) / distance_mm) ** 2 + ((other_dose_gy - dose_gy) / criterion_gy) ** 2
    return float(np.sqrt(squared.min()))


print(check_gamma(my_gamma))

# %% [markdown]
# ## 6 · The test patients, once
#
# This is the only cell, in all four lessons, that **judges** the test patients of these data: images of all of them, in every
# direction and by every method; dose, which takes longer, on the first `cfg.dose.cases` that can be planned. Go back and change
# a knob because a number disappoints you, and the test has become a second validation: you need new patients.

# %%
from vaelite.report import card_table, training_table

report = evaluate(cases, run, anew=False)                   # as kept, if nothing changed since
counts = report["data"]["cases"]
print(f"{len(report['rows']):,} numbers, each with its convention and n, from {counts['test']} test patient(s).")
Markdown(training_table(report))

# %% [markdown]
# ## 7 · Pictures in numbers
#
# Mean ± SD over test patients (no SD for a single one), never over slices; the best mean of each row is bold. The whole grid is
# folded in.
#
# **Predict**: from which source is CT the hardest, does any baseline beat us there, and is a baseline that loses in all test
# patients *significantly* worse?

# %%
into_ct = {}                                                 # {source: {method: mean MAE in the body [HU]}}
for row in rows_of(report, table="translation", target="CT", metric="MAE", convention="synthrad2023"):
    into_ct.setdefault(row["source"], {})[row["method"]] = row["mean"]
hardest = max(into_ct, key=lambda origin: into_ct[origin]["vaelite"])
ours = into_ct[hardest]["vaelite"]
ahead = [METHODS[name] for name, mean in into_ct[hardest].items() if mean < ours]
print(f"CT is hardest from {hardest}: {ours:.0f} HU by vaelite; better there: {', '.join(ahead) or 'none'}.")
in_body, on_grid = ([tables.translation_table(report, metric, whole) for metric in ("MAE", "PSNR", "SSIM")]
                    for whole in (False, True))
closer = []
if rows_of(report, table="fusion"):
    print(tables.fusion_sentence(report))
    closer += [tables.fusion_table(report)]
if rows_of(report, table="uncertainty"):
    print(tables.uncertainty_sentence(report))
    closer += [tables.uncertainty_table(report)]
folded = ["<details><summary>The same over the whole grid: MAE, PSNR, SSIM</summary>", *on_grid, "</details>"]
alone = ["**Reconstruction by the tokenizer alone**", tables.reconstruction_table(report)]
if rows_of(report, table="comparison", target="CT"):
    closer += ["**More than luck?** The patients are the same for every method: compared patient by patient",
               tables.comparison_table(report, "CT")]
Markdown("\n\n".join([*in_body, *closer, *alone, *folded, f"**The paper beside it.** {tables.NOT_COMPARABLE}"]))

# %% [markdown]
# **Read.** First the printed sentences: who is better where CT is hardest, for which targets more sources help, whether the
# intervals hold 80 %. One whose width does not go with the error warns of nothing. The paper's figures cannot be compared with
# ours: other patients, an unknown mask and window (section 2), and a phantom is cleaner than any patient.
#
# *More than luck*: the interval says how large the difference is, p how often chance alone would order patients like this,
# Holm what is left of it when many questions are asked at once. Few patients can show a size, hardly a proof.
#
# ### What the mean hides
#
# Tissues, shapes, the way from slice to slice, and a lesion that nobody wants to lose. How sure is a mean? The bars are
# Student's 95 % interval.

# %%
closer = (tables.shape_table, tables.slices_table, tables.lesion_table)
display(Markdown("\n\n".join(text for table in closer if (text := table(report)))))
(row,) = rows_of(report, table="translation", method="vaelite", source=source, target="CT", metric="MAE",
                        convention="synthrad2023")
half_hu = half_widths(row["values"])
known = f"known to ±{half_hu[-1]:.1f} HU" if row["n"] > 1 else "which says nothing about another one"
figures.draw_mean_against_n(row["values"], half_hu, "HU", f"{source} → CT: {row['mean']:.1f} HU from n = {row['n']} patient(s), "
                                                          f"{known}")

# %% [markdown]
# **Read.** A mean over the body is mostly a mean over soft tissue. Bone and air are where MR is blind. A jump ratio far below 1
# is an over-smooth CT, which a low MAE rewards. *Kept* above 100 % exaggerates. *Invented* is lesson 03's question: the method
# with the lowest MAE need not be the one that invents least.
#
# ## 8 · Dose in numbers
#
# The plan is made on the real CT. The **same fluence** is calculated again on each synthetic CT, and on what a clinic uses
# without one: the **raw CBCT**, the body as **water**, and **water + bone + air** (bulk densities).
#
# **Predict.** Which would a clinic accept, if MAE_target may exceed 2 % (our choice) in no patient? The first figure
# shows ME_target, as too much is another harm than too little, and MAE_target as a whisker; the second what **fails** gamma
# (ridge and "no latents": in the table only), on a logarithmic axis.

# %%
has_dose = bool(rows_of(report, table="gamma"))
if has_dose:
    display(Markdown(dose_tables.gamma_table(report)))
    print(dose_tables.gamma_sentence(report))
    counted = {(row["source"], row["n"]) for row in rows_of(report, table="gamma")}
    assert len(counted) == len(dict(counted)), "every method of a source is judged on the same patients"
    by_label = [{dose_tables.dose_label(row["source"], row["method"]): row["values"] for key in dose_tables.dose_methods(report)
                 for row in rows_of(report, table="dose", metric=metric) if (row["source"], row["method"]) == key}
                for metric in ("ME_target", "MAE_target")]
    signed, largest = by_label[0], {label: max(values) for label, values in by_label[1].items()}
    beyond = [label for label, percent in largest.items() if percent > 2]
    finding = f"{len(beyond)} of {len(signed)} replacements have a MAE_target above 2 % in a patient"
    display(figures.draw_errors_by_patient(signed, finding, largest=largest))
    rates = {key: {} for key in dose_tables.dose_methods(report) if key[1] not in ("ridge", "control")}
    for row in rows_of(report, table="gamma"):
        criterion = row["metric"].removeprefix("gamma ").replace("%/", " %/").replace("mm", " mm")
        rates.get((row["source"], row["method"]), {})[criterion] = row["mean"]
    spread = {c: np.ptp([rate[c] for rate in rates.values()]) for c in next(iter(rates.values()))}
    (loose, at_loose), *_, (strict, at_strict) = spread.items()
    display(figures.draw_pass_rates(rates, f"Best and worst of these lie {at_loose:.1f} points apart at {loose}, "
                                           f"{at_strict:.1f} at {strict}"))
else:
    print("Left out: no test patient has contours with a prescription, so no dose was calculated.")

# %% [markdown]
# **Read.** A replacement is acceptable, by this limit, if its whisker stays in the grey in every patient, as the report card
# asks. The signed mean could hide too much here and too little there. A pass rate that hardly differs between the best and the
# worst has not judged them.
#
# **Predict.** Does a lower MAE of the image mean a lower error of the dose?

# %%
if has_dose:
    panels, finding = dose_tables.prediction_panels(report)
    display(figures.draw_error_against_dose(panels, finding))
    display(Markdown(dose_tables.prediction_table(report)))
    print(dose_tables.order_sentence(report))

# %% [markdown]
# **Read.** Where CTs from CBCT and from MR differ by hundreds of HU, MAE tells them apart. Within one source, where the choice
# between methods is made, it need not order them. MAE forgets the sign, and a bias adds up along a beam where noise cancels. The
# radiological depth adds up as the beam does, needs no plan but its directions, and says *why* a dose is wrong.
#
# How large may an error be? Errors of known size on one test patient, the same plan: HU shifted, bone scaled, air filled, and
# the **field of view cut**: a scanner narrower than the widest slice, often the shoulders, leaves air where the skin was.
#
# **Predict.** Which is a straight line, and which costs nothing at first?

# %%
curves = dose_tables.sensitivity_curves(report)
if curves:
    shown = [metric for metric in curves["bone HU"] if metric.startswith("gamma ")][1:]
    for kind, curve in curves.items():
        same = curve["amount"].index(SWEEPS[kind].none)
        assert curve["ME_target"][same] == 0 and all(curve[metric][same] == 100 for metric in shown), "no change, no error"
    half_percent = curves["bone HU"]["ME_target"][curves["bone HU"]["amount"].index(50)]
    bias, cut = curves["uniform HU bias"], curves["field of view cut"]
    per_10_hu = 10 * float(np.polyfit(bias["amount"], bias["ME_target"], 1)[0])
    finding = f"10 HU everywhere cost {per_10_hu:+.2f} % in the target; half of every bone's HU {half_percent:+.2f} %"
    display(figures.draw_sensitivity(curves, tuple(shown), finding))
    display(Markdown(dose_tables.sensitivity_table(curves["bone HU"], "bone HU")))
    if judged:
        print(f"Half the bone: {half_percent:+.2f} % here, {judged['bone']['ME_target [% of prescription]']:+.2f} % in section 5 "
              f"({case.name}). Another patient, other bones in front of the target.")
    print(f"2 % in the target are reached at {20 / abs(per_10_hu):.0f} HU everywhere, by the fitted line (n = 1 patient).")
    print("Field of view cut:", ", ".join(f"{mm:g} mm {percent:+.2f} %" for mm, percent in zip(cut["amount"], cut["ME_target"])))

# %% [markdown]
# **Read.** A straight line through 0 is a price list: the title has the price of 10 HU, the table that of each quarter of the
# bone. A cut costs nothing until it reaches the slices that the beams cross: nothing was forgiven, nothing was hit.
#
# Now one test patient and the source that is hardest for dose: the target, and the organ whose mean dose `vaelite` gets most
# wrong; then all structures in numbers. **Dx** is the dose that x % of a structure get at least (**D2**: its hottest 2 %),
# **V95** the part of it with at least 95 % of the prescription, **Dmax** the highest dose of any voxel, **Dmean** the mean.
# Targets are judged by D95 and D2, a cord or brainstem by Dmax, as one hot spot harms it, a gland by Dmean, as the spared part
# works on. Then **Explore 2**: where is the dose wrong?

# %%
if has_dose:
    row = max(rows_of(report, table="dose", method="vaelite", metric="MAE_target"), key=lambda row: row["mean"])
    origin = row["source"]
    tested = next(case for case in cases if case.name == row["cases"][0])
    levels_gy, doses = prescriptions(tested), load_doses(run, tested.name)     # {name: dose [z, y, x] in Gy}
    top = max(levels_gy, key=levels_gy.get)
    masks = {name: mask for name, mask in structures_in_body(tested).items() if name.startswith(ORGANS_SHOWN)}
    shown = doses_beside(doses, tested, origin)
    of_target = {name: np.percentile(shown[name][masks[top]], (5, 50)) for name in ("vaelite", "plan")}
    d95_change, d50_change = of_target["vaelite"] - of_target["plan"]
    finding = f"{tested.name}: the CT from {origin} changes D95 of {top} by {d95_change:+.2f} Gy, D50 by {d50_change:+.2f} Gy"
    display(figures.draw_dvh(telling_curves(shown, masks, top), finding, levels_gy))
    display(Markdown(dose_tables.dvh_table(report)))
    if set(SERIAL_ORGANS) <= masks.keys():
        shared = int(np.all([masks[name] for name in SERIAL_ORGANS], axis=0).sum())
        print(f"Contours of {' and '.join(SERIAL_ORGANS)} share {shared} voxels in {tested.name}"
              + (": where the hottest is one of them, both have the same Dmax." if shared else "."))

# %%
panel = None
if has_dose:
    prescription_gy = levels_gy[top]
    reached = np.flatnonzero((doses["CT"] >= 0.1 * prescription_gy).any((1, 2)))
    hot = figures.hottest_slice(doses["CT"], prescription_gy)
    settings = {"normalisation_gy": prescription_gy, "cutoff_percent": cfg.dose.cutoff_percent,
                "mode": cfg.dose.gamma_mode}
    draw = partial(figures.draw_dose_view, tested.volume("CT"), doses, masks, top, tested.spacing_mm, settings,
                   figures.difference_limit(doses, prescription_gy))
    question = "Which synthetic CT has the largest dose error in the target, and which gamma criterion shows it?"
    parts = [name.split("/") for name in doses if name != "CT"]
    names = [(dose_tables.dose_label(s, method), f"{method}/{s}") for method, s in parts]
    panel = explore(draw, question, synthetic_ct=widgets.Dropdown(options=names, value=f"vaelite/{origin}"),
                    view=["difference", "dose", "gamma 3 %/3 mm", "gamma 2 %/2 mm", "gamma 1 %/1 mm"],
                    slice_number=widgets.IntSlider(hot, int(reached[0]), int(reached[-1])))
panel

# %% [markdown]
# **Read.** MAE_target, in the titles, tells the CTs apart. So may gamma's digits behind 99 %: the line below section 8's first
# table says how alike the two order them, and how many pass at each criterion. A rate that all pass has not judged.
#
# ## 9 · Ask a reader
#
# A metric cannot say whether a radiologist would trust the picture. The paper's readers scored synthetic MR lower than real MR;
# their number and scale are not published. Ours (our choice): five criteria from 1 to 5, then *real or synthetic?*, **blind**. A
# tenth comes twice: who does not agree with himself cannot judge us.
#
# **Predict.** Synthetic slices score half a point lower. With three readers, how many patients does it take to show it?

# %%
import inspect
import tempfile
from pathlib import Path

from vaelite.figures import draw_power
from vaelite.reader_study.answers import CRITERIA, QUESTIONS
from vaelite.reader_study.blinding import LEAK_P, leak_table
from vaelite.reader_study.panel import ReaderPanel
from vaelite.reader_study.statistics import power, reader_report, reader_tables
from vaelite.reader_study.study import leak_test, make_study, slice_pairs

my_guess_patients = None
patients = list(range(5, 41))
chance = {readers: [power(n, readers=readers) for n in patients] for readers in (1, 3, 5)}
scatter = {name: inspect.signature(power).parameters[name].default for name in ("patient_sd", "reading_sd", "slices")}
print(f"SD between patients {scatter['patient_sd']:g} points, between ratings {scatter['reading_sd']:g}; {scatter['slices']} "
      f"slices a patient. You said {my_guess_patients}. The criteria: {'; '.join(QUESTIONS[name].text for name in CRITERIA)}.")
draw_power(patients, chance, 0.5, counts["test"])

# %% [markdown]
# **Read.** A simulation; its scatters (printed) are our choice. The test is Wilcoxon's signed
# rank on one mean **per patient**: ten slices of one head are no ten patients. Up to seven patients cannot reach 5 % (five
# criteria, Holm's correction) even if every reader sees the difference each time.
#
# ### Take part
#
# Type your name and run the cells below. Each answer is kept at once. Without a name it is a rehearsal.
#
# **Is it blind?** Before a study is written, a classifier tries to tell real from synthetic *without looking at the patient*,
# from three hints: header, border and order of the pictures (ids and order are random: what it "finds" there is luck). If chance
# would guess as well less than once in a thousand times, the study is refused.
#
# **Break it.** Scanners leave noise in air, networks hardly any, so our studies show air in black. What if they did not?
# The last column tries it.

# %%
reader = ""                                                  # your name: letters and digits
mr_to_mr = [pair for pair in translator.directions() if {*pair} == {"T1c", "T2w"}]
given, wanted = (mr_to_mr or translator.directions())[0]
rehearsal = tempfile.TemporaryDirectory()
home = run.path / "readers" if reader else Path(rehearsal.name)
pairs = slice_pairs(translator, cases, given, wanted)
study = make_study(home / f"{given}-{wanted}", pairs, wanted, cfg.seed)
print(f"Real {wanted}, and {wanted} made from {given}: {len(study.order)} pictures of {counts['test']} patient(s).")
trials = leak_test(pairs, wanted, cfg.seed)
assert all(row["n"] == 2 * len(pairs) for row in trials["air black"]), "each slice once real, once synthetic"
given_away = [row["hint"] for row in trials["air as it is"] if row["p"] < LEAK_P]
print("With the air as it is the study is", f"refused: the {' and the '.join(given_away)} of the files tells." if given_away else
      f"not refused: {2 * len(pairs)} pictures are too few to tell, or this network makes noise in air as well.")
Markdown(leak_table(trials))

# %% [markdown]
# Now answer, with the mouse or without: Tab goes from answer to answer, space chooses. When you have answered all, lock: then
# nothing can be changed. When **every** reader has locked, the second cell opens the key. If readers do not agree with themselves
# (*kappa with oneself*) or with each other (*ICC*, *kappa between readers*; 1 = always, 0 = chance), the scores are noise.

# %%
panel = ReaderPanel(study, reader or "rehearsal")
panel

# %%
waiting = [name for name in study.readers() if not study.is_locked(name)]
if waiting:
    print(f"No result: {', '.join(waiting)} not locked.")
elif study.readers():
    display(Markdown(reader_tables(reader_report(study.unblind()))))
else:
    print("No result: nobody has answered. What stands here will be answers of people, never of a program.")

# %% [markdown]
# ## Check yourself
#
# 1. Two papers report CBCT → CT: 40 HU and 60 HU. Which is better?
# 2. A synthetic CT passes gamma 2 %/2 mm with 99.9 %. What do you ask next?
# 3. A beam with a maximum of 70 Gy crosses 3 mm of water too much. By how many Gy is the dose behind it, 5 to 10 cm deep,
#    wrong? Use the price from section 3; the next cell verifies.
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
    print(f"no: {percent_per_mm:.2f} % of the maximum for each mm, 3 mm, the maximum is 70 Gy")

# %% [markdown]
# ## 10 · The report card: so, is it good enough for dose?
#
# First the lesson's own question, source by source (2 % of MAE_target, section 8); then what else a clinic would ask. Where a
# baseline wins, it says so.

# %%
assert report["data"]["cases"]["test"] == sum(case.split == "test" for case in cases), "judged on these patients"
print(f"n = {counts['test']} test patient(s) of {report['data']['name']}. Research and teaching, not for treatment.")
Markdown(card_table(report))

# %% [markdown]
# **What we did.** We judged one run on patients it had never seen, each number with its convention and beside its baselines
# (`report.json`; doses in `dose/`).
#
# **What it cannot do.** A pencil beam does not model electrons at air cavities: its dose there is wrong on both CTs alike. What
# passes on a phantom is no clinical evidence.
#
# **Next.** Repeat the lessons on real CTs (`make run-all DATA=data/openkbp`, see the README) or on your own case folders. Then
# train with one knob changed (`.venv/bin/vaelite config` prints all) in a run folder of its own, for instance
# `.venv/bin/vaelite vae --data data/phantom-laptop --run runs/factor16 --set vae.factor=16`; `mapper`, `finetune`, `unet` and
# `evaluate` follow. Which number moves?
