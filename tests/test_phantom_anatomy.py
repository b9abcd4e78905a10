"""Facts of the phantom's anatomy: what lies where, how large it is, how it moves, and how patients differ."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from phantom.anatomy import Anatomy, build_anatomy, reference_position
from phantom.contours import CTV_MARGIN_MM, STRUCTURES, body_mask, draw_structures
from phantom.face import jaw_turn
from phantom.grid import Grid, Streams
from phantom.organ_volumes import (
    WHOLE_BRAIN,
    check,
    cohort_table,
    volumes_ml,
    whole_brain_ml,
)
from phantom.shapes import capsule_distance, ellipsoid_distance
from phantom.tissues import TISSUE_ID
from phantom.traits import (
    FLAP_SITES,
    SITES,
    AnatomySettings,
    Pose,
    draw_traits,
    draw_treatment_pose,
)
from scipy.ndimage import binary_dilation, distance_transform_edt, label

SIZE = 64
GRID = Grid.of_size(SIZE)
COHORT = range(12)
TEETH = ("enamel", "dentin")
PLANNED = Pose()


def build(index: int, pose: Pose = PLANNED, grid: Grid = GRID, **changed) -> Anatomy:
    streams = Streams(1, index)
    return build_anatomy(grid, replace(draw_traits(streams), **changed), pose, streams)


@pytest.fixture(scope="module")
def cohort() -> list[tuple[Anatomy, dict[str, np.ndarray]]]:
    anatomies = [build(index) for index in COHORT]
    return [(anatomy, draw_structures(anatomy, GRID)) for anatomy in anatomies]


def is_tissue(anatomy: Anatomy, *names: str) -> np.ndarray:
    return np.isin(anatomy.label, [TISSUE_ID[name] for name in names])


def centre_mm(mask: np.ndarray, grid: Grid = GRID) -> np.ndarray:
    """(z, y, x) of a mask's centre [mm]."""
    return np.array([axis[index].mean() for axis, index in
                     zip((grid.z_mm, grid.y_mm, grid.x_mm), np.nonzero(mask), strict=True)])


