"""The outline of the body, the skull around the brain, and the ears."""
from __future__ import annotations

import numpy as np

from phantom.grid import Streams
from phantom.shapes import (
    SIDES,
    Canvas,
    capsule_distance,
    ellipsoid_distance,
    smooth_union,
)
from phantom.traits import Traits

NO_BONE_BELOW_MM = -22.0  # the foramen magnum: from here down the cord runs in the spine


def body_outline(canvas: Canvas, cavity: np.ndarray, skull_mm: np.ndarray, traits: Traits,
                 bumps: np.ndarray) -> np.ndarray:
    """Signed distance [mm] to the skin: cranium, face, neck, shoulders, ears, blended into one surface."""
    cranium = cavity - skull_mm - 4.5 - 1.0 * traits.fat
    body = smooth_union(cranium, face_outline(canvas, traits), 18)
    body = smooth_union(body, neck_outline(canvas, traits), 17)
    return ears_outline(canvas, body) + 0.6 * bumps


def face_outline(canvas: Canvas, traits: Traits) -> np.ndarray:
    x, y, z = canvas.x, canvas.y, canvas.z
    side_x = np.abs(x)  # symmetric parts are drawn once, for the left
    wide, cheek = traits.jaw_width_mm, 1.5 * traits.fat
    face = ellipsoid_distance(x, y, z, (0, -42, -14), (64 + wide, 58, 62))
    for centre, radii, blend in (
            ((22, -76, 38), (26, 13, 11), 12),  # brow
            ((33, -76, 17), (17, 13.5, 14), 8),  # eyelids
            ((36, -68, -8), (22, 20 + cheek, 20), 14),  # cheek bone and cheek
            ((50 + wide, -28, -48), (14 + cheek, 26, 30), 14),  # masseter and angle of the jaw
            ((55, 2, -32), (17 + 0.5 * cheek, 24, 32), 12),  # parotid
            ((30 + wide, -58, -62), (22 + cheek, 32, 20), 14)):  # body of the mandible
        face = smooth_union(face, ellipsoid_distance(side_x, y, z, centre, radii), blend)
    face = smooth_union(face, ellipsoid_distance(x, y, z, (0, -83, -68), (25, 20, 18)), 12)  # chin
    under_chin = capsule_distance(x, y, z, (0, -60, -66), (0, -22, -88), 26, 34, (1.2, 1, 1))
    face = smooth_union(face, under_chin, 14)
    face = smooth_union(face, capsule_distance(x, y, z, (0, -91, -22), (0, -92, -52), 12, 12, (2, 1.2, 1)), 12)  # lips
    return smooth_union(face, capsule_distance(x, y, z, (0, -88, 26), (0, -107, -11), 6, 10.5), 10)  # nose


def neck_outline(canvas: Canvas, traits: Traits) -> np.ndarray:
    x, y, z = canvas.x, canvas.y, canvas.z
    radius = traits.neck_radius_mm
    centre_y = 10 - 0.03 * np.clip(-z - 60, 0, 99)
    column = (np.sqrt((x / radius) ** 2 + ((y - centre_y) / (1.02 * radius)) ** 2) - 1) * radius
    neck = np.maximum(column, z - 4)
    shoulders = capsule_distance(x, y, z, (-150, 24, -182), (150, 24, -182), 48, 48, (1, 1.05, 1))
    shoulders = smooth_union(shoulders, ellipsoid_distance(x, y, z, (0, 10, -178), (85, 62, 50)), 25)
    return smooth_union(neck, shoulders, 36)


def ears_outline(canvas: Canvas, body: np.ndarray) -> np.ndarray:
    side_x, y, z = np.abs(canvas.x), canvas.y, canvas.z
    pinna = capsule_distance(side_x, y, z, (77, 17, 20), (69, 12, -18), 6, 4.5, (0.9, 2.4, 1))
    concha = ellipsoid_distance(side_x, y, z, (84, 12, 0), (6, 8, 14))
    return smooth_union(body, np.maximum(pinna, -concha), 5)


def paint_skull(canvas: Canvas, cavity: np.ndarray, skull_mm: np.ndarray, streams: Streams) -> None:
    """Vault with diploe, petrous bones and mastoids with their air cells, clivus and sphenoid body."""
    fine = canvas.grid.smooth_noise(streams("mastoid cells"), 9)
    floor = NO_BONE_BELOW_MM - canvas.z
    shell = np.maximum(cavity - skull_mm, floor)
    canvas.paint("cortical bone", shell)
    diploe = np.maximum(np.maximum(cavity - skull_mm + 1.9, 1.7 - cavity), floor)
    canvas.paint("spongy bone", diploe)
    aeration = streams("aeration").uniform(-0.8, 0.8, size=2)
    for side, air in zip(SIDES, aeration, strict=True):
        canvas.bone((58, 20, -6), (16, 0, 0), 12, 6, (1, 0.9, 0.9), shell_mm=4.5, side=side)  # petrous
        canvas.bone((57, 22, -4), (54, 22, -24), 11, 8, side=side)  # mastoid
        canvas.ellipsoid("air", (56, 22, -10), (9, 11, 15), bump=2.6 - 2.2 * np.abs(fine) - air, side=side)
        canvas.capsule("air", (82, 12, 1), (48, 10, 1), 3.2, 2.6, side=side)  # ear canal
        canvas.ellipsoid("air", (44, 10, 2), (3, 4, 6), side=side)  # middle ear
    canvas.bone((0, -8, 0), (0, 9, -19), 7, 6, (1.7, 1, 1), shell_mm=2.2)  # clivus
    canvas.bone((0, -34, 5), (0, -18, 1), 10, 10, (1.4, 1, 1), shell_mm=2)  # sphenoid
