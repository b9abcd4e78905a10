"""Image metrics under named conventions: a number without its convention is not a number.

All functions take numpy volumes (z, y, x), compute in float64, and raise VaeliteError for shapes that differ, an empty
mask, a NaN or Inf, or a reference without range. SSIM is one formula (Wang et al. 2004, IEEE TIP 13:600, eq. 13) with
the window and the average that the convention names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import ndimage

from ..errors import VaeliteError


@dataclass(frozen=True)
class Convention:
    """What turns two volumes into one number.

    clip: HU range both volumes are clipped to, and its width is the data range; None: percentiles 0.5 and 99.5 of the
    reference in the mask are mapped to 0 and 1. whole_grid: average over all voxels, not over the mask.
    blank_outside: voxels outside the mask are set to clip[0] before SSIM. gaussian: window 11 and sigma 1.5 for SSIM,
    else a uniform window of 7. multi_scale: SSIM is the product over 5 scales.
    """

    label: str
    clip: tuple[float, float] | None
    whole_grid: bool = False
    blank_outside: bool = False
    gaussian: bool = False
    multi_scale: bool = False


CONVENTIONS = {
    "synthrad2023": Convention("body mask, [-1024, 3000] HU", (-1024.0, 3000.0), blank_outside=True),
    "synthrad2025": Convention("body mask, [-1024, 3071] HU", (-1024.0, 3071.0), blank_outside=True, multi_scale=True),
    "grid": Convention("whole grid, [-1024, 3000] HU", (-1024.0, 3000.0), whole_grid=True),
    "mr1": Convention("body mask, p0.5-p99.5 of the reference = 1, prediction on its scale", None, gaussian=True),
    "mr1_grid": Convention("whole grid, p0.5-p99.5 of the reference = 1, prediction on its scale", None, whole_grid=True, gaussian=True),
}
REPORTED = {  # modality -> (in the mask, over the grid)
    "CBCT": ("synthrad2023", "grid"), "CT": ("synthrad2023", "grid"),
    "T1c": ("mr1", "mr1_grid"), "T2w": ("mr1", "mr1_grid"),
}
UNIFORM_WINDOW = 7
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, section 3.2
IN_PLANE_CROSS = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
MS_SSIM_LENGTH = 97  # voxels per axis below which the organisers of SynthRAD2025 pad: 5 halvings leave a window of 7
AIR_BELOW_HU, BONE_ABOVE_HU = -200.0, 250.0  # our choice: fat is about -100, contrast-filled vessels stay below 250
EDGE_STEP_HU, EDGE_SIGMA_MM = 250.0, 2.0  # our choice: bone and air have edges, fat beside muscle (150 HU) has none


def mae_hu(reference_hu, predicted_hu, mask) -> float:
    """Mean absolute error inside `mask` [HU], unclipped. Pass a mask of ones for the whole grid."""
    reference, predicted, mask = _checked(reference_hu, predicted_hu, mask)
    return _mean_absolute(reference, predicted, mask)


def tissue_mae_hu(reference_hu, predicted_hu, mask) -> dict[str, float | None]:
    """MAE [HU] inside `mask` by the reference's HU: air < -200 <= soft <= 250 < bone; None where there is none."""
    reference, predicted, mask = _checked(reference_hu, predicted_hu, mask)
    regions = {"air": reference < AIR_BELOW_HU, "bone": reference > BONE_ABOVE_HU}
    regions["soft"] = ~(regions["air"] | regions["bone"])
    return {
        tissue: _mean_absolute(reference, predicted, mask & regions[tissue]) if (mask & regions[tissue]).any() else None
        for tissue in ("air", "soft", "bone")
    }


def dice_hu(reference_hu, predicted_hu, mask, spacing_mm) -> dict[str, float | None]:
    """Dice overlap [1] inside `mask` of air (< -200 HU), bone (> 250 HU) and edges; None where neither volume has any.

    Edge: the in-plane gradient, seen through a Gaussian of 2 mm, is at least that of a step of 250 HU; the outer 4 mm of
    the mask are left out, since everybody knows where the skin is (our choice). spacing_mm: (z, y, x) [mm].
    """
    reference, predicted, mask = _checked(reference_hu, predicted_hu, mask)
    inner = ndimage.binary_erosion(mask, IN_PLANE_CROSS, math.ceil(2 * EDGE_SIGMA_MM / min(spacing_mm[1:])))
    edges = (_edges(volume, spacing_mm) for volume in (reference, predicted))
    return {
        "air": _dice(reference < AIR_BELOW_HU, predicted < AIR_BELOW_HU, mask),
        "bone": _dice(reference > BONE_ABOVE_HU, predicted > BONE_ABOVE_HU, mask),
        "edge": _dice(*edges, inner),
    }


