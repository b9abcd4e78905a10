"""Cases as the slices the models see: all modalities of a slice side by side, in [-1, 1], at one size."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange

from ..errors import VaeliteError
from .cases import Case
from .intensity import MODALITIES, to_unit


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Axial slices in model space.

    x: float16 (n, 4, size, size) in [-1, 1], channels as in MODALITIES, -1 where a modality is absent.
    have: bool (n, 4). mask: bool (n, size, size), the body. case: int64 (n,), index into names.
    """

    x: torch.Tensor
    have: torch.Tensor
    mask: torch.Tensor
    case: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)


def load_slices(cases: list[Case], size: int, skip_empty: bool = True) -> SliceSet:
    """All axial slices of `cases` in [-1, 1], fitted to size x size.

    skip_empty: leave out slices that hold nothing of the body. Memory: 8 bytes per pixel, plus one volume at a time.
    Raises VaeliteError if nothing is left.
    """
    masks, kept = [], []
    for case in cases:
        fitted = fit_in_plane(case.mask().astype(np.float32), size, fill=0.0) >= 0.5
        keep = fitted.any(axis=(1, 2)) if skip_empty else np.ones(len(fitted), dtype=bool)
        masks.append(fitted[keep])
        kept.append(keep)
    n_slices = sum(len(mask) for mask in masks)
    if n_slices == 0:
        raise VaeliteError("No slices: the list of cases is empty, or no mask holds anything at this size.")
    x = torch.full((n_slices, len(MODALITIES), size, size), -1.0, dtype=torch.float16)
    have = torch.zeros((n_slices, len(MODALITIES)), dtype=torch.bool)
    start = 0
    for case, keep in zip(cases, kept):
        rows = slice(start, start + int(keep.sum()))
        body = case.mask()
        for channel, modality in enumerate(MODALITIES):
            if modality in case.modalities:
                unit, _ = to_unit(case.volume(modality), modality, body)
                x[rows, channel] = torch.from_numpy(fit_in_plane(unit[keep], size, fill=-1.0)).half()
                have[rows, channel] = True
        start = rows.stop
    case_index = torch.repeat_interleave(torch.arange(len(cases)), torch.tensor([len(mask) for mask in masks]))
    return SliceSet(x, have, torch.from_numpy(np.concatenate(masks)), case_index, tuple(case.name for case in cases))


def thinned(slices: SliceSet, at_most: int) -> SliceSet:
    """Every n-th slice, so that no more than `at_most` are left and all patients stay represented."""
    return every_nth(slices, max(1, -(-len(slices) // at_most)))


def every_nth(slices: SliceSet, n: int) -> SliceSet:
    """Slices 0, n, 2n, ..."""
    rows = torch.arange(0, len(slices), n)
    return replace(slices, x=slices.x[rows], have=slices.have[rows], mask=slices.mask[rows], case=slices.case[rows])


def fit_in_plane(volume: np.ndarray, size: int, fill: float) -> np.ndarray:
    """Resize every slice by one factor so that its longer side is `size`, then pad with `fill` to a centred square.

    volume: float zyx -> float32 (z, size, size); unchanged if it is that already. Inverse: `unfit_in_plane`.
    """
    volume = np.asarray(volume, dtype=np.float32)
    height, width = _fitted_shape(volume.shape[1:], size)
    resized = _resize_in_plane(volume, height, width)
    square = np.full((len(volume), size, size), fill, dtype=np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = resized
    return square


def unfit_in_plane(fitted: np.ndarray, original_shape: tuple[int, int, int]) -> np.ndarray:
    """Undo `fit_in_plane`: (z, size, size) -> float32 zyx of `original_shape`; exact where nothing was resized."""
    fitted = np.asarray(fitted, dtype=np.float32)
    size = fitted.shape[-1]
    height, width = _fitted_shape(original_shape[1:], size)
    top, left = (size - height) // 2, (size - width) // 2
    return _resize_in_plane(fitted[:, top : top + height, left : left + width], *original_shape[1:])


def _fitted_shape(in_plane_shape: tuple[int, int], size: int) -> tuple[int, int]:
    longer = max(in_plane_shape)
    return tuple(max(1, round(length * size / longer)) for length in in_plane_shape)


def _resize_in_plane(volume: np.ndarray, height: int, width: int) -> np.ndarray:
    if volume.shape[1:] == (height, width):
        return volume
    slices = rearrange(torch.from_numpy(np.ascontiguousarray(volume)), "z y x -> z 1 y x")
    # antialias acts only where an axis shrinks; without it, thin bone would come and go with the phase of the grid
    resized = torch.nn.functional.interpolate(slices, (height, width), mode="bilinear", antialias=True)
    return rearrange(resized, "z 1 y x -> z y x").numpy()
