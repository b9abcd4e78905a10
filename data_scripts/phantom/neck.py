"""Soft tissue of the face and neck: muscles, glands, vessels, lymph nodes, airway, larynx."""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from phantom.grid import Streams
from phantom.shapes import LEFT, SIDES, Canvas, ellipsoid_distance
from phantom.traits import Pose, Traits

# Paired muscles, for the left: start and end (x, y, z) [mm], radius at each, stretch; they leave a plane of fat between
# each other. Positions after the usual cross-sectional anatomy, by eye: our choice.
MUSCLES = {
    "sternocleidomastoid": ((56, 24, -14), (20, -34, -165), 9, 12, (1, 1.5, 1)),
    "semispinalis and splenius": ((26, 50, -20), (26, 48, -170), 16, 17, (1.25, 1, 1)),
    "suboccipital": ((13, 62, -25), (13, 58, -170), 11, 12, (1, 1, 1)),
    "levator scapulae": ((40, 30, -35), (52, 32, -170), 9, 13, (1, 1.3, 1)),
    "scalenes": ((32, 14, -60), (44, 10, -170), 7, 13, (1, 1.1, 1)),
    "longus colli": ((7, -7, -15), (9, -8, -170), 5, 5, (1.5, 0.8, 1)),
    "trapezius": ((40, 66, -60), (70, 52, -180), 7, 14, (2, 0.8, 1)),
    "strap muscles": ((10, -44, -92), (12, -46, -170), 4, 5, (2, 0.8, 1)),
    "masseter": ((59, -26, -12), (54, -30, -62), 6.5, 8, (1, 2.1, 1)),
    "temporalis": ((64, -22, 40), (55, -30, -15), 6, 6.5, (1, 3.4, 1)),
    "medial pterygoid": ((24, -27, -12), (42, -20, -60), 7.5, 7, (1, 1.5, 1)),
    "lateral pterygoid": ((27, -32, -6), (44, -14, -5), 8, 7, (1, 1, 1.2)),
    "digastric": ((13, -40, -78), (46, 8, -45), 4.5, 3.5, (1, 1, 1)),
    "buccinator": ((34, -82, -46), (50, -48, -40), 3, 3, (1, 1, 3.5)),
}
FAT_PLANE_MM = 1.0

# The airway from nasopharynx to trachea: start, end, radius at each, stretch
AIRWAY = (
    ((0, -25, -3), (0, -24, -20), 8.5, 8.0, (1.6, 0.95, 1)),
    ((0, -23, -20), (0, -17, -50), 8.0, 6.0, (1.6, 0.85, 1)),
    ((0, -17, -50), (0, -15, -84), 6.2, 7.5, (1.6, 0.9, 1)),
    ((0, -17, -84), (0, -27, -104), 7.0, 6.0, (1.1, 1.1, 1)),
    ((0, -27, -104), (0, -29, -190), 5.6, 8.0, (1, 1.15, 1)),
)


def paint_muscles(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, streams: Streams) -> None:
    x, y, z = canvas.x, canvas.y, canvas.z
    bands = canvas.grid.smooth_noise(streams("fat planes"), 26)
    under_fat = np.clip((-body - 3.5 - 2.2 * traits.fat) / 2, 0, 1).astype(np.float32)
    nape = ellipsoid_distance(x, y, np.minimum(z, -60), (0, 28, -60), (50, 42, 60))
    deep = np.maximum(np.maximum(nape, body + 7 + 3 * traits.fat), z + 22 + 3 * bands)
    canvas.paint("muscle", deep)
    canvas.paint("fat", 1.1 - np.abs(bands) * 4.5, mask=(0.75 * (deep < 0)).astype(np.float32))
    for start, end, radius, end_radius, stretch in MUSCLES.values():
        for side in SIDES:
            canvas.capsule("fat", start, end, radius + FAT_PLANE_MM, end_radius + FAT_PLANE_MM, stretch, mask=under_fat,
                           side=side)
            canvas.capsule("muscle", start, end, radius, end_radius, stretch, mask=under_fat, side=side)
    canvas.capsule("muscle", (0, -97, -42), (0, -96, -42), 3, stretch=(9, 1, 4), mask=under_fat)  # around the mouth
    drop = pose.jaw_mm
    canvas.ellipsoid("muscle", (0, -52, -54 - 0.6 * drop + pose.tongue_mm), (23, 33, 24))  # tongue
    canvas.ellipsoid("muscle", (0, -54, -76 - 0.7 * drop), (20, 28, 7))  # floor of the mouth
    tongue = ellipsoid_distance(x, y, z, (0, -52, -54 - 0.6 * drop + pose.tongue_mm), (23, 33, 24))
    canvas.paint("fat", tongue + 3, mask=np.full(canvas.grid.shape, 0.2, np.float32))  # fat between its fibres
    canvas.capsule("fat", (0, -70, -66), (0, -40, -62), 0.6, 1.0, (1, 1, 6))  # septum of the tongue


