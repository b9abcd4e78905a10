"""Judging a run by dose: a plan on each test patient's CT, its fluence on every CT that could stand in for it.

The stand-ins: the synthetic CTs of every method and source, the raw CBCT ("copy" of CBCT), and the clinic's own baselines
"water" and "bulk" (`altered_ct`). Rows are those of `evaluation.images`; a gamma row adds every parameter the number depends on.
runs/<name>/dose/<case>.npz keeps the doses, <case>-<hash>.plan.npz the plan: another gamma criterion or picture needs no
new one.
"""
from __future__ import annotations

import glob
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.cases import Case
from ..data.intensity import HU_MODALITIES, from_unit, to_unit
from ..errors import VaeliteError
from ..evaluation.images import IMAGE_METHODS, OnCase, Values, as_row
from ..evaluation.metrics import mae_hu, tissue_mae_hu
from ..evaluation.rows import markdown
from ..runs import Run, code_version, write_atomically
from ..translate import Translator
from .altered_ct import BULK, SWEEPS
from .gamma import gamma_pass_rate
from .metrics import dvh, dvh_metrics, target_dose_error, target_dose_shift
from .plan import DoseConfig, Plan, load_plan, plan_imrt, radiological_depth, recalculate, relative_density_table, save_plan

OF_ONE_PATIENT = ("pass_percent", "mean_gamma", "n_voxels", "spacing_mm", "normalisation_gy")    # of a gamma result
NOT_OF_A_PLAN = ("cases", "gamma_criteria", "gamma_mode", "cutoff_percent")                      # knobs of its judgement
OF_TARGET = "where the plan has >= 90 %"


def evaluate_dose(translator: Translator, cases: list[Case], config: DoseConfig, run: Run,
                  on_case: OnCase = print) -> list[dict[str, Any]]:
    """Tables "dose", "gamma", "dvh" and "stand-in" of the given test cases, "sensitivity" of the first -> report rows.

    "stand-in" says what each CT is like (MAE, MAE in bone, mean HU error, error of the radiological depth), so that one can
    ask what of it predicts the dose. Also keeps plans and doses, the latter under "CT" (the plan) and "<method>/<source>".
    """
    collected: Values = defaultdict(dict)
    parameters: dict[tuple, dict[str, Any]] = {}
    for number, case in enumerate(cases, 1):
        start = time.perf_counter()
        plan, structures, ct_hu = plan_of_case(case, config, run), structures_in_body(case), case.volume("CT")
        doses, wanted = {}, dvh_values(plan.dose_gy, structures, plan)
        for (metric, unit), value in wanted.items():
            collected["dvh", "plan", "CT", "CT", metric, unit, "planned dose"][case.name] = value
        depth_mm = radiological_depth(plan, ct_hu)
        for method, source, stand_in_hu in stand_ins(translator, case):
            dose_gy = recalculate(plan, stand_in_hu, max_missing_percent=100.0)         # a bad method is a result too
            doses[f"{method}/{source}"], direction = dose_gy, (method, source, "CT")
            for (metric, unit), value in dvh_values(dose_gy, structures, plan).items():
                difference = value - wanted[metric, unit]
                collected["dvh", *direction, metric, unit, "difference from planned dose"][case.name] = difference
            for (metric, unit), value in compare_cts(plan, ct_hu, stand_in_hu, depth_mm).items():
                collected["stand-in", *direction, metric, unit, "body mask"][case.name] = value
            for table, metric, unit, convention, value, of_gamma in compare_doses(plan, dose_gy, config):
                key = (table, *direction, metric, unit, convention)
                collected[key][case.name] = value
                note_parameters(parameters, key, case.name, of_gamma)
        save_doses(run, case.name, plan.dose_gy, doses)
        on_case(f"dose {number}/{len(cases)}  {case.name}  {time.perf_counter() - start:.0f} s")
    rows = [as_row(key, values, **parameters.get(key, {})) for key, values in collected.items()]
    return rows + (evaluate_sensitivity(cases[0], config, run, on_case) if cases else [])


def evaluate_sensitivity(case: Case, config: DoseConfig, run: Run, on_case: OnCase = print) -> list[dict[str, Any]]:
    """Table "sensitivity": errors of known kind and size on the CT of one patient, and what they do to its dose.

    The method is the kind of error (`altered_ct.SWEEPS`), "amount" and "amount_unit" its size.
    """
    start, rows = time.perf_counter(), []
    plan, ct_hu = plan_of_case(case, config, run), case.volume("CT")
    for name, sweep in SWEEPS.items():
        for amount in sorted((*sweep.amounts, sweep.none)):
            altered_hu = sweep.alter(ct_hu, plan.body, amount, plan.spacing_mm)
            dose_gy = plan.dose_gy if amount == sweep.none else recalculate(plan, altered_hu, max_missing_percent=100.0)
            of_ct = ("", "MAE", "HU", "body mask", mae_hu(ct_hu, altered_hu, plan.body), {})
            for _, metric, unit, convention, value, of_gamma in (of_ct, *compare_doses(plan, dose_gy, config)):
                key, more = ("sensitivity", name, "CT", "CT", metric, unit, convention), {}
                note_parameters(more, key, case.name, of_gamma)
                rows.append(as_row(key, {case.name: value}, amount=float(amount), amount_unit=sweep.unit, **more.get(key, {})))
    on_case(f"dose sensitivity  {case.name}  {time.perf_counter() - start:.0f} s")
    return rows


