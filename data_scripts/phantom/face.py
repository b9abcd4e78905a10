"""Facial skeleton and what lies in it: orbits and eyes, sinuses, nose, mandible and teeth."""
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from phantom.grid import Streams
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
JAW_AXIS = (-10.0, -2.0)  # (y, z) of the line through both condyles, about which the mandible turns
CHIN_FROM_AXIS_MM = 104.0


def jaw_turn(opening_mm: float) -> Callable[[Point], Point]:
    """Where a point of the mandible is when the chin has moved `opening_mm`: turned about the condyles' axis.

    The first 20 mm or so of opening are a hinge movement; the forward glide of the condyle comes later.
    """
    angle = opening_mm / CHIN_FROM_AXIS_MM
    cos, sin = float(np.cos(angle)), float(np.sin(angle))

    def turned(point: Point) -> Point:
        y, z = point[1] - JAW_AXIS[0], point[2] - JAW_AXIS[1]
        return point[0], JAW_AXIS[0] + y * cos - z * sin, JAW_AXIS[1] + y * sin + z * cos

    return turned


def paint_orbits(canvas: Canvas, body: np.ndarray, streams: Streams) -> None:
    g = streams("eyes")
    bone_mask = (np.clip((canvas.y + 88) / 3, 0, 1) * np.clip(-body / 2 - 2.5, 0, 1)).astype(np.float32)
    soft_mask = np.clip(-body / 2 - 1.0, 0, 1).astype(np.float32)
    sideways, forward, up = g.normal(0, (1.2, 1.5, 1.0))
    recti, globe, gaze = g.uniform(1.7, 2.7), g.normal(EYE_RADIUS_MM, 0.35), g.normal(0, 2.5, size=2)
    for side in SIDES:
        eye = mirrored((EYE[0] + sideways, EYE[1] + forward, EYE[2] + up), side)
        rim, apex = mirrored((32, -70, 18), side), mirrored(ORBIT_APEX, side)
        canvas.capsule("cortical bone", rim, apex, 20.5, 6, mask=bone_mask)
        for start, end, radius in (((14, -84, 37), (36, -80, 38), 5), ((34, -80, 38), (49, -66, 30), 5),  # brow
                                   ((50, -64, 30), (50, -62, 4), 4.5)):  # lateral rim
            canvas.bone(start, end, radius, shell_mm=1.8, mask=bone_mask, side=side)
        canvas.capsule("fat", rim, apex, 18.8, 3.5, mask=soft_mask)
        for dx, dz in ((0, 11), (0, -11), (11, 0), (-11, 0)):
            at_eye, at_apex = (eye[0] + dx, eye[1] + 4, eye[2] + dz), (apex[0] + 0.15 * dx, -38, apex[2] + 0.15 * dz)
            canvas.capsule("muscle", at_eye, at_apex, recti, 1.8)
        canvas.ellipsoid("submandibular", (46, -68, 28), (3.5, 6, 5), mask=soft_mask, side=side)  # lacrimal gland
        canvas.capsule("csf", eye, apex, 3.0, 2.6)
        canvas.capsule("nerve", eye, apex, 2.0)
        canvas.capsule("nerve", apex, (0, -20, 22), 2.2, 2.4)
        paint_eye(canvas, eye, globe * canvas.stretch_at(eye), gaze, "Eye_L" if side == LEFT else "Eye_R")


def paint_eye(canvas: Canvas, eye: Point, radius: float, gaze: np.ndarray, organ: str) -> None:
    canvas.ellipsoid("muscle", eye, (radius,) * 3, organ=organ)  # sclera
    canvas.ellipsoid("vitreous", eye, (radius - 1.3,) * 3)
    canvas.ellipsoid("lens", (eye[0] + gaze[0], eye[1] - 8, eye[2] + gaze[1]), (4.6, 2.4, 4.6))


