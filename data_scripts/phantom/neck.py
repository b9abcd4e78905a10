"""Soft tissue of the face, neck and shoulders: muscles, glands, vessels, lymph nodes, airway, larynx."""
from __future__ import annotations

from itertools import pairwise

import numpy as np

from phantom.grid import Streams
from phantom.shapes import LEFT, SIDES, Canvas, Point, ellipsoid_distance, mirrored
from phantom.spine import lifted, spine_y_mm
from phantom.traits import Pose, Traits

# Paired muscles, for the left: start and end (x, y, z) [mm], radius at each, stretch; they leave a plane of fat between
# each other. Positions after the usual cross-sectional anatomy, by eye: our choice.
MUSCLES = {
    "sternocleidomastoid": ((57, 24, -18), (16, -42, -182), 8.5, 9, (1, 1.5, 1)),
    "semispinalis and splenius": ((26, 50, -22), (26, 50, -240), 15, 16, (1.25, 1, 1)),
    "suboccipital": ((13, 62, -26), (13, 66, -240), 11, 11, (1, 1, 1)),
    "levator scapulae": ((40, 30, -35), (72, 58, -180), 9, 11, (1, 1.3, 1)),
    "scalenes": ((30, 14, -50), (44, 2, -162), 7, 11, (1, 1.1, 1)),
    "longus colli": ((7, -7, -15), (9, 3, -200), 5, 5, (1.5, 0.8, 1)),
    "strap muscles": ((10, -44, -92), (12, -42, -186), 4, 5, (2, 0.8, 1)),
    "masseter": ((59, -26, -12), (54, -30, -62), 6.5, 8, (1, 2.1, 1)),
    "temporalis": ((64, -22, 40), (55, -30, -15), 6, 6.5, (1, 3.4, 1)),
    "medial pterygoid": ((24, -27, -12), (42, -20, -60), 7.5, 7, (1, 1.5, 1)),
    "lateral pterygoid": ((27, -32, -6), (44, -14, -5), 8, 7, (1, 1, 1.2)),
    "digastric": ((13, -40, -78), (46, 8, -45), 4.5, 3.5, (1, 1, 1)),
    "buccinator": ((34, -82, -46), (50, -48, -40), 3, 3, (1, 1, 3.5)),
}
SHOULDER_MUSCLES = {
    "trapezius, upper": ((28, 64, -60), (48, 62, -140), 6, 10, (2, 0.8, 1)),
    "trapezius, lower": ((48, 58, -146), (148, 34, -170), 13, 12, (1, 1.5, 1)),
    "supraspinatus": ((76, 50, -178), (150, 26, -180), 15, 9, (1, 1.4, 1)),
    "infraspinatus": ((90, 84, -230), (155, 45, -195), 16, 9, (1.5, 0.8, 1)),
    "subscapularis": ((92, 50, -240), (150, 20, -195), 14, 9, (1.5, 0.8, 1)),
    "deltoid, front": ((168, -6, -176), (196, 8, -260), 15, 17, (1, 1, 1)),
    "deltoid, side": ((186, 20, -180), (206, 28, -260), 15, 17, (1, 1.4, 1)),
    "deltoid, back": ((166, 46, -178), (196, 48, -260), 14, 16, (1, 1, 1)),
    "pectoralis": ((30, -64, -232), (165, -22, -215), 15, 10, (1, 0.8, 1.6)),
    "biceps and triceps": ((184, 12, -250), (198, 20, -330), 20, 26, (1, 1, 1)),
    "erector of the spine": ((30, 66, -180), (32, 74, -260), 16, 18, (1.3, 1, 1)),
}
FAT_PLANE_MM = 1.0
TONGUE, TONGUE_MM = (0.0, -52.0, -54.0), (23.0, 33.0, 24.0)