def paint_glands(canvas: Canvas, body: np.ndarray, traits: Traits, streams: Streams) -> None:
    """Parotid and submandibular glands, thyroid. Sizes aim at 20-30 ml per parotid and 7-10 ml per submandibular."""
    size = traits.parotid
    surface = canvas.grid.smooth_noise(streams("gland surface"), 17)
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    lower = float(streams("parotid height").uniform(-5, 5))
    for side in SIDES:
        name = "L" if side == LEFT else "R"
        canvas.ellipsoid("parotid", (57, 0, -32 + lower), (12.5 * size, 20 * size, 28 * size), mask=skin,
                         bump=2.0 * surface, organ=f"Parotid_{name}", side=side)
        canvas.capsule("parotid", (54, 6, -30 + lower), (41, 2, -30 + lower), 9 * size,
                       8 * size, (1, 1, 1.7), mask=skin, organ=f"Parotid_{name}", side=side)  # deep lobe
        canvas.ellipsoid("submandibular", (31, -36, -78), (10.5 * size, 16 * size, 13 * size), mask=skin,
                         bump=1.2 * surface, organ=f"Submandibular_{name}", side=side)
        canvas.capsule("thyroid", (17, -22, -116), (15, -20, -150), 8, 7, (1, 1.1, 1), side=side)


def paint_vessels(canvas: Canvas, body: np.ndarray, streams: Streams) -> None:
    g = streams("vessels")
    skin = np.clip(-body / 2 - 1.0, 0, 1).astype(np.float32)
    for side in SIDES:
        carotid, jugular = float(g.normal(0, 1.5)), float(g.uniform(4, 7.2))
        fork = (25 + carotid, -4, -70)  # of the common carotid artery
        canvas.capsule("artery", (22 + carotid, -2, -12), fork, 2.6, 3.4, side=side)  # internal carotid
        canvas.capsule("artery", fork, (20 + carotid, -8, -170), 3.6, 3.9, side=side)  # common carotid
        canvas.capsule("artery", (26 + carotid, -10, -70), (36, -10, -20), 2.4, 1.8, side=side)  # external carotid
        canvas.capsule("vessel", (30, 9, -14), (33 + carotid, 4, -80), 0.8 * jugular, jugular, (1.15, 0.95, 1),
                       side=side)  # internal jugular
        canvas.capsule("vessel", (33 + carotid, 4, -80), (27, -12, -170), jugular, jugular + 1, side=side)
        canvas.capsule("vessel", (50, -4, -30), (50, 22, -150), 2, 2.4, mask=skin, side=side)  # external jugular
        for _ in range(5):
            height, dx, dy = float(g.uniform(-110, -40)), *g.normal(0, (3, 6))
            thickness = 2.3 + abs(float(g.normal(0, 0.8)))
            canvas.ellipsoid("lymph node", (36 + dx, 10 + dy, height), (thickness, 3.4, 4.5), side=side)