def paint_sinuses(canvas: Canvas, traits: Traits, pose: Pose, streams: Streams) -> None:
    """Maxillary, ethmoid, sphenoid and frontal sinuses, zygoma and pterygoid plates. One maxillary sinus in five holds
    fluid up to a level; its mucosa swells and shrinks between scans."""
    g = streams("sinuses")
    fine = canvas.grid.smooth_noise(streams("ethmoid cells"), 9)
    thickened = g.uniform(0.6, 3.2) if g.random() < 0.35 else g.uniform(0.4, 1.0)
    for side in SIDES:
        size = traits.sinus * g.uniform(0.9, 1.08)
        centre, radii = mirrored((31, -62, -8), side), np.array((16 * size, 18, 18 * size))
        canvas.ellipsoid("cortical bone", centre, radii + 2)
        canvas.ellipsoid("mucosa", centre, radii)
        wall, level = max(0.3, thickened + g.uniform(-0.4, 0.8) + pose.mucosa_mm), g.uniform(-12, 14)
        canvas.ellipsoid("air", centre, radii - wall)
        if g.random() < 0.2:  # the patient lies on the back: fluid gathers behind
            where = canvas.box(np.subtract(centre, radii), np.add(centre, radii))
            lumen = ellipsoid_distance(canvas.x[where], canvas.y[where], canvas.z[where], centre, radii - wall)
            canvas.paint("fluid", np.maximum(lumen, centre[1] + level - 3 * pose.mucosa_mm - canvas.y[where]), where)
        if g.random() < 0.15:
            canvas.ellipsoid("mucosa", (centre[0], centre[1] + 4, centre[2] - radii[2] + 6), (7, 7, 8))  # cyst
        canvas.bone((28, -82, 3), (50, -63, 1), 5, 5.5, (1, 1, 1.6), shell_mm=1.8, side=side)  # zygoma
        canvas.bone((50, -63, 1), (67, -38, 1), 4, 2.6, (0.7, 1, 1.3), shell_mm=1.8, side=side)  # arch
        canvas.bone((67, -38, 1), (66, -12, 2), 2.6, 3.0, (0.7, 1, 1.3), shell_mm=1.6, side=side)
        canvas.capsule("cortical bone", (21, -36, -4), (18, -34, -26), 1.6, 1.4, (1, 3.5, 1), side=side)
    ethmoid = ellipsoid_distance(canvas.x, canvas.y, canvas.z, (0, -60, 15), (11.5, 24, 13))
    canvas.paint("cortical bone", ethmoid - 1.2)
    canvas.paint("mucosa", ethmoid)
    open_cells = 3.2 * g.uniform(0.55, 1.2) - 0.5 * pose.mucosa_mm
    canvas.paint("air", np.maximum(ethmoid + 0.8, 1.0 - open_cells * np.abs(fine)))
    wide, septum = g.uniform(0.35, 1.2), g.normal(0, 4)
    canvas.ellipsoid("air", (g.normal(0, 3), -26, 5), (11 * wide, 10 * min(1.0, 1.3 * wide), 8))  # sphenoid
    canvas.capsule("cortical bone", (septum, -36, 5), (0.6 * septum, -17, 4), 0.8, stretch=(1, 1, 9))
    frontal = g.uniform(0.0, 1.3) * g.uniform(0.7, 1.2, size=2)
    for side, size in zip(SIDES, frontal, strict=True):
        if size > 0.3:
            canvas.ellipsoid("air", (10, -82, 40), (9 * size, 3.4, 10 * size), side=side)


def paint_nose(canvas: Canvas, body: np.ndarray, pose: Pose, streams: Streams) -> None:
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
    swelling = g.normal(0, 0.7, size=(2, 2)) + 0.5 * pose.mucosa_mm  # the nasal cycle: the sides differ
    for side, (lower, middle) in zip(SIDES, swelling, strict=True):
        canvas.capsule("mucosa", (8.8, -86, -14), (8.5, -46, -14), 4.6 + lower, 4.0, (0.95, 1, 1.6), side=side)
        canvas.capsule("mucosa", (7.2, -80, 1), (7, -46, 1), 3.6 + middle, 3.2, (1, 1, 1.7), side=side)
        canvas.capsule("cortical bone", (8.5, -82, -12), (8.5, -52, -12), 0.9, side=side)
    bent = g.normal(0, 2.2)
    canvas.capsule("mucosa", (bent, -101, -8), (0.5 * bent, -42, -4), 1.9, stretch=(1, 1, 12), mask=under_skin)
    canvas.capsule("cartilage", (bent, -108, -8), (bent, -88, 0), 0.9, 1.0, (1, 1, 8), mask=under_skin)
    thin = np.full(canvas.grid.shape, 0.3, np.float32)  # vomer and perpendicular plate: thinner than any voxel
    canvas.capsule("cortical bone", (bent, -88, 0), (0.5 * bent, -44, -4), 1.1, stretch=(1, 1, 13), mask=thin)
    canvas.capsule("cortical bone", (0, -87, 26), (0, -97, 8), 3.2, 2.4, (1.5, 1, 1), mask=under_skin)