# The airway from nasopharynx to trachea: start, end, radius at each, stretch
AIRWAY = (
    ((0, -25, -3), (0, -24, -20), 8.5, 8.0, (1.6, 0.95, 1)),
    ((0, -23, -20), (0, -17, -50), 8.0, 6.0, (1.6, 0.85, 1)),
    ((0, -17, -50), (0, -15, -84), 6.2, 7.5, (1.6, 0.9, 1)),
    ((0, -17, -84), (0, -27, -104), 7.0, 5.0, (1.1, 1.1, 1)),
    ((0, -27, -104), (0, -29, -128), 5.2, 8.0, (1, 1.2, 1)),
    ((0, -29, -128), (0, -14, -250), 8.4, 8.6, (1, 1.05, 1)),
)


def paint_muscles(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, jaw, streams: Streams) -> None:
    """jaw: where a point of the mandible goes as the mouth opens."""
    z = canvas.z
    bands = canvas.grid.smooth_noise(streams("fat planes"), 26)
    under_fat = np.clip((-body - 3.5 - 2.6 * traits.fat) / 2, 0, 1).astype(np.float32)
    nape = ellipsoid_distance(canvas.x, canvas.y, np.maximum(z, -60), (0, 40, -60), (46, 36, 60))
    deep = np.maximum(np.maximum(nape, body + 7 + 3 * traits.fat), z + 22 + 3 * bands)
    canvas.paint("muscle", deep)
    canvas.paint("fat", 1.1 - np.abs(bands) * 4.5, mask=(0.75 * (deep < 0)).astype(np.float32))
    removed = traits.tumour_side if traits.surgery == "neck dissection" else 0
    bulk = traits.muscle
    for name, (start, end, radius, end_radius, stretch) in (MUSCLES | SHOULDER_MUSCLES).items():
        radius, end_radius = radius * bulk, end_radius * bulk
        if name in SHOULDER_MUSCLES:
            start, end = lifted(start, traits), lifted(end, traits)
        for side in SIDES:
            if side == removed and name == "sternocleidomastoid":
                continue
            canvas.capsule("fat", start, end, radius + FAT_PLANE_MM, end_radius + FAT_PLANE_MM, stretch, mask=under_fat,
                           side=side)
            canvas.capsule("muscle", start, end, radius, end_radius, stretch, mask=under_fat, side=side)
    canvas.capsule("muscle", (0, -97, -42), (0, -96, -42), 3, stretch=(9, 1, 4), mask=under_fat)  # around the mouth
    paint_tongue(canvas, traits, pose, jaw, streams)


def paint_tongue(canvas: Canvas, traits: Traits, pose: Pose, jaw, streams: Streams) -> None:
    """Tongue with the fat between its fibres, its septum, floor of the mouth with the sublingual glands."""
    x, y, z = jaw(TONGUE)
    centre, radii = (x, y, z + pose.tongue_mm), np.multiply(TONGUE_MM, traits.tongue)
    canvas.ellipsoid("muscle", jaw((0, -54, -76)), (20, 28, 7))  # floor of the mouth
    canvas.ellipsoid("muscle", centre, radii)
    fibres = canvas.grid.smooth_noise(streams("tongue fibres"), 11)
    where = canvas.box(np.subtract(centre, radii), np.add(centre, radii))
    inner = ellipsoid_distance(canvas.x[where], canvas.y[where], canvas.z[where], centre, radii - 4)
    canvas.paint("fat", np.maximum(inner, 1.2 - 2.0 * np.abs(fibres[where])), where,
                 mask=np.full(canvas.grid.shape, 0.25, np.float32))
    canvas.capsule("fat", jaw((0, -70, -66)), jaw((0, -40, -62)), 0.6, 1.0, (1, 1, 6))  # septum
    for side in SIDES:
        canvas.ellipsoid("submandibular", jaw((15, -62, -70)), (4, 12, 5), side=side)  # sublingual gland


