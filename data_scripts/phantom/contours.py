"""The structures a planner would draw, from the organs that were painted."""
from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from phantom.anatomy import Anatomy
from phantom.grid import Grid

STRUCTURES = ("GTV", "PTV", "Parotid_L", "Parotid_R", "Submandibular_L", "Submandibular_R", "SpinalCord", "Brainstem",
              "Eye_L", "Eye_R", "Mandible", "Larynx")
PTV_MARGIN_MM = 10.0  # GTV to PTV in one step (CTV margin included): our choice
SKIN_MARGIN_MM = 3.0  # the PTV stays this far under the skin


def body_mask(anatomy: Anatomy) -> np.ndarray:
    """The body without holes: airways and sinuses belong to it. (z, y, x) bool."""
    return np.stack([binary_fill_holes(inside) for inside in anatomy.body < 0])


def draw_structures(anatomy: Anatomy, grid: Grid) -> dict[str, np.ndarray]:
    """{name: (z, y, x) bool} in the order of STRUCTURES."""
    structures = {name: anatomy.organs[name].copy() for name in STRUCTURES if name != "PTV"}
    for name in ("Mandible", "Larynx"):
        structures[name] &= anatomy.body < 0
    near_tumour = distance_transform_edt(~structures["GTV"], sampling=grid.spacing_mm) <= PTV_MARGIN_MM
    structures["PTV"] = near_tumour & (anatomy.body < -SKIN_MARGIN_MM)
    return {name: structures[name] for name in STRUCTURES}