def paint_airway(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, streams: Streams) -> None:
    """Pharynx and trachea with their walls, palate, tonsils, mouth, epiglottis."""
    inside = np.clip(-body / 4 - 0.3, 0, 1).astype(np.float32)
    width = traits.airway * pose.airway
    soft = lambda point: width if point[2] > -90 else 1.0  # cartilage holds the larynx and trachea open
    tube = [(start, end, radius * soft(start), end_radius * soft(end), stretch)
            for start, end, radius, end_radius, stretch in AIRWAY]
    for tissue, wall_mm in (("muscle", 5.5), ("mucosa", 2.6)):
        for start, end, radius, end_radius, stretch in tube:
            canvas.capsule(tissue, start, end, radius + wall_mm, end_radius + wall_mm, stretch, mask=inside)
    for side in SIDES:
        canvas.ellipsoid("mucosa", (18, -22, -44), (6.5, 8, 12), side=side)  # palatine tonsil
        canvas.ellipsoid("mucosa", (14, -20, -6), (6, 6, 8), side=side)  # torus tubarius
    canvas.ellipsoid("mucosa", (0, -13, 2), (13, 4, 9))  # adenoid
    for start, end, radius, end_radius, stretch in tube:
        canvas.capsule("air", start, end, radius, end_radius, stretch)
    mouth_mm = abs(float(streams("mouth").normal(0, 1.6))) + 0.4 * pose.jaw_mm + max(0.0, -0.5 * pose.tongue_mm)
    canvas.capsule("mucosa", (0, -84, -30.5), (0, -48, -29.5), 2.0, 2.2, (10, 1, 1))  # hard palate
    canvas.capsule("mucosa", (0, -48, -28), (0, -27, -40), 4.0, 3.2, (4.4, 1, 1))  # soft palate
    canvas.capsule("mucosa", (0, -27, -40), (0, -24, -52), 3.0, 2.6)  # uvula
    canvas.capsule("air", (0, -80, -35), (0, -38, -33), mouth_mm, mouth_mm, (11, 1, 1))
    canvas.capsule("mucosa", (0, -26, -80), (0, -19, -70), 2.2, 1.6, (5, 1, 1))  # epiglottis


def paint_larynx(canvas: Canvas, streams: Streams) -> None:
    """Hyoid, thyroid and cricoid cartilage, vocal folds; the organ Larynx is their envelope, airway included."""
    g = streams("larynx")
    for start, end in chain([(x, -48 + (abs(x) / 19) ** 2 * 24, -88 + 0.25 * abs(x)) for x in np.linspace(-19, 19, 7)]):
        canvas.bone(start, end, 2.8, stretch=(1, 1, 1.2), shell_mm=1.4)  # hyoid
    for side in SIDES:
        canvas.capsule("cartilage", (1, -51, -106), (19, -23, -108), 1.6, 1.7, (1, 1, 7), side=side)
        if g.random() < 0.6:  # ossified edge
            canvas.capsule("cortical bone", (16, -27, -112), (19, -22, -112),
                           0.8 * float(g.uniform(0.3, 1.2)), 0.9, (1, 1, 5), side=side)
    angles = np.linspace(0, 2 * np.pi, 13)
    for angle, following in pairwise(angles):
        height = 3.2 if np.sin(angle) >= 0 else 2.0  # signet ring
        canvas.capsule("cartilage", ring_point(angle), ring_point(following), 2.0, stretch=(1, 1, height))
    for side in SIDES:
        canvas.capsule("mucosa", (4, -40, -110), (5.5, -24, -110), 2.6, 3.2, (1, 1, 1.2), side=side)
    envelope = ellipsoid_distance(canvas.x, canvas.y, canvas.z, (0, -32, -108), (19, 21, 22))
    canvas.organ("Larynx")[envelope < 0] = True


def ring_point(angle: float) -> tuple[float, float, float]:
    """The cricoid: a ring 26 x 22 mm wide."""
    return 13 * float(np.cos(angle)), -27 + 11 * float(np.sin(angle)), -124.0


def chain(points: list) -> list:
    """Consecutive pairs of points: the segments of a polyline."""
    return list(pairwise(points))