def paint_glands(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, streams: Streams) -> None:
    """Parotid and submandibular glands, thyroid. Sizes aim at 25, 8 and 18 ml (see organ_volumes.py)."""
    size = traits.parotid * (1 - 0.2 * pose.weight_loss)  # glands shrink in treatment: our choice
    surface = canvas.grid.smooth_noise(streams("gland surface"), 17)
    skin = np.clip(-body / 2 - 1.5, 0, 1).astype(np.float32)
    g = streams("glands")
    lower, tail, accessory = g.uniform(-6, 5), g.uniform(-8, 8), g.random() < 0.3
    lobe, nodule = g.uniform(0.85, 1.15, size=2), g.random() < 0.2
    for side, thyroid in zip(SIDES, traits.thyroid * lobe, strict=True):
        name, own = "L" if side == LEFT else "R", size * g.uniform(0.96, 1.04)
        canvas.ellipsoid("parotid", (57, 0, -32 + lower), (12 * own, 20 * own, (26 + 0.4 * tail) * own), mask=skin,
                         bump=2.4 * surface, organ=f"Parotid_{name}", side=side)
        canvas.capsule("parotid", (54, 6, -30 + lower), (41, 2, -30 + lower), 9 * own, 8 * own, (1, 1, 1.7), mask=skin,
                       organ=f"Parotid_{name}", side=side)  # deep lobe
        if accessory:
            canvas.ellipsoid("parotid", (62, -32, -28), (5, 14, 7), mask=skin, organ=f"Parotid_{name}", side=side)
        smg = traits.submandibular * canvas.stretch_at(mirrored((31, -36, -78), side))
        canvas.ellipsoid("submandibular", (31, -36, -78), (10 * smg, 15.5 * smg, 13.5 * smg), mask=skin,
                         bump=1.2 * surface, organ=f"Submandibular_{name}", side=side)
        canvas.capsule("thyroid", (17, -24, -118), (15, -18, -150), 7.2 * thyroid, 8.2 * thyroid, (1, 1.15, 1),
                       side=side, organ="Thyroid")
    canvas.capsule("thyroid", (-11, -37, -138), (11, -37, -138), 3, stretch=(1, 1, 2), organ="Thyroid")  # isthmus
    if nodule:
        canvas.ellipsoid("necrosis", (16, -20, -142), (5, 5, 6), side=int(g.choice(SIDES)))


def paint_vessels(canvas: Canvas, body: np.ndarray, traits: Traits, streams: Streams) -> None:
    """Carotid, vertebral, subclavian arteries, jugular veins, and the lymph nodes along them."""
    g = streams("vessels")
    skin = np.clip(-body / 2 - 1.0, 0, 1).astype(np.float32)
    n_nodes, larger = int(g.integers(3, 11)), g.uniform(1.1, 1.5)  # reactive nodes; one jugular vein is the larger
    dominant = g.choice(SIDES, p=(0.7, 0.3))
    for side in SIDES:
        removed = traits.surgery == "neck dissection" and side == traits.tumour_side
        carotid, kink, fork_z = g.normal(0, 2.0), g.normal(0, 3.0, size=2), float(g.normal(-72, 6))
        jugular = g.uniform(3.6, 5.2) * (larger if side == dominant else 1.0)
        fork = (25 + carotid, -4, fork_z)  # of the common carotid artery
        bend, chest = (23 + carotid + kink[0], -6 + 0.6 * kink[1], -112), (20 + 0.5 * carotid, -6, -185)
        canvas.capsule("artery", (23, -2, -16), (25 + carotid - 0.8 * kink[0], 0, -42), 2.6, 2.6, side=side)
        canvas.capsule("artery", (25 + carotid - 0.8 * kink[0], 0, -42), fork, 2.6, 4.2, side=side)  # internal carotid
        canvas.capsule("artery", fork, bend, 3.8, 3.6, side=side)  # common carotid
        canvas.capsule("artery", bend, chest, 3.6, 4.0, side=side)
        canvas.capsule("artery", (26 + carotid, -10, fork_z), (36, -10, -20), 2.4, 1.8, side=side)  # external carotid
        canvas.capsule("artery", (28, -12, fork_z + 8), (52, -44, fork_z + 10), 1.6, 1.4, side=side)  # facial
        if not removed:
            canvas.capsule("vessel", (27, 9, -18), (33 + carotid, 4, -80), 0.8 * jugular, jugular, (1.15, 0.95, 1),
                           side=side)  # internal jugular
            canvas.capsule("vessel", (33 + carotid, 4, -80), (30 + kink[0], -12, -170), jugular, jugular + 1, side=side)
            canvas.capsule("vessel", (50, -4, -30), (50, 22, -150), 1.4 + 0.2 * jugular, 2.4, mask=skin, side=side)
        canvas.capsule("vessel", (30, -14, -172), (8, -34, -200), jugular + 1.5, jugular + 2, side=side)
        canvas.capsule("vessel", (34, -18, -174), (120, -6, -192), 5, 5, side=side)  # subclavian and axillary vein
        canvas.capsule("artery", (20, -4, -186), (46, -2, -168), 4.5, 4, side=side)
        canvas.capsule("artery", (46, -2, -168), (125, 0, -190), 4, 3.6, side=side)
        for _ in range(n_nodes):
            height, (dx, dy), size = g.uniform(-120, -36), g.normal(0, (3.5, 7)), 1.7 + abs(g.normal(0, 0.9))
            if not removed:
                canvas.ellipsoid("lymph node", (36 + dx, 10 + dy, height), (size, 1.3 * size, 1.9 * size), side=side)
        for x, y, z in ((9, -50, -80), (22, -48, -82)):  # submental and submandibular
            canvas.ellipsoid("lymph node", (x, y, z), (g.uniform(1.2, 3.2),) * 3, side=side)
    canvas.capsule("artery", (14, -30, -222), (-10, 14, -232), 12, 11)  # arch of the aorta


