"""The outline of the body, the skull around the brain, its base, and the ears."""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from phantom.grid import Streams
from phantom.shapes import (
    LEFT,
    SIDES,
    Canvas,
    capsule_distance,
    ellipsoid_distance,
    smooth_union,
)
from phantom.traits import Traits

SKULL_FLOOR_MM = -30.0  # below it the cavity narrows to the spinal canal
FORAMEN_MAGNUM = ((0, 22, 60), (0, 24, -60), 15.5)  # the shaft it cuts: start, end, radius; 30 x 35 mm in adults


def body_outline(canvas: Canvas, cavity: np.ndarray, skull_mm: np.ndarray, traits: Traits,
                 bumps: np.ndarray) -> np.ndarray:
    """Signed distance [mm] to the skin: cranium, face, neck, shoulders, ears, blended into one surface."""
    cranium = cavity - skull_mm - 4.5 - 1.0 * traits.fat
    body = smooth_union(cranium, face_outline(canvas, traits), 18)
    body = smooth_union(body, neck_outline(canvas, traits), 17)
    if traits.surgery == "neck dissection":  # the side without its muscle and fat has sunk in
        hollow = ellipsoid_distance(canvas.x, canvas.y, canvas.z, (60 * traits.tumour_side, -5, -95), (30, 30, 50))
        body = body + 5 * np.clip(-hollow / 20, 0, 1)
    return ears_outline(canvas, body) + 0.6 * bumps


def face_outline(canvas: Canvas, traits: Traits) -> np.ndarray:
    where = np.flatnonzero((canvas.z > -140).any(axis=(1, 2)))  # the rest is far away
    outline = np.full(canvas.grid.shape, 60.0, np.float32)
    if not where.size:
        return outline
    slices = slice(where[0], where[-1] + 1)
    x, y, z = canvas.x[slices], canvas.y[slices], canvas.z[slices]
    side_x = np.abs(x)  # symmetric parts are drawn once, for the left
    wide, cheek = traits.jaw_width_mm, 1.5 * traits.fat
    chin, nose, brow = traits.face
    face = ellipsoid_distance(x, y, z, (0, -42, -14), (64 + wide, 58, 62))
    for centre, radii, blend in (
            ((22, -76 - brow, 38), (26, 13, 11), 12),  # brow
            ((33, -76, 17), (17, 13.5, 14), 8),  # eyelids
            ((36, -68, -8), (22, 20 + cheek, 20), 14),  # cheek bone and cheek
            ((50 + wide, -28, -48), (14 + cheek, 26, 30), 14),  # masseter and angle of the jaw
            ((55, 2, -32), (17 + 0.5 * cheek, 24, 32), 12),  # parotid
            ((30 + wide, -58, -62), (22 + cheek, 32, 20), 14)):  # body of the mandible
        face = smooth_union(face, ellipsoid_distance(side_x, y, z, centre, radii), blend)
    face = smooth_union(face, ellipsoid_distance(x, y, z, (0, -83 - chin, -68), (25, 20, 18)), 12)  # chin
    under_chin = capsule_distance(x, y, z, (0, -60, -66), (0, -22, -88), 24 + 2 * traits.fat, 32 + 2 * traits.fat,
                                  (1.2, 1, 1))
    face = smooth_union(face, under_chin, 14)
    face = smooth_union(face, capsule_distance(x, y, z, (0, -91, -22), (0, -92, -52), 12, 12, (2, 1.2, 1)), 12)  # lips
    tip = capsule_distance(x, y, z, (0, -88, 26), (0, -107 - nose, -11), 6, 10.5 + 0.4 * nose)
    outline[slices] = smooth_union(face, tip, 10)
    return outline


def neck_outline(canvas: Canvas, traits: Traits) -> np.ndarray:
    """Neck, slope of the trapezius, shoulders, upper arms and chest: cut by the field of view as in the clinic."""
    x, y, z = np.abs(canvas.x) / traits.shoulder_width, canvas.y, canvas.z - traits.shoulder_lift_mm * low(canvas)
    radius = traits.neck_radius_mm * (0.6 + 0.4 * traits.muscle) + 3 * traits.fat
    centre_y = 10 - 0.03 * np.clip(-canvas.z - 60, 0, 99)
    column = (np.sqrt((canvas.x / radius) ** 2 + ((y - centre_y) / (1.02 * radius)) ** 2) - 1) * radius
    neck = np.maximum(column, canvas.z - 4)
    if canvas.z.min() < -90:
        fat = 4 * traits.fat
        slope = capsule_distance(x, y, z, (24, 46, -122), (150, 36, -192), 20, 34 + fat)
        shoulder = capsule_distance(x, y, z, (0, 24, -212), (165, 24, -204), 46 + fat, 42 + fat, (1, 1.25, 1))
        arm = capsule_distance(x, y, z, (178, 26, -206), (205, 32, -320), 42 + fat, 46 + fat)
        chest = ellipsoid_distance(x, y, z, (0, 16, -275), (165 + fat, 98 + fat, 118 + fat))
        trunk = smooth_union(smooth_union(shoulder, arm, 15), smooth_union(slope, chest, 25), 25)
        neck = smooth_union(neck, trunk, 30)
    return neck


