"""The structures a planner would draw, from the organs that were painted."""
from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from phantom.anatomy import Anatomy
from phantom.grid import Grid
from phantom.tissues import TISSUE_ID

STRUCTURES = ("GTV", "CTV", "PTV", "Parotid_L", "Parotid_R", "Submandibular_L", "Submandibular_R", "SpinalCord",
              "Brainstem", "Brain", "Eye_L", "Eye_R", "Mandible", "Larynx", "Thyroid")
# GTV to high-risk CTV: 5 mm, air and uninvaded bone spared (Gregoire et al., Radiother Oncol 126 (2018) 3, and for
# nodes Biau et al., Radiother Oncol 134 (2019) 1). CTV to PTV: 3 to 5 mm with daily imaging; 4 mm is our choice.
CTV_MARGIN_MM, PTV_MARGIN_MM = 5.0, 4.0
SKIN_MARGIN_MM = 3.0  # CTV and PTV stay this far under the skin
SPARED = ("air", "cortical bone", "spongy bone", "enamel", "dentin", "metal")


def body_mask(anatomy: Anatomy) -> np.ndarray:
    """The body without holes: airways and sinuses belong to it. (z, y, x) bool."""
    return np.stack([binary_fill_holes(inside) for inside in anatomy.body < 0])


def draw_structures(anatomy: Anatomy, grid: Grid) -> dict[str, np.ndarray]:
    """{name: (z, y, x) bool} in the order of STRUCTURES. An organ outside the grid is an empty mask.

    Raises ValueError if there is no tumour on this grid.
    """
    inside = anatomy.body < 0
    organs = {name: anatomy.organs.get(name, np.zeros(grid.shape, bool)) & inside for name in STRUCTURES}
    if not organs["GTV"].any():
        raise ValueError("no tumour on this grid: draw structures on Grid.of_size, not on the surroundings")
    under_skin = anatomy.body < -SKIN_MARGIN_MM
    spared = np.isin(anatomy.label, [TISSUE_ID[name] for name in SPARED])
    organs["CTV"] = organs["GTV"] | (grown(organs["GTV"], CTV_MARGIN_MM, grid) & under_skin & ~spared)
    organs["PTV"] = organs["CTV"] | (grown(organs["CTV"], PTV_MARGIN_MM, grid) & under_skin)
    return organs


def grown(mask: np.ndarray, margin_mm: float, grid: Grid) -> np.ndarray:
    """Every voxel whose centre is within `margin_mm` of one of the mask's."""
    near = np.zeros_like(mask)
    box = []
    for along, step in enumerate(grid.spacing_mm):
        at = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {along})))
        reach = int(np.ceil(margin_mm / step))
        box.append(slice(max(at[0] - reach, 0), at[-1] + reach + 1))
    box = tuple(box)
    near[box] = distance_transform_edt(~mask[box], sampling=grid.spacing_mm) <= margin_mm
    return near