def stand_ins(translator: Translator, case: Case) -> Iterator[tuple[str, str, np.ndarray]]:
    """(method, source, CT [HU]) of everything that is asked to replace the CT of this patient, one after the other."""
    ct_hu, body = case.volume("CT"), case.mask()
    for source in (m for m in case.modalities if (m, "CT") in translator.directions()):
        unit, _ = to_unit(case.volume(source), source, body)
        for method in (m for m in IMAGE_METHODS if m in translator.methods()):
            if method != "copy" or source in HU_MODALITIES:  # an MR is no CT: its grey values are no densities
                yield method, source, from_unit(translator.volume_unit(unit, source, "CT", method), "CT")
    for method, of_bulk in BULK.items():
        yield method, "CT", of_bulk(ct_hu, body)


def compare_doses(plan: Plan, dose_gy: np.ndarray, config: DoseConfig) -> Iterator[tuple[str, str, str, str, float, dict]]:
    """(table, metric, unit, convention, value, what it depends on): error in the target, and gamma by each criterion."""
    for metric, function in (("MAE_target", target_dose_error), ("ME_target", target_dose_shift)):
        value = function(plan.dose_gy, dose_gy, plan.prescription_gy)
        yield "dose", metric, "% of prescription", OF_TARGET, value, {}
    for dose_percent, distance_mm in config.gamma_criteria:
        result = gamma_pass_rate(
            plan.dose_gy, dose_gy, plan.spacing_mm, dose_percent=dose_percent, distance_mm=distance_mm,
            normalisation_gy=plan.prescription_gy, cutoff_percent=config.cutoff_percent, mode=config.gamma_mode)
        of_gamma = result | {"reference": "dose on the planning CT"}
        yield "gamma", f"gamma {dose_percent:g}%/{distance_mm:g}mm", "%", "pass rate", result["pass_percent"], of_gamma


def compare_cts(plan: Plan, ct_hu: np.ndarray, other_hu: np.ndarray,
                depth_mm: np.ndarray) -> dict[tuple[str, str], float | None]:
    """{(metric, unit): value}: how another CT differs from the planning CT, whose radiological depths are `depth_mm`.

    "depth": mean over points of the target of |error of the radiological depth, mean over the beams| (our choice: what one beam
    loses another may gain, as in the dose).
    """
    error_mm = (radiological_depth(plan, other_hu) - depth_mm).mean(0)
    return {("MAE", "HU"): mae_hu(ct_hu, other_hu, plan.body),
            ("MAE bone", "HU"): tissue_mae_hu(ct_hu, other_hu, plan.body)["bone"],
            ("ME", "HU"): float((other_hu[plan.body].astype(np.float64) - ct_hu[plan.body]).mean()),
            ("depth", "mm"): float(np.abs(error_mm).mean())}


def dvh_values(dose_gy: np.ndarray, structures: dict[str, np.ndarray], plan: Plan) -> dict[tuple[str, str], float]:
    """{("PTV D95", "Gy"): value, ...}"""
    return {(f"{row['structure']} {row['metric']}", row["unit"]): row["value"]
            for row in dvh_metrics(dose_gy, structures, plan.prescriptions_gy)}


def note_parameters(parameters: dict[tuple, dict[str, Any]], key: tuple, case: str, of_gamma: dict[str, Any]) -> None:
    """Add what a gamma result depends on to its row: settings once, what differs between patients by patient."""
    if of_gamma:
        entry = parameters.setdefault(key, {"parameters": {k: v for k, v in of_gamma.items() if k not in OF_ONE_PATIENT}})
        for single in OF_ONE_PATIENT:
            entry.setdefault(single, {})[case] = of_gamma[single]


# ---------------------------------------------------------------------------------------------- what a patient brings along
def prescriptions(case: Case) -> dict[str, float]:
    """The prescribed dose [Gy] of each target this case really has; empty for a case that cannot be planned."""
    if "CT" not in case.modalities or not case.info.get("prescription_gy"):
        return {}
    structures = case.structures()
    return {name: float(dose) for name, dose in case.info["prescription_gy"].items()
            if name in structures and structures[name].any()}


