"""The primary tumour and involved lymph nodes: what the GTV contains."""
from __future__ import annotations

import numpy as np

from phantom.grid import Streams
from phantom.shapes import Canvas, ellipsoid_distance
from phantom.traits import Pose, Traits

SITE_CENTRE = {"nasopharynx": (12, -14, -4), "tonsil": (21, -22, -44), "tongue base": (9, -32, -64),
               "larynx": (8, -32, -106), "oral cavity": (16, -62, -58)}
SITE_SIZE = {"larynx": 0.7, "oral cavity": 0.85}  # factor on the radii
# Levels of the neck [mm], for the left, and where each site spreads first: usual pattern, positions our choice
LEVEL_CENTRE = {"IB": (33, -46, -70), "II": (38, -2, -52), "III": (36, 2, -86), "IV": (33, -6, -124),
                "V": (52, 28, -84), "retropharyngeal": (17, -5, -18)}
SPREAD = {"nasopharynx": ("retropharyngeal", "II", "V", "III"), "tonsil": ("II", "III", "retropharyngeal"),
          "tongue base": ("II", "III", "IV"), "larynx": ("III", "II", "IV"), "oral cavity": ("IB", "II", "III")}
SPARED = ("cortical bone", "spongy bone", "enamel", "dentin", "metal", "cartilage", "cord", "brainstem")
KEEP_OUT_MM = 4.0


def paint_tumour(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, streams: Streams) -> None:
    """Paint primary and nodes; both are added to the organ "GTV". They shrink with `pose.shrinkage`."""
    g = streams("tumour")
    fine, coarse = (canvas.grid.smooth_noise(streams(f"tumour surface {mm}"), mm) for mm in (17, 30))
    left = 1 - pose.shrinkage
    shift, radii = g.normal(0, 4, size=3), g.uniform((10, 9, 10), (20, 18, 20))
    centre = np.array(SITE_CENTRE[traits.tumour_site]) * (traits.tumour_side, 1, 1) + shift
    radii = radii * traits.tumour_size * SITE_SIZE.get(traits.tumour_site, 1.0)
    if traits.surgery == "flap":  # what is irradiated after the resection is small
        radii = 0.6 * radii
    paint_lesion(canvas, body, centre, radii * left, 2.2 * fine + 2.5 * coarse, necrosis=g.random() < 0.25)
    for _ in range(int(g.integers(0, 5))):
        side = traits.tumour_side * (1 if g.random() < 0.75 else -1)
        level = SPREAD[traits.tumour_site][min(int(g.geometric(0.5)) - 1, len(SPREAD[traits.tumour_site]) - 1)]
        centre = np.array(LEVEL_CENTRE[level]) * (side, 1, 1) + g.normal(0, (3, 4, 6))
        size = 0.6 if level == "retropharyngeal" else 1.0
        paint_lesion(canvas, body, centre, g.uniform((5, 6, 8), (13, 14, 19)) * size * left, 1.2 * fine,
                     necrosis=g.random() < 0.45)


def paint_lesion(canvas: Canvas, body: np.ndarray, centre: np.ndarray, radii: np.ndarray, bump: np.ndarray,
                 necrosis: bool) -> None:
    where = canvas.box(centre - 1.4 * radii, centre + 1.4 * radii)
    distance = ellipsoid_distance(canvas.x[where], canvas.y[where], canvas.z[where], centre, radii) + bump[where]
    barred = canvas.is_tissue(*SPARED)[where] | (body[where] > -5)
    distance = np.where(barred, np.maximum(distance, KEEP_OUT_MM), distance)
    distance = distance + 4.0 * canvas.is_tissue("air")[where]  # it bulges less into the airway
    canvas.paint("tumour", distance, where, organ="GTV")
    if necrosis:
        canvas.paint("necrosis", distance + 4.5, where)
