"""Intensities: Hounsfield units and MR grey values to the model's [-1, 1], and back."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ..errors import VaeliteError

MODALITIES = ("CBCT", "CT", "T1c", "T2w")
HU_MODALITIES = ("CBCT", "CT")
HU_WINDOW = (-1000.0, 2000.0)  # our choice: air to dense cortical bone; metal above it is clipped
MR_PERCENTILES = (0.5, 99.5)  # our choice: robust to single bright voxels (vessels, fat near the coil)


def hu_to_unit(hu, window=HU_WINDOW):
    """Map Hounsfield units to [-1, 1], clipping outside `window`.

    hu: array or tensor of any shape [HU] -> the same kind and shape, float [1].
    Inverse: `unit_to_hu` (exact inside the window). Raises VaeliteError if the window is empty.
    """
    return _scale_to_unit(hu, window)


def unit_to_hu(x, window=HU_WINDOW):
    """Map [-1, 1] to Hounsfield units: the inverse of `hu_to_unit`. Values outside [-1, 1] are clipped."""
    return _scale_from_unit(x, window)


def mr_scale(mr, mask) -> tuple[float, float]:
    """The grey values that become -1 and +1: percentiles 0.5 and 99.5 of `mr` inside `mask`.

    mr: zyx array in arbitrary units; mask: bool zyx. MR has no unit, so every volume gets its own scale.
    Raises VaeliteError if the mask is empty or the volume has one value inside it.
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        raise VaeliteError("The body mask is empty, so the MR cannot be scaled. Give a mask that covers the patient.")
    low, high = np.percentile(np.asarray(mr)[mask], MR_PERCENTILES)
    if not high > low:
        raise VaeliteError(
            f"The MR has the one value {low:g} nearly everywhere in the mask: nothing to scale. Check volume and mask."
        )
    return float(low), float(high)


def mr_to_unit(mr, scale):
    """Map MR grey values to [-1, 1] with scale = (low, high) from `mr_scale`, clipping outside it."""
    return _scale_to_unit(mr, scale)


def unit_to_mr(x, scale):
    """Map [-1, 1] to MR grey values: the inverse of `mr_to_unit`. Values outside [-1, 1] are clipped."""
    return _scale_from_unit(x, scale)


def to_unit(volume, modality: str, mask=None):
    """Map a volume of any modality to [-1, 1].

    volume: zyx, HU for CBCT and CT, arbitrary for MR. mask: bool zyx, needed for MR only.
    Returns (unit volume float32, scale); `from_unit(unit, modality, scale)` goes back.
    """
    if check_modality(modality) in HU_MODALITIES:
        return hu_to_unit(volume), HU_WINDOW
    scale = mr_scale(volume, mask)
    return mr_to_unit(volume, scale), scale


def from_unit(x, modality: str, scale=None):
    """Map [-1, 1] back to HU (CBCT, CT; scale defaults to `HU_WINDOW`) or to the MR grey values of `scale`."""
    if check_modality(modality) in HU_MODALITIES:
        return unit_to_hu(x, scale or HU_WINDOW)
    if scale is None:
        raise VaeliteError(f"{modality} has no unit of its own: pass the scale (low, high) that to_unit returned.")
    return unit_to_mr(x, scale)


def body_mask(volume, modality: str) -> np.ndarray:
    """Estimate where the patient is, for volumes that come without a mask.

    volume: zyx -> bool zyx: what lies above a threshold, filled slice by slice; of that the largest connected region.
    Raises VaeliteError if nothing is found. Source: our choice. HU: -300 separates air from fat (about -100), and an
    opening cuts off thin things that touch the skin (table, mask). MR has no unit: Otsu's threshold on the square
    root of smoothed grey values (so that bright fat does not set it) separates tissue from the noise of air.
    """
    check_modality(modality)
    volume = np.asarray(volume, dtype=np.float32)
    in_plane = ndimage.generate_binary_structure(3, 3) & np.array([False, True, False])[:, None, None]  # 3 x 3 in y, x
    if modality in HU_MODALITIES:
        inside = ndimage.binary_opening(volume > -300.0, in_plane)
    else:
        smooth = ndimage.gaussian_filter(np.maximum(volume - volume.min(), 0.0), (0, 1, 1))
        root = np.sqrt(smooth)
        inside = root > _otsu_threshold(root)
    # fill before choosing: the skull is dark in MR and would part the scalp from the brain
    closed = ndimage.binary_closing(np.pad(inside, ((0, 0), (3, 3), (3, 3))), in_plane, iterations=2)[:, 3:-3, 3:-3]
    filled = np.stack([ndimage.binary_fill_holes(axial_slice) for axial_slice in closed])
    labels, n_regions = ndimage.label(filled)
    if n_regions == 0:
        raise VaeliteError(f"No body found in this {modality} volume. Check its units, or provide mask.nii.gz.")
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def check_modality(modality: str) -> str:
    """Return `modality` if it is one of `MODALITIES`, else raise VaeliteError naming them."""
    if modality not in MODALITIES:
        raise VaeliteError(f"Unknown modality {modality!r}. Choose one of {', '.join(MODALITIES)}.")
    return modality


def _scale_to_unit(values, scale):
    low, high = scale
    if not high > low:
        raise VaeliteError(f"The intensity window ({low:g}, {high:g}) is empty. Give (low, high) with low < high.")
    unit = (_as_float(values) - low) * (2.0 / (high - low)) - 1.0
    return unit.clip(-1.0, 1.0)


def _scale_from_unit(x, scale):
    low, high = scale
    if not high > low:
        raise VaeliteError(f"The intensity window ({low:g}, {high:g}) is empty. Give (low, high) with low < high.")
    return (_as_float(x).clip(-1.0, 1.0) + 1.0) * ((high - low) / 2.0) + low


def _as_float(values):
    if isinstance(values, torch.Tensor):
        return values if values.is_floating_point() else values.float()
    return np.asarray(values, dtype=np.float32)


def _otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    # Otsu 1979, IEEE Trans SMC 9:62: the cut that maximises the variance between the two classes
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * centres)
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below) / np.maximum(above, 1)
    return float(centres[np.argmax(below * above * (mean_below - mean_above) ** 2.0)])
