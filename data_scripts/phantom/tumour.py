"""The primary tumour and involved lymph nodes: what the GTV contains."""
from __future__ import annotations

import numpy as np

from phantom.grid import Streams
from phantom.shapes import Canvas, ellipsoid_distance
from phantom.traits import Traits

SITE_CENTRE = {"nasopharynx": (12, -14, -4), "tonsil": (21, -22, -44), "tongue base": (9, -32, -64),
               "larynx": (8, -32, -106)}
SPARED = ("cortical bone", "spongy bone", "enamel", "dentin", "metal", "cartilage", "cord", "brainstem")
KEEP_OUT_MM = 4.0


def paint_tumour(canvas: Canvas, body: np.ndarray, traits: Traits, streams: Streams) -> None:
    """Paint primary and nodes; both are added to the organ "GTV"."""
    g = streams("tumour")
    fine, coarse = (canvas.grid.smooth_noise(streams(f"tumour surface {mm}"), mm) for mm in (17, 30))
    shift, radii = g.normal(0, 3, size=3), g.uniform((10, 9, 10), (20, 17, 19))
    centre = np.array(SITE_CENTRE[traits.tumour_site]) * (traits.tumour_side, 1, 1) + shift
    radii = radii * (0.7 if traits.tumour_site == "larynx" else 1.0)
    paint_lesion(canvas, body, centre, radii, 2.2 * fine + 2.5 * coarse, necrosis=False)
    for _ in range(int(g.integers(0, 4))):
        side = traits.tumour_side * (1 if g.random() < 0.75 else -1)
        centre = np.array((36 * side, 6, g.uniform(-85, -38))) + g.normal(0, 3, size=3)
        paint_lesion(canvas, body, centre, g.uniform((5, 6, 8), (12, 13, 17)), 1.2 * fine, necrosis=g.random() < 0.45)


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
