"""The gamma index: how far, in dose and in millimetres, is each point from the nearest point of another dose?"""
from __future__ import annotations

import numpy as np

from ..errors import VaeliteError

try:
    from numba import njit, prange
except ImportError:                                         # an install without the `dose` extra: `gamma_map` says so
    njit, prange = None, range

GAMMA_MODES = ("global", "local")


def gamma_map(reference_gy: np.ndarray, evaluated_gy: np.ndarray, spacing_mm: tuple[float, float, float], *,
              dose_percent: float, distance_mm: float, normalisation_gy: float, cutoff_percent: float, mode: str,
              max_gamma: float = 1.5, steps: int = 10) -> np.ndarray:
    """Gamma of every reference voxel, searched in the evaluated dose; nan where the reference is below the cut-off.

    reference_gy, evaluated_gy: z y x [Gy] on one grid, spacing_mm (dz, dy, dx) -> z y x float32, capped at `max_gamma`.
    mode "global": the dose criterion is `dose_percent` of `normalisation_gy`; "local": of the reference voxel's dose.
    The cut-off is `cutoff_percent` of `normalisation_gy`. The evaluated dose is interpolated (trilinear) at points
    `distance_mm / steps` apart, nearest first; a point outside the grid is not a candidate.
    Raises VaeliteError if the grids differ, a dose is not finite, no voxel is above the cut-off, or numba is missing.
    Source: Low et al., Med Phys 25:656 (1998); search in order of distance: Wendling et al., Med Phys 34:1647 (2007).
    """
    if njit is None:
        raise VaeliteError("gamma needs numba, which is not installed: run `make .venv`, or `pip install -e .[dose]`.")
    _check_parameters(dose_percent, distance_mm, normalisation_gy, cutoff_percent, mode, max_gamma, steps)
    _check_spacing(spacing_mm)
    reference_gy, evaluated_gy = _check_doses(reference_gy, evaluated_gy)
    cutoff_gy = cutoff_percent / 100 * normalisation_gy
    if not (reference_gy >= cutoff_gy).any():
        raise VaeliteError(f"No voxel of the reference dose reaches the cut-off of {cutoff_gy:.3g} Gy (its maximum is "
                           f"{reference_gy.max():.3g} Gy): check normalisation_gy={normalisation_gy:g} Gy.")
    shifts_mm, distances_mm = _search_points(distance_mm, max_gamma, steps)
    shifts = np.ascontiguousarray(shifts_mm / np.asarray(spacing_mm, float))            # in voxels, z y x
    criterion = dose_percent / 100 * (normalisation_gy if mode == "global" else 1.0)    # Gy, or a fraction of the voxel
    gamma = np.full(reference_gy.shape, np.nan)
    _search(reference_gy, evaluated_gy, shifts, (distances_mm / distance_mm) ** 2,
            criterion, mode == "local", cutoff_gy, max_gamma, gamma)
    return gamma.astype(np.float32)


def gamma_pass_rate(reference_gy: np.ndarray, evaluated_gy: np.ndarray, spacing_mm: tuple[float, float, float], *,
                    dose_percent: float, distance_mm: float, normalisation_gy: float, cutoff_percent: float, mode: str,
                    max_gamma: float = 1.5, steps: int = 10) -> dict:
    """Share of voxels with gamma <= 1, together with every parameter that the number depends on.

    Same arguments and errors as `gamma_map`. Keys: pass_percent, n_voxels, mean_gamma, dose_percent, distance_mm, mode,
    normalisation_gy, cutoff_percent, spacing_mm, max_gamma, steps, interpolation, reference (whose voxels are judged).
    """
    gamma = gamma_map(reference_gy, evaluated_gy, spacing_mm, dose_percent=dose_percent, distance_mm=distance_mm,
                      normalisation_gy=normalisation_gy, cutoff_percent=cutoff_percent, mode=mode,
                      max_gamma=max_gamma, steps=steps)
    counted = gamma[np.isfinite(gamma)]
    return {
        "pass_percent": float(100 * np.mean(counted <= 1)), "n_voxels": int(counted.size),
        "mean_gamma": float(counted.mean()), "dose_percent": float(dose_percent), "distance_mm": float(distance_mm),
        "mode": mode, "normalisation_gy": float(normalisation_gy), "cutoff_percent": float(cutoff_percent),
        "spacing_mm": tuple(float(s) for s in spacing_mm), "max_gamma": float(max_gamma), "steps": int(steps),
        "interpolation": "trilinear", "reference": "first argument",
    }


def gamma_of_slice(reference_gy: np.ndarray, evaluated_gy: np.ndarray, spacing_mm: tuple[float, float, float], z: int, *,
                   distance_mm: float, max_gamma: float = 1.5, **criteria) -> np.ndarray:
    """`gamma_map` for axial slice z alone, in a fraction of its time: z y x, nan in all other slices.

    Same arguments and errors as `gamma_map`; only the slices that the search can reach are looked at.
    """
    if not 0 <= z < len(reference_gy):
        raise VaeliteError(f"gamma: there is no slice {z}; the dose has slices 0 to {len(reference_gy) - 1}.")
    _check_spacing(spacing_mm)
    reach = int(np.ceil(max_gamma * distance_mm / spacing_mm[0])) + 1
    near = slice(max(0, z - reach), z + reach + 1)
    found = gamma_map(reference_gy[near], evaluated_gy[near], spacing_mm, distance_mm=distance_mm, max_gamma=max_gamma,
                      **criteria)
    gamma = np.full(reference_gy.shape, np.nan, np.float32)
    gamma[z] = found[z - near.start]
    return gamma