def low(canvas: Canvas) -> np.ndarray:
    """0 in the head and neck, 1 at the shoulders: where they are lifted."""
    return np.clip((-canvas.z - 110) / 50, 0, 1) * np.clip(np.abs(canvas.x) / 120, 0, 1)


def ears_outline(canvas: Canvas, body: np.ndarray) -> np.ndarray:
    """The pinna: a thin plate that leaves the head backwards and outwards, with the hollow of the concha."""
    where = canvas.box((-115, -20, -55), (115, 60, 60))
    side_x, y, z = np.abs(canvas.x[where]), canvas.y[where], canvas.z[where]
    along, across = (side_x - 80) * 0.6 + (y - 18) * 0.8, (side_x - 80) * 0.8 - (y - 18) * 0.6
    plate = ellipsoid_distance(along, across - 1.5, z - 0.12 * along, (0, 0, 2), (17, 4.2, 31))
    concha = ellipsoid_distance(along, across, z, (-3, 5.5, -1), (8, 5, 12))
    body[where] = smooth_union(body[where], np.maximum(plate, -concha), 4)
    return body


def paint_skull(canvas: Canvas, cavity: np.ndarray, skull_mm: np.ndarray, streams: Streams) -> None:
    """Vault with its diploe, base with petrous bones, mastoids and their air cells, clivus, sphenoid, and the joint
    of the jaw."""
    fine = canvas.grid.smooth_noise(streams("mastoid cells"), 9)
    shaft = capsule_distance(canvas.x, canvas.y, canvas.z, *FORAMEN_MAGNUM, stretch=(1, 1.12, 1))
    opening = np.maximum(SKULL_FLOOR_MM - canvas.z, np.where(canvas.z < 0, -shaft, -99))
    canvas.paint("cortical bone", np.maximum(cavity - skull_mm, opening))
    canvas.paint("spongy bone", np.maximum(np.maximum(cavity - skull_mm + 1.9, 1.7 - cavity), opening + 1.5))
    g = streams("aeration")
    shared = g.uniform(-1.4, 0.6)  # both sides are alike, and differ between patients
    for side in SIDES:
        air = shared + g.uniform(-0.5, 0.5)
        canvas.bone((58, 20, -6), (16, 0, 0), 11, 6, (1, 0.9, 0.85), shell_mm=4, side=side)  # petrous
        canvas.bone((57, 22, -4), (54, 20, -26), 11, 8, side=side)  # mastoid
        canvas.ellipsoid("air", (56, 22, -10), (9, 11, 15), bump=2.6 - 2.2 * np.abs(fine) - air, side=side)
        for start, end in pairwise([(88, 14, -2), (68, 9, 3), (48, 11, 0)]):  # the ear canal is bent
            canvas.capsule("air", start, end, 2.9, 2.6, side=side)
        canvas.ellipsoid("air", (44, 10, 2), (3, 4, 6), side=side)  # middle ear
        canvas.ellipsoid("fluid", (33, 5, 2), (3.2, 3.2, 3), side=side)  # cochlea and vestibule
        canvas.capsule("csf", (28, 8, 2), (10, 9, 3), 2.6, 3.2, side=side)  # internal auditory canal
        canvas.capsule("cortical bone", (38, 6, -14), (33, -4, -16 - g.uniform(16, 32)), 2.2, 1.2, side=side)  # styloid
        canvas.bone((46, -10, 6), (56, -10, 5), 3.4, stretch=(1, 3.2, 1), shell_mm=1.6, side=side)  # jaw joint: roof
        canvas.bone((46, -22, 0), (57, -22, 0), 4.2, stretch=(1, 1, 1), shell_mm=1.6, side=side)  # its eminence
    canvas.bone((0, -8, 0), (0, 9, -19), 7, 6, (1.7, 1, 1), shell_mm=2.2)  # clivus
    canvas.bone((0, -34, 5), (0, -18, 1), 10, 10, (1.4, 1, 1), shell_mm=2)  # sphenoid


def paint_foramina(canvas: Canvas) -> None:
    """What passes the base of the skull: carotid canal, jugular foramen, foramen ovale, hypoglossal canal."""
    for side in SIDES:
        canvas.capsule("artery", (23, -2, -16), (24, -4, -4), 2.8, side=side)
        canvas.capsule("artery", (24, -4, -4), (11, -14, 1), 2.6, side=side)
        bulb = 4.6 if side == LEFT else 5.4  # the right one is the larger in most people
        canvas.capsule("vessel", (25, 12, -4), (27, 9, -20), bulb, 4, side=side)
        canvas.capsule("fat", (22, -20, -14), (21, -17, 3), 3.0, stretch=(1.2, 1, 1), side=side)
        canvas.capsule("nerve", (22, -20, -14), (21, -17, 3), 1.8, side=side)
        canvas.capsule("fat", (9, 13, -16), (17, 8, -20), 2.2, side=side)
