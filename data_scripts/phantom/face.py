"""Facial skeleton and what lies in it: orbits and eyes, sinuses, nose, mandible and teeth."""
from __future__ import annotations

import numpy as np

from phantom.grid import Streams
from phantom.neck import chain
from phantom.shapes import (
    LEFT,
    SIDES,
    Canvas,
    Point,
    capsule_distance,
    ellipsoid_distance,
    mirrored,
)
from phantom.traits import Pose, Traits

EYE = (32.0, -74.0, 18.0)  # centre of the left eye; its front lies behind brow and lids
ORBIT_APEX = (12.0, -34.0, 19.0)
EYE_RADIUS_MM = 12.0  # about 7 ml


def paint_orbits(canvas: Canvas, body: np.ndarray, streams: Streams) -> None:
    g = streams("eyes")
    bone_mask = (np.clip((canvas.y + 88) / 3, 0, 1) * np.clip(-body / 2 - 2.5, 0, 1)).astype(np.float32)
    soft_mask = np.clip(-body / 2 - 1.0, 0, 1).astype(np.float32)
    sideways, forward = g.normal(0, (1.0, 1.0))
    for side in SIDES:
        eye = mirrored((EYE[0] + sideways, EYE[1] + forward, EYE[2]), side)
        rim, apex = mirrored((32, -70, 18), side), mirrored(ORBIT_APEX, side)
        canvas.capsule("cortical bone", rim, apex, 20.5, 6, mask=bone_mask)
        for start, end, radius in (((14, -84, 37), (36, -80, 38), 5), ((34, -80, 38), (49, -66, 30), 5),  # brow
                                   ((50, -64, 30), (50, -62, 4), 4.5)):  # lateral rim
            canvas.bone(start, end, radius, shell_mm=1.8, mask=bone_mask, side=side)
        canvas.capsule("fat", rim, apex, 18.8, 3.5, mask=soft_mask)
        for dx, dz in ((0, 11), (0, -11), (11, 0), (-11, 0)):  # recti
            at_eye, at_apex = (eye[0] + dx, eye[1] + 4, eye[2] + dz), (apex[0] + 0.15 * dx, -38, apex[2] + 0.15 * dz)
            canvas.capsule("muscle", at_eye, at_apex, 2.2, 1.8)
        canvas.capsule("csf", eye, apex, 3.0, 2.6)
        canvas.capsule("nerve", eye, apex, 2.0)
        canvas.capsule("nerve", apex, (0, -20, 22), 2.2, 2.4)
        paint_eye(canvas, eye, "Eye_L" if side == LEFT else "Eye_R")


def paint_eye(canvas: Canvas, eye: tuple[float, float, float], organ: str) -> None:
    canvas.ellipsoid("muscle", eye, (EYE_RADIUS_MM,) * 3, organ=organ)  # sclera
    canvas.ellipsoid("vitreous", eye, (EYE_RADIUS_MM - 1.3,) * 3)
    canvas.ellipsoid("lens", (eye[0], eye[1] - 8, eye[2]), (4.6, 2.4, 4.6))


def paint_sinuses(canvas: Canvas, traits: Traits, streams: Streams) -> None:
    """Maxillary, ethmoid, sphenoid and frontal sinuses, zygoma and pterygoid plates. One maxillary sinus in five is
    partly filled with fluid or thick mucosa."""
    g = streams("sinuses")
    fine = canvas.grid.smooth_noise(streams("ethmoid cells"), 9)
    size = traits.sinus
    for side in SIDES:
        centre, radii = mirrored((31, -62, -8), side), np.array((16 * size, 18, 18 * size))
        canvas.ellipsoid("cortical bone", centre, radii + 2)
        canvas.ellipsoid("mucosa", centre, radii)
        filled = g.random() < 0.2
        wall = 3.0 if filled else float(g.uniform(0.6, 1.8))
        canvas.ellipsoid("air", (centre[0], centre[1], centre[2] + (3 if filled else 0)), radii - wall)
        canvas.bone((28, -82, 3), (50, -63, 1), 5, 5.5, (1, 1, 1.6), shell_mm=1.8, side=side)  # zygoma
        canvas.bone((50, -63, 1), (66, -18, 1), 4, 2.6, (0.7, 1, 1.3), shell_mm=1.8, side=side)  # arch
        canvas.capsule("cortical bone", (21, -36, -4), (18, -34, -26), 1.6, 1.4, (1, 3.5, 1), side=side)
    ethmoid = ellipsoid_distance(canvas.x, canvas.y, canvas.z, (0, -60, 15), (11.5, 24, 13))
    canvas.paint("cortical bone", ethmoid - 1.2)
    canvas.paint("mucosa", ethmoid)
    canvas.paint("air", np.maximum(ethmoid + 0.8, 1.0 - 3.2 * np.abs(fine)))
    canvas.ellipsoid("air", (float(g.normal(0, 2)), -26, 5), (11 * float(g.uniform(0.7, 1.2)), 10, 8))  # sphenoid
    frontal = float(g.uniform(0.3, 1.3))
    for side in SIDES:
        canvas.ellipsoid("air", (10, -82, 40), (9 * frontal, 3.2, 9 * frontal), side=side)