def paint_airway(canvas: Canvas, body: np.ndarray, traits: Traits, pose: Pose, jaw, streams: Streams) -> None:
    """Pharynx and trachea with their walls, palate, tonsils, mouth, epiglottis, oesophagus."""
    g = streams("airway")
    inside = np.clip(-body / 4 - 0.3, 0, 1).astype(np.float32)
    width, lean = traits.airway * pose.airway, g.normal(0, 1.5)
    upper, tonsil, adenoid, uvula = g.uniform(0.85, 1.1), g.uniform(0.7, 1.25), g.uniform(0.4, 1.2), g.uniform(-4, 4)
    soft = lambda point: width * (upper if point[2] > -30 else 1) if point[2] > -100 else 1.0  # cartilage holds it open
    place = lambda point: (point[0] + lean * np.clip((-point[2] - 60) / 60, 0, 1), point[1],
                           point[2] + traits.larynx_mm * (-130 < point[2] < -80))
    tube = [(place(start), place(end), radius * soft(start), end_radius * soft(end), stretch)
            for start, end, radius, end_radius, stretch in AIRWAY]
    for tissue, wall_mm in (("muscle", 4.6), ("mucosa", 1.7)):
        for start, end, radius, end_radius, stretch in tube[:4]:
            canvas.capsule(tissue, start, end, radius + wall_mm, end_radius + wall_mm, stretch, mask=inside)
    for start, end, radius, end_radius, stretch in tube[4:]:
        canvas.capsule("cartilage", start, end, radius + 2.2, end_radius + 2.2, stretch)  # rings
        canvas.capsule("mucosa", start, end, radius + 0.9, end_radius + 0.9, stretch)
    for start, end in pairwise([(-4 * (z < -140), spine_y_mm(z, traits.lordosis) - 17, z)
                                for z in (-126.0, -150.0, -180.0, -215.0, -245.0)]):
        canvas.capsule("muscle", start, end, 6, 6.5, (1.5, 0.8, 1))  # oesophagus
        canvas.capsule("mucosa", start, end, 2.4, 2.6, (1.8, 0.6, 1))
    for side in SIDES:
        canvas.ellipsoid("mucosa", (18, -22, -44), (6.5 * tonsil, 8 * tonsil, 12 * tonsil), side=side)  # palatine
        canvas.ellipsoid("mucosa", (14, -20, -6), (6, 6, 8), side=side)  # torus tubarius
    canvas.ellipsoid("mucosa", (0, -13, 2), (13, 4 * adenoid, 9))
    for start, end, radius, end_radius, stretch in tube:
        canvas.capsule("air", start, end, radius, end_radius, stretch)
    for side in SIDES:  # valleculae and piriform sinuses
        canvas.ellipsoid("air", place((8, -31, -80)), (5, 3, 4), side=side)
        canvas.ellipsoid("air", place((15, -20, -104)), (2.6 * width, 4.5, 9), side=side)
    opened = -60 - jaw((0, -88, -60))[2]
    mouth_mm = abs(g.normal(0, 1.6)) + 0.28 * opened + max(0.0, -0.5 * pose.tongue_mm)
    canvas.capsule("mucosa", (0, -84, -30.5), (0, -48, -29.5), 2.0, 2.2, (10, 1, 1))  # hard palate
    canvas.capsule("mucosa", (0, -48, -28), (0, -27, -40), 4.0, 3.2, (4.4, 1, 1))  # soft palate
    canvas.capsule("muscle", (0, -46, -28), (0, -30, -38), 1.4, 1.0, (6, 1, 1))
    canvas.capsule("mucosa", (0, -27, -40), (0, -24, -50 + uvula), 3.0, 2.6)  # uvula
    canvas.capsule("air", (0, -80, -35 - 0.3 * opened), (0, -40, -33), mouth_mm, 0.7 * mouth_mm, (9, 1, 1))
    canvas.capsule("mucosa", place((0, -27, -84)), place((0, -19, -70)), 2.2, 1.6, (5, 1, 1))  # epiglottis


