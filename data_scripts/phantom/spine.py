"""Cervical and upper thoracic spine, spinal canal and cord, and the shoulder girdle that hangs on it."""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from phantom.grid import Streams
from phantom.shapes import SIDES, Canvas, Point
from phantom.traits import Traits

# C1 to T5, the middle of each body [mm]
VERTEBRA_Z_MM = (-24, -40, -57, -74, -91, -108, -125, -142, -160, -179, -199, -220)
FIRST_THORACIC = 7
CANAL_BEHIND_BODY_MM = 15.0

# The shoulder girdle, for the left, in mm of the reference patient: start, end, radius at each, stretch
GIRDLE = {
    "clavicle": (((16, -40, -184), (52, -46, -180), 7.5, 5.5, (1, 1, 1)),
                 ((52, -46, -180), (98, -22, -172), 5.5, 5, (1, 1, 1)),
                 ((98, -22, -172), (148, 14, -166), 5, 6, (1.2, 1.2, 0.8))),
    "scapula": (((158, 28, -164), (146, 14, -165), 7, 6, (1.6, 1.4, 0.7)),  # acromion
                ((158, 34, -165), (66, 74, -186), 5.5, 4, (1, 1, 1.6)),  # spine
                ((86, 62, -168), (92, 72, -300), 2.6, 2.6, (7, 1, 1)),  # blade
                ((122, 44, -190), (98, 66, -260), 3.4, 2.6, (4, 1, 1)),
                ((112, 48, -184), (142, 26, -190), 8, 11, (0.8, 1, 1.5)),  # neck and glenoid
                ((134, 16, -178), (142, -8, -184), 5, 4.5, (1, 1, 1))),  # coracoid
    "humerus": (((168, 18, -188), (168, 18, -188), 23, 23, (1, 1, 1)),
                ((172, 20, -205), (190, 28, -340), 14, 11, (1, 1, 1))),
}


def spine_y_mm(z: float, lordosis: float = 1.0) -> float:
    """y of the vertebral bodies' centres [mm]: lordosis of the neck, then the kyphosis of the chest."""
    return 10 + 0.0009 * lordosis * (max(z, -150) + 70) ** 2 - 0.2 * min(z + 150, 0)


def paint_spine(canvas: Canvas, traits: Traits, streams: Streams) -> None:
    """Every vertebra with arch and processes, its disc, and the canal. Worn discs are thinner and have spurs."""
    wear = streams("disc wear").beta(1.2, 3, size=len(VERTEBRA_Z_MM))
    for level, z in enumerate(VERTEBRA_Z_MM):
        y, size = spine_y_mm(z, traits.lordosis), 1 + 0.045 * level
        paint_arch(canvas, level, y, z, size)
        if level == 0:
            canvas.bone((-14, y - 6, z), (14, y - 6, z), 3.5, stretch=(1, 1, 1.4), shell_mm=1.4)  # anterior arch of C1
        else:
            paint_body(canvas, y, z, size, float(wear[level]))
        if level == 1:
            canvas.bone((0, y - 1, z + 4), (0, spine_y_mm(-22, traits.lordosis) - 1, -20), 5.2, 4.6, shell_mm=1.5)
    paint_canal(canvas, traits)


def paint_body(canvas: Canvas, y: float, z: float, size: float, wear: float) -> None:
    canvas.ellipsoid("disc", (0, y - 1, z - 8.5), (11 * size, 9.5 * size, 4.8))
    where = canvas.box((-18 * size, y - 16 * size, z - 11), (18 * size, y + 14 * size, z + 11))
    cx, cy, cz = canvas.x[where], canvas.y[where], canvas.z[where]
    around = np.sqrt((cx / (11.5 * size)) ** 2 + ((cy - y + 1) / (9.2 * size)) ** 2)
    height = 5.2 + 0.007 * abs(z) + 1.4 * wear + 0.9 * np.clip(around - 0.5, 0, 0.6)  # end plates are hollow
    body = np.maximum((around - 1 - 0.12 * wear * (np.abs(cz - z) > 4)) * 9, np.abs(cz - z) - height)
    canvas.paint("cortical bone", body, where)
    canvas.paint("spongy bone", body + 1.4, where)


