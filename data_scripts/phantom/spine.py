"""Cervical spine, spinal canal and cord."""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from phantom.shapes import SIDES, Canvas

VERTEBRA_Z_MM = (-24, -40, -57, -74, -91, -108, -125, -142, -160)  # C1 to T2, the middle of each body
CANAL_BEHIND_BODY_MM = 15.0


def spine_y_mm(z: float) -> float:
    """Lordosis: y of the vertebral bodies' centres [mm]."""
    return 10 + 0.0009 * (z + 70) ** 2


def paint_spine(canvas: Canvas) -> None:
    for level, z in enumerate(VERTEBRA_Z_MM):
        y, size = spine_y_mm(z), 1 + 0.05 * level
        paint_arch(canvas, level, y, z, size)
        if level == 0:
            canvas.bone((-14, y - 6, z), (14, y - 6, z), 3.5, stretch=(1, 1, 1.4), shell_mm=1.4)  # anterior arch of C1
        else:
            paint_body(canvas, y, z, size)
        if level == 1:
            canvas.bone((0, y - 1, z + 4), (0, spine_y_mm(-22) - 1, -20), 5.2, 4.6, shell_mm=1.5)  # dens
    paint_canal(canvas)


def paint_body(canvas: Canvas, y: float, z: float, size: float) -> None:
    canvas.ellipsoid("disc", (0, y - 1, z - 8.5), (10.5 * size, 9 * size, 4.5))
    where = canvas.box((-16, y - 16, z - 9), (16, y + 14, z + 9))
    cx, cy, cz = canvas.x[where], canvas.y[where], canvas.z[where]
    round_body = (np.sqrt((cx / (11.5 * size)) ** 2 + ((cy - y + 1) / (9.2 * size)) ** 2) - 1) * 9
    body = np.maximum(round_body, np.abs(cz - z) - 6.2)
    canvas.paint("cortical bone", body, where)
    canvas.paint("spongy bone", body + 1.4, where)


def paint_arch(canvas: Canvas, level: int, y: float, z: float, size: float) -> None:
    """Facets, transverse and spinous processes, laminae, and the vertebral arteries beside them."""
    for side in SIDES:
        canvas.bone((17 * size, y + 4, z + 3), (18 * size, y + 7, z - 5), 6.2, shell_mm=1.5, side=side)
        canvas.bone((11, y + 9, z), (22 * size, y + 1, z - 1), 3, 3.4, shell_mm=1.3, side=side)
        canvas.capsule("artery", (23 * size, y - 1, z + 9), (23 * size, y - 1, z - 9), 1.9, side=side)
        canvas.bone((16, y + 12, z - 1), (0, y + 27, z - 4), 2.8, 3, (1, 1, 2.0), shell_mm=1.2, side=side)
    if level > 0:
        length = 34 if level < 6 else 50
        canvas.bone((0, y + 26, z - 4), (0, y + length, z - 10), 3.2, 3.6, (1, 1, 1.4), shell_mm=1.2)


def paint_canal(canvas: Canvas) -> None:
    """Epidural fat, fluid, and the cord from the foramen magnum down."""
    heights = [-40.0 - 20 * step for step in range(8)]
    line = [(0, 22, -25), *((0, spine_y_mm(z) + CANAL_BEHIND_BODY_MM, z) for z in heights)]
    segments = list(pairwise(line))
    for tissue, radius, stretch in (("fat", 9.3, 1.18), ("csf", 7.6, 1.22), ("cord", 4.2, 1.45)):
        for start, end in segments:
            canvas.capsule(tissue, start, end, radius, stretch=(stretch, 1, 1),
                           organ="SpinalCord" if tissue == "cord" else None)
