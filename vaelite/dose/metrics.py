"""What a dose gives each organ, and how far it is from another one: DVH, its usual points, MAE_target.

A dose is the plan's total in Gy on a (z, y, x) grid; a structure is a boolean mask on the same grid.
"""
from __future__ import annotations

import numpy as np

from ..errors import VaeliteError

SERIAL_ORGANS = ("SpinalCord", "Brainstem")                 # one hot spot harms: report their maximum too


def dvh(dose_gy: np.ndarray, mask: np.ndarray, bins: int = 200,
        max_gy: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative dose-volume histogram -> (dose axis [Gy], volume receiving at least that dose [%]), `bins` + 1 points.

    The axis runs from 0 to `max_gy` (default: just above the structure's maximum). Raises VaeliteError if it is empty.
    """
    dose_in_structure = np.sort(_inside(dose_gy, mask, "the structure"))
    top_gy = 1.02 * float(dose_in_structure[-1]) + 1e-6 if max_gy is None else max_gy
    axis_gy = np.linspace(0.0, top_gy, bins + 1)
    below = np.searchsorted(dose_in_structure, axis_gy, side="left")
    return axis_gy, 100 * (1 - below / dose_in_structure.size)


def dvh_metrics(dose_gy: np.ndarray, structures: dict[str, np.ndarray],
                prescriptions_gy: dict[str, float]) -> list[dict]:
    """One row {"structure", "metric", "unit", "value"} per structure and metric.

    Dx [Gy] is the dose that x % of the volume receives at least. Prescribed targets: D98 D95 D50 D2 Dmean [Gy] and V95,
    the volume with at least 95 % of the prescription [%]. Others: Dmean, D2; cord, brainstem also Dmax (a voxel) [Gy].
    Raises VaeliteError on an empty structure.
    """
    rows = []
    for name, mask in structures.items():
        dose_in_structure = _inside(dose_gy, mask, name)
        percentiles = (98, 95, 50, 2) if name in prescriptions_gy else (2,)
        values = {f"D{x}": (np.percentile(dose_in_structure, 100 - x), "Gy") for x in percentiles}
        values["Dmean"] = (dose_in_structure.mean(dtype=np.float64), "Gy")
        if name in prescriptions_gy:
            values["V95"] = (100 * np.mean(dose_in_structure >= 0.95 * prescriptions_gy[name]), "%")
        if name.startswith(SERIAL_ORGANS):
            values["Dmax"] = (dose_in_structure.max(), "Gy")
        rows += [{"structure": name, "metric": metric, "unit": unit, "value": float(value)}
                 for metric, (value, unit) in values.items()]
    return rows


def target_dose_error(reference_gy: np.ndarray, evaluated_gy: np.ndarray, prescription_gy: float) -> float:
    """MAE_target [% of the prescription]: mean |difference| where the reference has at least 90 % of it."""
    return float(100 * np.abs(_target_differences(reference_gy, evaluated_gy, prescription_gy)).mean() / prescription_gy)


def target_dose_shift(reference_gy: np.ndarray, evaluated_gy: np.ndarray, prescription_gy: float) -> float:
    """ME_target [% of the prescription]: the mean difference in the same voxels, with its sign (evaluated - reference)."""
    return float(100 * _target_differences(reference_gy, evaluated_gy, prescription_gy).mean() / prescription_gy)


def _target_differences(reference_gy: np.ndarray, evaluated_gy: np.ndarray, prescription_gy: float) -> np.ndarray:
    if reference_gy.shape != evaluated_gy.shape:
        raise VaeliteError(f"The two doses lie on different grids: {reference_gy.shape} and {evaluated_gy.shape}.")
    if not (np.isfinite(prescription_gy) and prescription_gy > 0):
        raise VaeliteError(f"The prescription must be above 0 Gy, not {prescription_gy!r}.")
    if not np.isfinite(reference_gy).all():                  # a NaN is not ">= 90 %": it would be left out in silence
        raise VaeliteError("The reference dose is not finite everywhere: calculate it again.")
    high = reference_gy >= 0.9 * prescription_gy
    if not high.any():
        raise VaeliteError(f"No voxel of the reference dose reaches 90 % of {prescription_gy:g} Gy: check it.")
    if not np.isfinite(evaluated_gy[high]).all():
        raise VaeliteError("The evaluated dose is not finite in the target: recalculate it.")
    return evaluated_gy[high].astype(np.float64) - reference_gy[high]


def _inside(dose_gy: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
    if np.shape(mask) != dose_gy.shape:
        raise VaeliteError(f"The dose has {dose_gy.shape} voxels, {name} {np.shape(mask)}: they need one grid.")
    if np.asarray(mask).dtype != bool and not np.isin(mask, (0, 1)).all():
        raise VaeliteError(f"{name} is no mask of 0 and 1: set a threshold first.")
    inside = dose_gy[np.asarray(mask, bool)]
    if inside.size == 0:
        raise VaeliteError(f"{name} is empty: a dose-volume histogram needs a voxel. Leave it out (see Plan.left_out).")
    if not np.isfinite(inside).all():
        raise VaeliteError(f"The dose in {name} is not finite.")
    return inside