def structures_in_body(case: Case) -> dict[str, np.ndarray]:
    """The structures that have a voxel inside the body, cut at it."""
    body = case.mask()
    return {name: mask & body for name, mask in case.structures().items() if (mask & body).any()}


# -------------------------------------------------------------------------------------------------- one patient, looked at
def one_beam_table(errors: dict[str, tuple[float, float, float]], percent_per_mm: float) -> str:
    """What {name: (true HU, wrong HU, path [mm])} costs behind it along one beam, as Markdown; percent_per_mm: of water."""
    (hu, density), rows = relative_density_table(), []
    for name, (true_hu, wrong_hu, path_mm) in errors.items():
        shift_mm = path_mm * float(np.interp(wrong_hu, hu, density) - np.interp(true_hu, hu, density))
        rows.append([name, f"{abs(wrong_hu - true_hu)}", f"{shift_mm:+.1f}", f"{-percent_per_mm * shift_mm:+.1f} %"])
    return markdown(["error along one beam", "HU off", "depth in water [mm]", "dose behind it, of the maximum"], rows)


ORGANS_SHOWN = ("PTV", "SpinalCord", "Brainstem", "Parotid")


def doses_beside(doses: dict[str, np.ndarray], case: Case, source: str) -> dict[str, np.ndarray]:
    """{"plan": [Gy], "vaelite", "U-Net", "raw CBCT", "water", "published plan"}: those of `load_doses` that there are."""
    keys = {"plan": "CT", "vaelite": f"vaelite/{source}", "U-Net": f"unet/{source}", "raw CBCT": "copy/CBCT", "water": "water/CT"}
    published_gy = case.published_dose_gy()
    return ({label: doses[key] for label, key in keys.items() if key in doses}
            | ({} if published_gy is None else {"published plan": published_gy}))


def telling_curves(doses: dict[str, np.ndarray], masks: dict[str, np.ndarray],
                   target: str) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """DVHs of the target and of the organ whose mean dose "vaelite" gets most wrong, as `draw_dvh` takes them."""
    off_gy = {name: abs(float((doses["vaelite"] - doses["plan"])[mask].mean())) for name, mask in masks.items()
              if name.startswith(ORGANS_SHOWN) and not name.startswith("PTV")}
    worst = [max(off_gy, key=off_gy.get)] if off_gy else []
    return {name: {label: dvh(dose_gy, masks[name]) for label, dose_gy in doses.items()} for name in (target, *worst)}


# ---------------------------------------------------------------------------------------------- what need not be made twice
def plan_of_case(case: Case, config: DoseConfig, run: Run) -> Plan:
    """The plan on the CT of a patient: made once, then read from the run for as long as nothing it depends on changes."""
    ct_hu, body, targets_gy = case.volume("CT"), case.mask(), prescriptions(case)
    structures = {name: mask for name, mask in case.structures().items() if mask.any()}
    folder = run.path / "dose"
    file = folder / f"{case.name}-{plan_key(case, ct_hu, body, structures, targets_gy, config)}.plan.npz"
    if file.exists():
        return load_plan(file)
    plan = plan_imrt(ct_hu, case.spacing_mm, structures, body, targets_gy, config)
    for older in folder.glob(f"{glob.escape(case.name)}-{'?' * 12}.plan.npz"):
        older.unlink()
    write_arrays(file, lambda opened: save_plan(plan, opened))
    return plan


def plan_key(case: Case, ct_hu, body, structures: dict[str, np.ndarray], targets_gy: dict[str, float], config: DoseConfig) -> str:
    """A hash of all that a plan depends on: images, contours, prescription, knobs and code."""
    knobs = {name: value for name, value in asdict(config).items() if name not in NOT_OF_A_PLAN}
    digest = hashlib.sha256(json.dumps([knobs, case.spacing_mm, targets_gy, list(structures), code_version()]).encode())
    for array in (ct_hu, body, *structures.values()):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:12]


def doses_file(run: Run, case: str) -> Path:
    return run.path / "dose" / f"{case}.npz"


def save_doses(run: Run, case: str, planned_gy: np.ndarray, doses: dict[str, np.ndarray]) -> None:
    arrays = {name: dose.astype(np.float32) for name, dose in ({"CT": planned_gy} | doses).items()}
    write_arrays(doses_file(run, case), lambda opened: np.savez(opened, **arrays))


def write_arrays(path: Path, write) -> None:
    def into(temporary: str) -> None:
        with open(temporary, "wb") as opened:
            write(opened)

    write_atomically(path, into)


def load_doses(run: Run, case: str) -> dict[str, np.ndarray]:
    """The doses [Gy] that `evaluate_dose` kept of one patient, by name; "CT" is the plan."""
    file = doses_file(run, case)
    if not file.exists():
        raise VaeliteError(f"{file} does not exist. Run `vaelite evaluate {run.path} --data ...` first.")
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