def slice_consistency(reference, predicted, mask, modality: str) -> dict[str, float]:
    """Do neighbouring slices fit together? {"jump ratio" [1], "MAE of jumps" [HU, MR: of range], "SSIM along z" [1]}.

    A jump is the difference between a voxel and the one in the next slice, both in the mask. Ratio: mean |jump| of the
    prediction over that of the reference; above 1 it flickers, below 1 it is smoother than the anatomy. SSIM along z: windows
    of 7 voxels along z alone, in the mask, 3 slices from either end. Ranges as in `image_metrics`; our choice of metrics.
    Raises VaeliteError for fewer than 7 slices and for a reference whose slices are all alike.
    """
    spec = _spec_of(modality)
    reference, predicted, mask = _checked(reference, predicted, mask)
    ranged_reference, ranged_predicted, data_range = _in_range(reference, predicted, mask, spec)
    if spec.clip is None:
        reference, predicted = ranged_reference, ranged_predicted
    both = mask[1:] & mask[:-1]
    jump, predicted_jump = np.diff(reference, axis=0), np.diff(predicted, axis=0)
    if not (jump * both).any():
        raise VaeliteError("All slices of the reference are alike in the mask: there is no jump to compare with.")
    region = _without_border(mask, (UNIFORM_WINDOW // 2, 0, 0))
    similarity = _ssim_map(ranged_reference, ranged_predicted, data_range, gaussian=False, window=(UNIFORM_WINDOW, 1, 1))
    return {
        "jump ratio": float(np.abs(predicted_jump).mean(where=both) / np.abs(jump).mean(where=both)),
        "MAE of jumps": _mean_absolute(jump, predicted_jump, both),
        "SSIM along z": float(similarity.mean(where=region)),
    }


def every_convention(reference, predicted, mask) -> dict[str, dict[str, float]]:
    """One pair under all conventions: {convention: {"MAE", "PSNR" [dB], "SSIM" [1]}}.

    MAE is in the volumes' unit, unclipped, under the conventions with an HU range, and a fraction of the reference's
    p0.5-p99.5 range under "mr1" and "mr1_grid".
    """
    values = {}
    for name, spec in CONVENTIONS.items():
        compared = _checked(reference, predicted, mask)
        ranged = compared[:2] if spec.clip is not None else _in_range(*compared, spec)[:2]
        values[name] = {"MAE": _mean_absolute(*ranged, _region(compared[2], spec)),
                        "PSNR": psnr_db(reference, predicted, mask, name), "SSIM": ssim(reference, predicted, mask, name)}
    return values


def psnr_db(reference, predicted, mask, convention: str) -> float:
    """Peak signal-to-noise ratio [dB], 10 log10(range^2 / MSE); infinite if the two agree in every voxel averaged."""
    spec = _spec(convention)
    reference, predicted, mask = _checked(reference, predicted, mask)
    reference, predicted, data_range = _in_range(reference, predicted, mask, spec)
    return _psnr(reference, predicted, _region(mask, spec), data_range)


def ssim(reference, predicted, mask, convention: str) -> float:
    """Structural similarity [1], at most 1; multi-scale for "synthrad2025".

    Uniform window: the outer 3 voxels of the grid are left out of the average, as scikit-image and the SynthRAD
    organisers do (their windows would reach outside); the grid must have 7 voxels along every axis.
    Gaussian window ("mr1", our choice): the grid is reflected at its faces and every voxel counts.
    """
    spec = _spec(convention)
    reference, predicted, mask = _checked(reference, predicted, mask)
    reference, predicted, data_range = _in_range(reference, predicted, mask, spec)
    if spec.multi_scale:
        return _multi_scale_ssim(reference, predicted, mask, data_range)
    return _ssim_of_checked(reference, predicted, mask, data_range, spec)


def image_metrics(reference, predicted, mask, modality: str) -> dict[tuple[str, str], float]:
    """Everything the report says about one predicted volume: {(convention, metric): value}.

    CBCT and CT (HU): MAE [HU], PSNR [dB], SSIM [1] under "synthrad2023" and "grid". MR, both volumes in the reference's
    grey values: the same under "mr1" and "mr1_grid", MAE as a fraction of the reference's p0.5-p99.5 range.
    """
    in_hu = _spec_of(modality).clip is not None
    in_mask, on_grid = REPORTED[modality]
    reference, predicted, mask = _checked(reference, predicted, mask)
    ranged_reference, ranged_predicted, data_range = _in_range(reference, predicted, mask, CONVENTIONS[in_mask])
    if not in_hu:
        reference, predicted = ranged_reference, ranged_predicted  # an MR error has no unit but the reference's range
        gaussian_map = _ssim_map(reference, predicted, data_range, gaussian=True)  # one map, averaged twice
    values = {}
    for convention in (in_mask, on_grid):
        spec = CONVENTIONS[convention]
        region = _region(mask, spec)
        values[convention, "MAE"] = _mean_absolute(reference, predicted, region)
        values[convention, "PSNR"] = _psnr(ranged_reference, ranged_predicted, region, data_range)
        if in_hu:
            values[convention, "SSIM"] = _ssim_of_checked(ranged_reference, ranged_predicted, mask, data_range, spec)
        else:
            values[convention, "SSIM"] = float(gaussian_map.mean(where=region))
    return values


def summarise(values) -> dict[str, float | int | None]:
    """{"mean", "sd", "n"} over patients: sd with n - 1, None for one patient. None values are left out and not counted.

    Raises VaeliteError if nothing is left or a value is NaN or infinite.
    """
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    if present.size == 0:
        raise VaeliteError("No values to summarise: no patient has this metric.")
    if not np.isfinite(present).all():
        raise VaeliteError(f"Cannot summarise NaN or infinite values: {present.tolist()}. Look at that patient first.")
    sd = float(present.std(ddof=1)) if present.size > 1 else None
    return {"mean": float(present.mean()), "sd": sd, "n": int(present.size)}


def _spec(convention: str) -> Convention:
    if convention not in CONVENTIONS:
        raise VaeliteError(f"Unknown convention {convention!r}. Choose one of {', '.join(CONVENTIONS)}.")
    return CONVENTIONS[convention]


def _spec_of(modality: str) -> Convention:
    """The convention of a modality in the mask."""
    if modality not in REPORTED:
        raise VaeliteError(f"Unknown modality {modality!r}. Choose one of {', '.join(REPORTED)}.")
    return CONVENTIONS[REPORTED[modality][0]]


def _checked(reference, predicted, mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference = np.asarray(reference, dtype=np.float64)
    predicted = np.asarray(predicted, dtype=np.float64)
    mask = np.asarray(mask)
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise VaeliteError("The mask must hold 0 and 1 only. Threshold it first.")
    mask = mask.astype(bool)
    if reference.ndim != 3 or not reference.shape == predicted.shape == mask.shape:
        raise VaeliteError(
            f"Reference {reference.shape}, prediction {predicted.shape} and mask {mask.shape} must be volumes "
            f"(z, y, x) on one grid. Resample first."
        )
    if not mask.any():
        raise VaeliteError("The mask is empty, so there is nothing to average. Check mask.nii.gz of this case.")
    for name, volume in (("reference", reference), ("prediction", predicted)):
        n_bad = volume.size - int(np.count_nonzero(np.isfinite(volume)))
        if n_bad:
            raise VaeliteError(f"{n_bad} voxels of the {name} are NaN or Inf: no metric is defined. Find their cause.")
    return reference, predicted, mask


def _in_range(reference, predicted, mask, spec: Convention):
    """(reference, predicted, data range), clipped as the convention says; HU shifted so that they start at 0."""
    low, high = value_range(reference, mask, spec)
    if spec.clip is not None:
        clipped = np.clip(reference, low, high)
        if np.ptp(clipped[mask]) == 0:
            raise VaeliteError(f"The reference is {clipped[mask][0]:g} HU everywhere in the mask, within {low:g} to {high:g} HU: "
                               "there is no picture to compare with. Is it the right file?")
        return clipped - low, np.clip(predicted, low, high) - low, high - low
    # mr1: the prediction gets the reference's map, never its own, or a wrong contrast would be forgiven
    reference, predicted = ((np.clip(volume, low, high) - low) / (high - low) for volume in (reference, predicted))
    return reference, predicted, 1.0


def _dice(a: np.ndarray, b: np.ndarray, region: np.ndarray) -> float | None:
    size = np.count_nonzero(a & region) + np.count_nonzero(b & region)
    return 2 * np.count_nonzero(a & b & region) / size if size else None


def _edges(volume_hu: np.ndarray, spacing_mm) -> np.ndarray:
    sigma = (0.0, EDGE_SIGMA_MM / spacing_mm[1], EDGE_SIGMA_MM / spacing_mm[2])
    gradient = np.hypot(*(ndimage.gaussian_filter(volume_hu, sigma, order=order) / step_mm  # HU per mm
                          for order, step_mm in (((0, 1, 0), spacing_mm[1]), ((0, 0, 1), spacing_mm[2]))))
    return gradient >= EDGE_STEP_HU / (math.sqrt(2 * math.pi) * EDGE_SIGMA_MM)  # the gradient at the step's own place


def value_range(reference, mask, spec: Convention) -> tuple[float, float]:
    """What both volumes are clipped to: HU, or percentiles 0.5 and 99.5 of the reference in the mask."""
    if spec.clip is not None:
        return spec.clip
    low, high = np.percentile(reference[mask], (0.5, 99.5))
    if not high > low:
        raise VaeliteError(f"The reference has the one value {low:g} nearly everywhere in the mask: it has no range.")
    return float(low), float(high)


def _region(mask: np.ndarray, spec: Convention) -> np.ndarray:
    return np.ones_like(mask) if spec.whole_grid else mask


def _mean_absolute(reference, predicted, region) -> float:
    return float(np.abs(reference - predicted).mean(where=region))


def _psnr(reference, predicted, region, data_range: float) -> float:
    mean_square = float(np.square(reference - predicted).mean(where=region))
    return math.inf if mean_square == 0 else 10.0 * math.log10(data_range**2 / mean_square)


def _ssim_of_checked(reference, predicted, mask, data_range: float, spec: Convention) -> float:
    region = _region(mask, spec)
    margin = GAUSSIAN_RADIUS if spec.gaussian else UNIFORM_WINDOW // 2
    if not spec.gaussian:
        region = _without_border(region, (margin,) * 3)
    box = _bounding_box(region, margin)
    reference, predicted, region = reference[box], predicted[box], region[box]
    if spec.blank_outside:
        reference, predicted = reference * mask[box], predicted * mask[box]  # 0 is clip[0] here
    return float(_ssim_map(reference, predicted, data_range, spec.gaussian).mean(where=region))


def _ssim_map(reference, predicted, data_range: float, gaussian: bool, window=(UNIFORM_WINDOW,) * 3) -> np.ndarray:
    if gaussian:  # population covariance, as Wang 2004; sample covariance below, as scikit-image's default
        unbiased = 1.0
        mean = _gaussian_mean
    else:
        unbiased = math.prod(window) / (math.prod(window) - 1)
        mean = partial(ndimage.uniform_filter, size=window)
    mean_r, mean_p = mean(reference), mean(predicted)
    product, squares = mean_r * mean_p, mean_r**2 + mean_p**2
    covariance = unbiased * (mean(reference * predicted) - product)
    variances = unbiased * (mean(reference**2 + predicted**2) - squares)  # only their sum is needed
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _gaussian_mean(volume: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(volume, GAUSSIAN_SIGMA, radius=GAUSSIAN_RADIUS)


def _without_border(region: np.ndarray, margins: tuple[int, ...]) -> np.ndarray:
    inner = np.zeros_like(region)
    core = tuple(slice(margin, max(n - margin, 0)) for margin, n in zip(margins, region.shape))
    inner[core] = region[core]
    if not inner.any():
        raise VaeliteError(
            f"SSIM needs {UNIFORM_WINDOW} voxels along every axis of its window and a mask that reaches "
            f"{UNIFORM_WINDOW // 2} voxels inside the grid; the grid is {region.shape}. Use more slices."
        )
    return inner


def _bounding_box(region: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The smallest box around `region` plus `margin`: every window of a voxel in the region lies inside it."""
    box = []
    for axis in range(region.ndim):
        others = tuple(other for other in range(region.ndim) if other != axis)
        where = np.flatnonzero(region.any(axis=others))
        box.append(slice(max(int(where[0]) - margin, 0), int(where[-1]) + margin + 1))
    return tuple(box)


def _multi_scale_ssim(reference, predicted, mask, data_range: float) -> float:
    """The product over 5 scales of the masked mean of SSIM^weight, as SynthRAD2025's published code computes it.

    That code weighs luminance at every scale, where Wang et al. 2003 do so at the coarsest only.
    """
    padding = [((missing := max(MS_SSIM_LENGTH - n, 0)) // 2, missing - missing // 2) for n in mask.shape]
    reference, predicted = (np.pad(volume * mask, padding, mode="edge") for volume in (reference, predicted))
    mask = np.pad(mask, padding, mode="edge")
    product = 1.0
    for weight in MS_SSIM_WEIGHTS:
        region = _without_border(mask, (UNIFORM_WINDOW // 2,) * 3)
        similarity = _ssim_map(reference, predicted, data_range, gaussian=False)
        product *= float((np.maximum(similarity, 0.0) ** weight).mean(where=region))
        reference, predicted = (
            ndimage.uniform_filter(volume, 2, mode="constant")[::2, ::2, ::2] for volume in (reference, predicted)
        )
        mask = mask[::2, ::2, ::2]
    return product