def paint_mandible(canvas: Canvas, body: np.ndarray, traits: Traits, jaw: Callable[[Point], Point],
                   streams: Streams) -> None:
    """Body, ramus, condyle and coronoid process, turned about the condyles. After a flap a piece of the body is
    missing, in half of these patients bridged by a strut of fibula."""
    g = streams("mandible")
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    height = 0.72 if traits.toothless else g.uniform(0.92, 1.08)  # without teeth the alveolar bone is lost
    thick = g.uniform(0.92, 1.1)
    points = [(x, -89 + (abs(x) / 46) ** 2.1 * 54, -70 + 0.1 * abs(x)) for x in np.linspace(-46, 46, 13)]
    cut = traits.tumour_side if traits.surgery == "flap" else 0
    missing = [15 < (a[0] + b[0]) / 2 * cut < 44 for a, b in pairwise(points)]
    arch = [(jaw(a), jaw(b)) for (a, b), gone in zip(pairwise(points), missing, strict=True) if not gone]
    for start, end in arch:
        canvas.capsule("cortical bone", start, end, 5.2 * thick, stretch=(1, 1, 2.3 * height), mask=skin,
                       organ="Mandible")
    for start, end in arch:
        canvas.capsule("spongy bone", start, end, 2.9 * thick, stretch=(1, 1, 2.9 * height), mask=skin)
    if any(missing) and g.random() < 0.5:
        gap = [point for (a, b), gone in zip(pairwise(points), missing, strict=True) if gone for point in (a, b)]
        canvas.bone(jaw(gap[0]), jaw(gap[-1]), 5, stretch=(1, 1, 1.1), shell_mm=2.2, mask=skin)
    for side in SIDES:
        canvas.ellipsoid("cartilage", (50, -11, -2), (9, 8, 5), side=side)  # disc between condyle and fossa
        canvas.bone(jaw((46.5, -33, -60)), jaw((50, -18, -16)), 4, 3.6, (1, 3.3, 1), mask=skin, organ="Mandible",
                    side=side)
        canvas.bone(jaw((50, -13, -18)), jaw((50, -10, -4)), 4.2, 4.6, (1.3, 1, 1), organ="Mandible", side=side)
        canvas.capsule("cortical bone", jaw((50, -28, -20)), jaw((49, -32, -4)), 3, 1.8, (0.8, 1.6, 1),
                       organ="Mandible", side=side)


def paint_flap(canvas: Canvas, body: np.ndarray, traits: Traits, jaw: Callable[[Point], Point]) -> None:
    """Half of the tongue and the floor of the mouth replaced by a flap of fat with a rim of wasted muscle."""
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    centre = jaw((24, -58, -62))
    canvas.ellipsoid("muscle", centre, (20, 28, 21), mask=skin, side=traits.tumour_side)
    canvas.ellipsoid("fat", centre, (17, 25, 18), mask=0.9 * skin, side=traits.tumour_side)


def paint_teeth(canvas: Canvas, body: np.ndarray, traits: Traits, jaw: Callable[[Point], Point],
                streams: Streams) -> list[Point]:
    """Two rows of teeth, some missing, some with fillings or crowns of metal -> the centres of these."""
    g = streams("teeth")
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    fillings = []
    along, crooked = 31.5 * np.sin(np.linspace(-1.25, 1.25, 16)), g.normal(0, 0.8, size=(2, 16))
    for upper, root_z, crown_z in ((True, -31.0, -44.0), (False, -60.0, -46.0)):
        place = (lambda point: point) if upper else jaw
        depth, shift = (31.0, 0.0) if upper else (30.0, 2.0)
        row = [(float(x), -92 + (abs(x) / depth) ** 2.2 * 42 + shift + dy)
               for x, dy in zip(along, crooked[int(upper)], strict=True)]
        if upper:
            for tissue, radius, height in (("cortical bone", 4.4, 1.6), ("spongy bone", 2.4, 1.8)):
                for (x1, y1), (x2, y2) in pairwise(row):
                    canvas.capsule(tissue, (x1, y1 + 1, -33), (x2, y2 + 1, -33), radius,
                                   stretch=(1, 1, height * (0.8 if traits.toothless else 1)), mask=skin)
        for index, (x, y) in enumerate(row):
            molar = abs(index - 7.5) > 3
            missing, filled = g.random() < traits.missing_teeth, g.random() < traits.filled_teeth
            crown = g.random() < 0.3
            resected = traits.surgery == "flap" and not upper and 12 < x * traits.tumour_side
            if traits.toothless or missing or resected:
                continue
            paint_tooth(canvas, place((x, y, root_z)), place((x, y, crown_z)), radius=4.4 if molar else 2.8)
            if molar and filled:
                centre = place((x, y, crown_z + (1.5 if upper else -1.5)))
                canvas.ellipsoid("metal", centre, (3.6, 3.6, 3.2) if crown else (2.4, 2.4, 2.0))
                fillings.append(centre)
    return fillings


def paint_tooth(canvas: Canvas, root: Point, crown: Point, radius: float) -> None:
    """Dentin root and core, enamel cap."""
    between = lambda share: tuple(float(v) for v in np.add(root, share * np.subtract(crown, root)))
    canvas.capsule("dentin", root, crown, 1.9, radius)
    canvas.capsule("enamel", between(0.71), crown, radius)
    canvas.capsule("dentin", between(0.55), between(0.87), radius - 1.6)