def _check_parameters(dose_percent, distance_mm, normalisation_gy, cutoff_percent, mode, max_gamma, steps) -> None:
    if mode not in GAMMA_MODES:
        raise VaeliteError(f"gamma: mode must be one of {GAMMA_MODES}, not {mode!r}.")
    positive = {"dose_percent": dose_percent, "distance_mm": distance_mm, "normalisation_gy": normalisation_gy,
                "cutoff_percent": cutoff_percent, "steps": steps, "max_gamma": max_gamma}
    for name, value in positive.items():
        if not (np.isfinite(value) and value > 0):
            raise VaeliteError(f"gamma: {name} must be a positive number, not {value!r}.")
    if steps != int(steps):
        raise VaeliteError(f"gamma: steps must be a whole number, not {steps!r}.")
    if max_gamma <= 1:
        raise VaeliteError(f"gamma: max_gamma must be above 1, or nothing can fail; it is {max_gamma:g}.")


def _check_spacing(spacing_mm) -> None:
    values = np.asarray(spacing_mm, float)
    if values.shape != (3,) or not (np.isfinite(values).all() and (values > 0).all()):
        raise VaeliteError(f"gamma: spacing_mm must be three positive numbers (dz, dy, dx), not {spacing_mm!r}.")


def _check_doses(reference_gy: np.ndarray, evaluated_gy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both doses as contiguous float64 on one 3-D grid."""
    reference_gy, evaluated_gy = np.asarray(reference_gy), np.asarray(evaluated_gy)
    if reference_gy.shape != evaluated_gy.shape:
        raise VaeliteError(f"gamma: the doses lie on different grids, {reference_gy.shape} and {evaluated_gy.shape} "
                           "voxels. Calculate both on one grid, as `recalculate` does.")
    if reference_gy.ndim != 3 or min(reference_gy.shape) < 2:
        raise VaeliteError(f"gamma: a dose needs three axes of at least 2 voxels, not the shape {reference_gy.shape}.")
    for name, dose_gy in (("reference", reference_gy), ("evaluated", evaluated_gy)):
        if not np.isfinite(dose_gy).all():
            count = np.count_nonzero(~np.isfinite(dose_gy))
            raise VaeliteError(f"gamma: {count} voxels of the {name} dose are not finite. Recalculate it.")
    return (np.ascontiguousarray(reference_gy, dtype=np.float64), np.ascontiguousarray(evaluated_gy, dtype=np.float64))


def _search_points(distance_mm: float, max_gamma: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Shifts (n, 3) [mm] on a cubic grid in a ball of max_gamma * distance_mm, nearest first, and their lengths."""
    reach = int(np.ceil(max_gamma * steps))
    axis_mm = np.arange(-reach, reach + 1) * (distance_mm / steps)
    shifts_mm = np.stack(np.meshgrid(axis_mm, axis_mm, axis_mm, indexing="ij"), axis=-1).reshape(-1, 3)
    distances_mm = np.linalg.norm(shifts_mm, axis=1)
    inside = distances_mm <= max_gamma * distance_mm * (1 + 1e-9)
    shifts_mm, distances_mm = shifts_mm[inside], distances_mm[inside]
    order = np.argsort(distances_mm, kind="stable")
    return shifts_mm[order], distances_mm[order]


def _compile(**options):
    """numba's njit with a cache on disk, or without one where no folder can be written (a read-only install)."""
    def decorate(function):
        if njit is None:
            return function
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)
    return decorate


@_compile()
def _trilinear(volume, z, y, x):
    """The volume at a fractional index inside it."""
    z0, y0, x0 = min(int(z), volume.shape[0] - 2), min(int(y), volume.shape[1] - 2), min(int(x), volume.shape[2] - 2)
    fz, fy, fx = z - z0, y - y0, x - x0
    value = 0.0
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                weight = (fz if dz else 1 - fz) * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                value += weight * volume[z0 + dz, y0 + dy, x0 + dx]
    return value


@_compile(parallel=True)
def _search(reference, evaluated, shifts, distance2, criterion, local, cutoff_gy, max_gamma, gamma):
    """Fill `gamma` in place. distance2 is (distance / criterion)^2, ascending; shifts are in voxels."""
    nz, ny, nx = reference.shape
    for voxel in prange(reference.size):
        z, y, x = voxel // (ny * nx), (voxel // nx) % ny, voxel % nx
        dose = reference[z, y, x]
        if dose < cutoff_gy:
            continue
        scale = criterion * dose if local else criterion
        best = max_gamma**2
        for n in range(distance2.size):
            if distance2[n] >= best:                        # every later point is at least this far away
                break
            pz, py, px = z + shifts[n, 0], y + shifts[n, 1], x + shifts[n, 2]
            if pz < 0 or py < 0 or px < 0 or pz > nz - 1 or py > ny - 1 or px > nx - 1:
                continue
            difference = (_trilinear(evaluated, pz, py, px) - dose) / scale
            best = min(best, distance2[n] + difference**2)
        gamma[z, y, x] = np.sqrt(best)