def paint_nose(canvas: Canvas, body: np.ndarray, streams: Streams) -> None:
    """Hard palate, nasal cavity with its turbinates, septum, nasal bone."""
    g = streams("nose")
    x, y, z = canvas.x, canvas.y, canvas.z
    under_skin = np.clip(-body / 4 - 0.3, 0, 1).astype(np.float32)
    canvas.capsule("cortical bone", (0, -90, -33), (0, -50, -27), 2, 2, (13, 1, 1.6))
    cavity = np.minimum(ellipsoid_distance(x, y, z, (0, -66, -6), (14.5, 31, 20)),
                        capsule_distance(x, y, z, (0, -97, -9), (0, -72, -12), 6, 10))
    cavity = np.maximum(np.maximum(cavity, -(z + 25.5)), body + 4)
    canvas.paint("cortical bone", np.maximum(cavity - 3, -(y + 88)))
    canvas.paint("mucosa", cavity - 1.6)
    canvas.paint("air", cavity)
    swelling = g.normal(0, 0.5, size=(2, 2))
    for side, (lower, middle) in zip(SIDES, swelling, strict=True):
        canvas.capsule("mucosa", (8.8, -86, -14), (8.5, -46, -14), 4.6 + lower, 4.0, (0.95, 1, 1.6), side=side)
        canvas.capsule("mucosa", (7.2, -80, 1), (7, -46, 1), 3.6 + middle, 3.2, (1, 1, 1.7), side=side)
        canvas.capsule("cortical bone", (8.5, -82, -12), (8.5, -52, -12), 0.9, side=side)
    bent = float(g.normal(0, 1.6))
    canvas.capsule("mucosa", (bent, -101, -8), (0.5 * bent, -42, -4), 1.9, stretch=(1, 1, 12), mask=under_skin)
    canvas.capsule("cartilage", (bent, -108, -8), (bent, -88, 0), 0.9, 1.0, (1, 1, 8), mask=under_skin)
    canvas.capsule("cortical bone", (bent, -88, 0), (0.5 * bent, -44, -4), 1.1, stretch=(1, 1, 15))
    canvas.capsule("cortical bone", (0, -87, 26), (0, -97, 8), 3.2, 2.4, (1.5, 1, 1), mask=under_skin)


def paint_mandible(canvas: Canvas, body: np.ndarray, pose: Pose, streams: Streams) -> float:
    """Body, ramus, condyle and coronoid process; returns how far the jaw is lowered [mm]."""
    lowered = abs(float(streams("jaw").normal(0, 1.5))) + pose.jaw_mm
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    arch = chain([(x, -89 + (abs(x) / 46) ** 2.1 * 54, -70 - lowered + 0.1 * abs(x)) for x in np.linspace(-46, 46, 13)])
    for start, end in arch:
        canvas.capsule("cortical bone", start, end, 5.2, stretch=(1, 1, 2.3), mask=skin, organ="Mandible")
    for start, end in arch:
        canvas.capsule("spongy bone", start, end, 2.9, stretch=(1, 1, 2.9), mask=skin)
    low, high = -lowered, -0.3 * lowered  # the joint moves less than the chin
    for side in SIDES:
        canvas.bone((46.5, -33, -60 + low), (50, -18, -16 + high), 4, 3.6, (1, 3.3, 1),
                    mask=skin, organ="Mandible", side=side)
        canvas.bone((50, -13, -18 + high), (50, -9, -4 + 0.3 * high), 4.4, 5.5, (1.2, 1, 1),
                    organ="Mandible", side=side)
        canvas.capsule("cortical bone", (50, -28, -20 + high), (49, -32, -4 + high), 3, 1.8,
                       (0.8, 1.6, 1), organ="Mandible", side=side)
    return lowered


def paint_teeth(canvas: Canvas, body: np.ndarray, lowered_mm: float, streams: Streams) -> list[Point]:
    """Two rows of teeth; one patient in eight has none, half may have fillings -> the fillings' centres."""
    g = streams("teeth")
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    toothless, filling_share = g.random() < 0.12, 0.12 * (g.random() < 0.5)
    fillings = []
    along = 31.5 * np.sin(np.linspace(-1.25, 1.25, 16))
    for upper, root_z, crown_z in ((True, -31.0, -44.0), (False, -60.0 - lowered_mm, -46.0 - lowered_mm)):
        depth, shift = (31.0, 0.0) if upper else (30.0, 2.0)
        row = [(float(x), -92 + (abs(x) / depth) ** 2.2 * 42 + shift) for x in along]
        if upper:
            for tissue, radius, height in (("cortical bone", 4.4, 1.6), ("spongy bone", 2.4, 1.8)):
                for (x1, y1), (x2, y2) in chain(row):
                    canvas.capsule(tissue, (x1, y1 + 1, -33), (x2, y2 + 1, -33), radius, stretch=(1, 1, height),
                                   mask=skin)
        for index, (x, y) in enumerate(row):
            molar = abs(index - 7.5) > 3
            missing, filled = g.random() < 0.06, g.random() < filling_share
            if toothless or missing:
                continue
            paint_tooth(canvas, x, y, root_z, crown_z, radius=4.4 if molar else 2.8)
            if molar and filled:
                centre = (x, y, crown_z + (1 if upper else -1))
                canvas.ellipsoid("metal", centre, (2.4, 2.4, 2.0))
                fillings.append(centre)
    return fillings


def paint_tooth(canvas: Canvas, x: float, y: float, root_z: float, crown_z: float, radius: float) -> None:
    neck_z = 0.55 * crown_z + 0.45 * root_z
    canvas.capsule("dentin", (x, y, root_z), (x, y, crown_z), 1.9, radius)
    canvas.capsule("enamel", (x, y, neck_z + 0.35 * (crown_z - neck_z)), (x, y, crown_z), radius)
    canvas.capsule("dentin", (x, y, neck_z), (x, y, neck_z + 0.7 * (crown_z - neck_z)), radius - 1.6)