def paint_arch(canvas: Canvas, level: int, y: float, z: float, size: float) -> None:
    """Facets, transverse and spinous processes, laminae, and the vertebral arteries beside them."""
    thoracic = level >= FIRST_THORACIC
    for side in SIDES:
        canvas.bone((17 * size, y + 4, z + 3), (18 * size, y + 7, z - 5), 6.2, shell_mm=1.5, side=side)
        tip = (31 * size, y + 16, z + 2) if thoracic else ((36 if level == 0 else 22 * size), y + 1, z - 1)
        canvas.bone((11, y + 9, z), tip, 3, 3.6, shell_mm=1.3, side=side)
        if not thoracic:
            beside = 30 if level == 0 else 21.5 * size
            canvas.capsule("artery", (beside, y - 2, z + 9), (beside, y - 2, z - 9), 1.9, side=side)
        canvas.bone((16, y + 12, z - 1), (0, y + 27, z - 4), 2.8, 3, (1, 1, 2.0), shell_mm=1.2, side=side)
    if level > 0:
        length = (0, 40, 33, 33, 34, 39, 52, 54, 52, 50, 49, 48)[level]  # vertebra prominens: C7
        canvas.bone((0, y + 26, z - 4), (0, y + length, z - (18 if thoracic else 10)), 3.2, 3.8, (1, 1, 1.5),
                    shell_mm=1.2)


def paint_canal(canvas: Canvas, traits: Traits) -> None:
    """Epidural fat, fluid, and the cord from the foramen magnum down, thickest at C5 (Sherman 1990)."""
    heights = [-40.0 - 18 * step for step in range(15)]
    line = [(0, 23, -25), *((0, spine_y_mm(z, traits.lordosis) + CANAL_BEHIND_BODY_MM, z) for z in heights)]
    for tissue, radius, stretch in (("fat", 9.3, 1.18), ("csf", 7.6, 1.22), ("cord", 4.2, 1.4)):
        for start, end in pairwise(line):
            thickness = radius * (1 + (0.07 * np.exp(-((end[2] + 90) / 28) ** 2) - 0.1 * (end[2] < -125)
                                       if tissue == "cord" else 0))
            canvas.capsule(tissue, start, end, thickness, stretch=(stretch, 1, 1),
                           organ="SpinalCord" if tissue == "cord" else None)


def paint_shoulders(canvas: Canvas, body: np.ndarray, traits: Traits) -> None:
    """Lung apices, ribs, sternum, clavicles, shoulder blades and humeral heads."""
    if canvas.z.min() > -130:
        return
    place = lambda point: lifted(point, traits)
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    lungs = [((47, 16, -236), (38, 52, 82)), ((70, 16, -290), (62, 78, 110))]
    for side in SIDES:
        for centre, radii in lungs:
            canvas.ellipsoid("mucosa", centre, np.add(radii, 1.5), side=side)  # pleura
        mixed = np.full(canvas.grid.shape, 0.78, np.float32)  # lung: 22 % blood and tissue, about -770 HU (our choice)
        for centre, radii in lungs:
            canvas.ellipsoid("vessel", centre, radii, side=side)
        for centre, radii in lungs:
            canvas.ellipsoid("air", centre, radii, mask=mixed * ~canvas.is_tissue("air"), side=side)
    canvas.bone((0, -44, -194), (0, -56, -250), 9, 8, (2.2, 0.8, 1), shell_mm=1.6, mask=skin)  # manubrium
    for rib in range(5):
        back, wide, deep, drop = -144.0 - 18 * rib, 44 + 16 * rib, 37 + 7 * rib, 42 + 5 * rib
        angles = np.linspace(0.12 * np.pi, 0.93 * np.pi, 9)
        points = [(12 + (wide - 2) * float(np.sin(a)), spine_y_mm(back) - 24 + deep * float(np.cos(a)),
                   back - drop * (1 - float(np.cos(a))) / 2) for a in angles]
        for side in SIDES:
            for start, end in pairwise(points):
                canvas.bone(start, end, 4.2, stretch=(1, 1, 1.5), shell_mm=1.5, mask=skin, side=side)
    for name, parts in GIRDLE.items():
        for start, end, radius, end_radius, stretch in parts:
            for side in SIDES:
                canvas.bone(place(start), place(end), radius, end_radius, stretch,
                            shell_mm=2.4 if name == "humerus" and radius < 20 else 1.3, mask=skin, side=side)


def lifted(point: Point, traits: Traits) -> Point:
    """Where a point of the girdle is in this patient's shoulders (see head.neck_outline)."""
    x, y, z = point
    share = np.clip((-z - 110) / 50, 0, 1) * np.clip(x / 120, 0, 1)
    return float(x * traits.shoulder_width), y, float(z + traits.shoulder_lift_mm * share)