def paint_larynx(canvas: Canvas, traits: Traits, streams: Streams) -> None:
    """Hyoid, thyroid and cricoid cartilage, arytenoids, vocal folds; the organ Larynx is their envelope, airway
    included. Cartilage turns to bone with age, in patches."""
    g = streams("larynx")
    size, up = traits.larynx * canvas.stretch_at((0, -32, -108)), traits.larynx_mm
    at = lambda x, y, z: (size * x, -32 + size * (y + 32), -108 + size * (z + 108) + up)
    horns = [at(x, -48 + (abs(x) / 19) ** 2 * 24, -88 + 0.25 * abs(x)) for x in np.linspace(-19, 19, 7)]
    for start, end in pairwise(horns):
        canvas.bone(start, end, 2.8, stretch=(1, 1, 1.2), shell_mm=1.4)  # hyoid
    ossified = g.uniform(0, 1.3)
    for side in SIDES:
        canvas.capsule("fat", at(4, -42, -96), at(10, -34, -98), 3.5, stretch=(1, 1, 1.8), side=side)  # pre-epiglottic
        canvas.capsule("cartilage", at(1, -51, -106), at(19, -23, -108), 1.6, 1.7, (1, 1, 7 * size), side=side)
        if g.random() < ossified:
            canvas.capsule("cortical bone", at(16, -27, -112), at(19, -22, -112), 0.8 * g.uniform(0.3, 1.2), 0.9,
                           (1, 1, 5), side=side)
        canvas.ellipsoid("cartilage", at(5, -22, -112), (2.2, 2.2, 4), side=side)  # arytenoid
    for angle, following in pairwise(np.linspace(0, 2 * np.pi, 13)):
        height = 3.2 if np.sin(angle) >= 0 else 2.0  # signet ring
        canvas.capsule("cartilage", at(*ring_point(angle)), at(*ring_point(following)), 2.0, stretch=(1, 1, height))
        if g.random() < 0.5 * ossified:
            canvas.capsule("spongy bone", at(*ring_point(angle)), at(*ring_point(following)), 1.2,
                           stretch=(1, 1, height))
    for side in SIDES:
        canvas.capsule("mucosa", at(3.6, -44, -110), at(5.5, -24, -110), 2.6, 3.2, (1, 1, 1.2), side=side)
    envelope = ellipsoid_distance(canvas.x, canvas.y, canvas.z, at(0, -33, -107), (18 * size, 20 * size, 22 * size))
    canvas.organ("Larynx")[envelope < 0] = True


def ring_point(angle: float) -> Point:
    """The cricoid: a ring 26 x 22 mm wide."""
    return 13 * float(np.cos(angle)), -27 + 11 * float(np.sin(angle)), -124.0