# --------------------------------------------------------------------------------------------------- shapes and grids
def test_distances_are_negative_inside_and_zero_on_the_surface():
    assert capsule_distance(np.float32(0), 0, 0, (0, 0, -10), (0, 0, 10), 5) == pytest.approx(-5)
    assert capsule_distance(np.float32(7), 0, 0, (0, 0, -10), (0, 0, 10), 5) == pytest.approx(2)
    assert ellipsoid_distance(np.float32(0), 20, 0, (0, 0, 0), (10, 20, 30)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_surroundings_reach_past_the_shoulders(size):
    fine, wide = Grid.of_size(size), Grid.surroundings(size)
    assert wide.shape[2] * wide.spacing_mm[2] >= 460 and wide.shape[1] * wide.spacing_mm[1] > 256
    assert wide.lowest_mm <= fine.lowest_mm - 60
    assert np.allclose(np.divide(wide.spacing_mm, fine.spacing_mm), 2, rtol=0.1)
    assert wide.centre_mm[0] == pytest.approx(float((wide.z_mm[0] + wide.z_mm[-1]) / 2), abs=1e-3)


def test_noise_is_the_same_in_space_on_every_grid():
    fine, wide = (grid.smooth_noise(Streams(3)("noise"), 60) for grid in (GRID, Grid.surroundings(SIZE)))
    z, y, x = -120.0, 20.0, -40.0
    at = [volume[tuple(int(np.argmin(np.abs(axis - value))) for axis, value in
                       ((grid.z_mm, z), (grid.y_mm, y), (grid.x_mm, x)))]
          for volume, grid in ((fine, GRID), (wide, Grid.surroundings(SIZE)))]
    assert at[0] == pytest.approx(at[1], abs=0.35)                           # a voxel apart at most
    assert 0.8 < fine.std() < 1.2


def test_one_patient_on_two_grids_is_one_patient():
    """Where both hold the lower neck, the coarse volume is the fine one, averaged."""
    wide = Grid.surroundings(SIZE)
    fine, coarse = build(0), build(0, grid=wide)
    points = [(z, y, x) for z in np.arange(-150, -70, 16) for y in range(-100, 101, 10) for x in range(-110, 111, 10)]

    def sampled(volume: np.ndarray, grid: Grid) -> np.ndarray:
        index = [tuple(int(np.argmin(np.abs(axis - value))) for axis, value in
                       zip((grid.z_mm, grid.y_mm, grid.x_mm), point, strict=True)) for point in points]
        return np.array([volume[i] for i in index])

    a, b = sampled(fine.body, GRID), sampled(coarse.body, wide)
    assert np.corrcoef(a, b)[0, 1] > 0.98
    assert np.mean((a < 0) == (b < 0)) > 0.93


# ------------------------------------------------------------------------------------------------ what lies where
def test_every_structure_lies_inside_the_body(cohort):
    for anatomy, structures in cohort:
        assert tuple(structures) == STRUCTURES
        body = body_mask(anatomy)
        for name, mask in structures.items():
            assert mask.any(), f"{name} is empty"
            assert not (mask & ~body).any(), f"{name} leaves the body"


def test_the_body_is_one_piece(cohort):
    """No island of nose, chin or ear."""
    for anatomy, _ in cohort:
        pieces, _ = label(anatomy.body < 0)
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() > 0.9995 * sizes.sum()


def test_left_is_left_and_front_is_front(cohort):
    """LPS: x grows to the patient's left, y to the back, z to the head."""
    for _, structures in cohort:
        centre = {name: centre_mm(mask) for name, mask in structures.items()}
        for organ in ("Parotid", "Submandibular", "Eye"):
            assert centre[f"{organ}_L"][2] > centre[f"{organ}_R"][2]
        assert centre["Eye_L"][1] < centre["Brainstem"][1] and centre["Mandible"][1] < centre["SpinalCord"][1]
        assert centre["Eye_L"][0] > centre["Mandible"][0] > centre["Larynx"][0] > centre["Thyroid"][0]
        assert centre["Brain"][0] > centre["Brainstem"][0] > centre["SpinalCord"][0]


def bony_directions(anatomy: Anatomy, mask: np.ndarray, reach_mm: float) -> float:
    """Median over the slices of a mask: the share of directions in which bone comes within `reach_mm`."""
    reach, hu, share = int(reach_mm / GRID.spacing_mm[2]), anatomy.values[0], []
    for k in np.flatnonzero(mask.any(axis=(1, 2))):
        y, x = (round(float(c.mean())) for c in np.nonzero(mask[k]))
        directions = [(math.sin(a), math.cos(a)) for a in np.linspace(0, 2 * math.pi, 16, endpoint=False)]
        rays = [[hu[k, round(y + r * dy), round(x + r * dx)] for r in range(1, reach + 1)] for dy, dx in directions]
        share.append(np.mean([max(ray) > 250 for ray in rays]))
    return float(np.median(share))


def test_the_cord_runs_in_a_canal_of_bone(cohort):
    for anatomy, structures in cohort:
        assert bony_directions(anatomy, structures["SpinalCord"], 25) > 0.6
        assert anatomy.values[0][structures["SpinalCord"]].max() < 250


def test_the_eyes_lie_in_their_orbits(cohort):
    """Bone behind and beside each eye, none in front."""
    for anatomy, structures in cohort:
        for side in ("L", "R"):
            assert 0.2 < bony_directions(anatomy, structures[f"Eye_{side}"], 28) < 0.9


def test_the_brain_lies_in_a_closed_skull(cohort):
    """Every step out of the brain through the vault meets bone within 20 mm."""
    for anatomy, structures in cohort:
        bone = binary_dilation(anatomy.values[0] > 300, iterations=1)
        distance = distance_transform_edt(~bone, sampling=GRID.spacing_mm)
        brain = structures["Brain"] & (GRID.z_mm > 30)[:, None, None]
        rim = binary_dilation(brain) & ~brain & (GRID.z_mm > 30)[:, None, None] & (GRID.z_mm < 70)[:, None, None]
        assert np.mean(distance[rim] < 20) > 0.98


def test_air_fills_the_pharynx_the_trachea_and_the_lungs():
    anatomy, wide = build(0), Grid.surroundings(SIZE)
    inside = body_mask(anatomy) & (anatomy.values[0] < -500)
    for z in (-30, -110, -140):
        k = int(np.argmin(np.abs(GRID.z_mm - z)))
        assert inside[k].any(), f"no airway at z = {z} mm"
    chest = build(0, grid=wide)
    lungs = (chest.body < -20) & (chest.values[0] > -900) & (chest.values[0] < -600)
    assert 100 < lungs.sum() * np.prod(wide.spacing_mm) / 1000 < 3000        # ml: the upper lobes


def test_the_shoulders_are_wider_than_head_and_field(cohort):
    wide, head, shoulders = Grid.surroundings(SIZE), [], []
    for index, (anatomy, _) in zip(COHORT, cohort, strict=True):
        width = (anatomy.body < 0).any(axis=1).sum(axis=1) * GRID.spacing_mm[2]
        head.append(width[GRID.z_mm > 0].max())
        shoulders.append(width[:2].max())
        if index < 3:
            around = (build(index, grid=wide).body < 0)
            across = around.any(axis=1).sum(axis=1).max() * wide.spacing_mm[2]
            assert 370 < across < 512                                        # adults: about 400 to 520 mm
            assert not around[:, :, [0, -1]].any() and not around[:, [0, -1]].any()
    assert all(below > above for below, above in zip(shoulders, head, strict=True))
    assert np.mean(np.array(shoulders) > 250) > 0.5                          # most are cut by the 256 mm field


# ----------------------------------------------------------------------------------------------------- how large it is
def test_organ_volumes_are_those_of_adults(cohort):
    """A case outside is redrawn; that must be rare, and both sexes must fit one table."""
    outside = [check(structures, GRID.spacing_mm) for _, structures in cohort]
    assert sum(map(bool, outside)) <= 1, outside
    mean = {row["structure"]: row for row in
            cohort_table(volumes_ml(structures, GRID.spacing_mm) for _, structures in cohort)}
    for name in ("Parotid_L", "Submandibular_R", "Eye_L", "SpinalCord", "Thyroid"):
        assert mean[name]["mean_ml"] == pytest.approx(mean[name]["published_ml"][1], rel=0.25), name


def test_the_whole_brain_is_an_adults():
    volumes = [whole_brain_ml(Streams(1, index)) for index in range(3)]
    assert all(WHOLE_BRAIN.lowest < volume < WHOLE_BRAIN.highest for volume in volumes)


def test_the_check_names_what_is_wrong(cohort):
    structures = dict(cohort[0][1])
    structures["Parotid_L"] = binary_dilation(structures["Parotid_L"], iterations=5)
    structures["Eye_R"] = np.zeros_like(structures["Eye_R"])
    found = " ".join(check(structures, GRID.spacing_mm))
    assert "Parotid_L" in found and "Eye_R: 0.0 ml" in found and "Parotid_R" not in found


# ------------------------------------------------------------------------------------------------------------- targets
def test_targets_grow_from_gtv_to_ptv(cohort):
    for anatomy, structures in cohort:
        gtv, ctv, ptv = (structures[name] for name in ("GTV", "CTV", "PTV"))
        assert not (gtv & ~ctv).any() and not (ctv & ~ptv).any()
        assert gtv.sum() < ctv.sum() < ptv.sum()
        grown = ctv & ~gtv
        assert distance_transform_edt(~gtv, sampling=GRID.spacing_mm)[grown].max() <= CTV_MARGIN_MM
        assert not (grown & is_tissue(anatomy, "air", "cortical bone", "spongy bone")).any()
        assert anatomy.body[ptv & ~gtv].max() < -3                           # build-up region: under the skin


def test_no_tumour_on_a_grid_is_an_error():
    brow = Grid((8, 32, 32), (4.0, 8.0, 8.0), lowest_mm=40.0)
    with pytest.raises(ValueError, match="no tumour on this grid"):
        draw_structures(build(0, grid=brow), brow)


# ----------------------------------------------------------------------------------------------------- poses of a day
def test_the_jaw_turns_about_its_condyles():
    joints = Grid((14, 48, 80), (2.0, 2.0, 2.0), lowest_mm=-20.0)            # both jaw joints, in 2 mm voxels
    move = {}
    for grid, part in ((joints, "condyle"), (GRID, "chin")):
        shut, open_ = (build(0, Pose(jaw_mm=mm), grid, jaw_mm=0.0).organs["Mandible"] for mm in (0.0, 16.0))
        here = (grid.y_mm > -20 if part == "condyle" else grid.y_mm < -70)[None, :, None]
        move[part] = centre_mm(shut & here, grid) - centre_mm(open_ & here, grid)
    assert np.linalg.norm(move["condyle"]) < 3
    assert 7 < move["chin"][0] < 18                                          # mm: down
    turned = jaw_turn(16.0)((0, -88, -60))
    assert math.dist(turned, (0, -88, -60)) == pytest.approx(16, rel=0.1)
    assert math.dist(jaw_turn(16.0)((50, -10, -4)), (50, -10, -4)) < 1


def test_the_upper_jaw_stays_when_the_mouth_opens():
    shut, open_ = (build(0, Pose(jaw_mm=mm)) for mm in (0.0, 16.0))
    high = (GRID.z_mm > -25)[:, None, None] & np.ones(GRID.shape, bool)
    assert np.mean(shut.label[high] != open_.label[high]) < 0.01


def test_weight_loss_takes_fat_and_leaves_bone():
    before, after = build(3), build(3, Pose(weight_loss=0.3))
    assert (after.body < 0).sum() < (before.body < 0).sum()
    assert is_tissue(after, "fat").sum() < 0.97 * is_tissue(before, "fat").sum()
    spine = (GRID.z_mm < -20)[:, None, None] & is_tissue(before, "spongy bone")
    assert np.mean(after.values[0][spine] > 200) > 0.9
    assert not ((after.body < -1) & (before.body > 1)).any()                 # the skin moves inwards only


def test_a_tumour_shrinks_during_treatment():
    before, after = build(2), build(2, Pose(shrinkage=0.15))
    assert 0.3 < after.organs["GTV"].sum() / before.organs["GTV"].sum() < 0.95


def test_the_planned_pose_is_the_default_and_the_day_differs():
    pose = draw_treatment_pose(Streams(1, 0))
    assert pose != Pose() and pose == draw_treatment_pose(Streams(1, 0))
    assert np.mean(build(0).label != build(0, pose).label) > 0.005


# ------------------------------------------------------------------------------------------------ how patients differ
def test_patients_differ_in_shape_and_in_tissue(cohort):
    """Aligned by the ear canals, two heads agree on much less than on half of their anatomy's detail."""
    (a, first), (b, second) = cohort[0], cohort[1]
    inside = (a.body < 0) | (b.body < 0)
    assert np.mean(a.label[inside] != b.label[inside]) > 0.25

    def dice(name: str) -> float:
        return 2 * (first[name] & second[name]).sum() / (first[name].sum() + second[name].sum())

    assert dice("Brain") < 0.985 and dice("Mandible") < 0.9


def test_no_deformation_folds():
    """The Jacobian of patient to reference is positive: no tissue is turned inside out, none shrinks to nothing."""
    coarse = Grid.of_size(32)
    for index in COHORT:
        streams = Streams(1, index)
        x, y, z = reference_position(coarse, draw_traits(streams), PLANNED, streams)
        jacobian = [np.gradient(np.broadcast_to(axis, coarse.shape), *coarse.spacing_mm) for axis in (z, y, x)]
        volume = np.linalg.det(np.moveaxis(np.array(jacobian), (0, 1), (-2, -1)))
        assert 0.2 < volume.min() and volume.max() < 3


def test_a_seed_is_a_patient():
    first, again = build(4), build(4)
    assert np.array_equal(first.values, again.values) and np.array_equal(first.label, again.label)


def test_87_patients_are_87_patients():
    patients = [draw_traits(Streams(0, index)) for index in range(87)]
    assert len({patient.fat for patient in patients}) == 87
    assert {patient.tumour_site for patient in patients} == set(SITES)
    assert {patient.surgery for patient in patients} == {"none", "flap", "neck dissection"}
    assert 0.55 < np.mean([patient.sex == "male" for patient in patients]) < 0.85
    assert {patient.toothless for patient in patients} == {True, False}
    assert all(patient.tumour_site in FLAP_SITES for patient in patients if patient.surgery == "flap")


def test_dental_and_surgical_variants():
    toothed = {"toothless": False, "missing_teeth": 0.0, "filled_teeth": 0.0, "surgery": "none",
               "tumour_site": "larynx"}
    plain = build(0, **toothed)
    assert plain.metal is None and is_tissue(plain, *TEETH).any()
    assert not is_tissue(build(0, **toothed | {"toothless": True}), *TEETH).any()
    filled = build(0, **toothed | {"filled_teeth": 1.0})
    assert filled.metal.min() < 6 and is_tissue(filled, "metal").any()
    side = toothed | {"tumour_side": 1}
    whole, resected = (build(0, **side | {"surgery": surgery}) for surgery in ("none", "flap"))
    left = (GRID.x_mm > 15)[None, None, :]
    assert (resected.organs["Mandible"] & left).sum() < 0.8 * (whole.organs["Mandible"] & left).sum()
    assert (resected.organs["Mandible"] & ~left).sum() > 0.95 * (whole.organs["Mandible"] & ~left).sum()


def test_shares_of_the_sites_must_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        AnatomySettings(site_shares=(0.5, 0.5, 0.5, 0.0, 0.0))
    with pytest.raises(ValueError, match="sum to 1 at most"):
        AnatomySettings(flap_share=0.7, neck_dissection_share=0.7)
