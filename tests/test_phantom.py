"""Facts of the procedural phantom: its physics, its anatomy, its files, and that a seed fixes every byte."""
from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from case_folder import write_case, write_dataset
from make_phantom import make_cohort, planned_cases, split_sizes
from phantom.anatomy import Anatomy, build_anatomy
from phantom.cbct import CbctSettings, simulate_cbct
from phantom.conebeam import ConeBeam, centred_axis, forward_project, reconstruct_fdk
from phantom.contours import STRUCTURES
from phantom.grid import Grid, Streams
from phantom.mri import T1C, T2W, spin_echo
from phantom.scans import Case, make_case
from phantom.shapes import capsule_distance, ellipsoid_distance
from phantom.tissues import TISSUE_ID
from phantom.traits import Pose, draw_traits
from scipy.ndimage import binary_dilation, gaussian_filter

SCRIPTS = Path(__file__).parents[1] / "data_scripts"
SIZE = 64
IDEAL = CbctSettings(views=90, beam_hardening=False, noise=False, scatter_to_primary=0.0, lag=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the generator's workers: small grids gain nothing from more threads, and a busy machine loses a lot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def case(one_thread) -> Case:
    return make_case(seed=0, index=1, size=SIZE)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """The planned anatomy of `case`."""
    streams = Streams(0, 1)
    return build_anatomy(Grid.of_size(SIZE), draw_traits(streams), Pose(), streams)


def run_script(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPTS / "make_phantom.py"), "--out", str(out), *arguments],
                          capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------- cone beam and CBCT
def water_cylinder(radius_mm: float = 70.0, size: int = 64) -> tuple:
    """HU volume with smooth edges, spacing, and distance from the axis (y, x) [mm]."""
    spacing = (6.0, 4.0, 4.0)
    axis = centred_axis(size, 4.0).numpy()
    distance = np.hypot(axis[:, None], axis[None, :])
    hu = -1000 + 1000 * np.clip(0.5 + (radius_mm - distance) / 4, 0, 1)
    return np.repeat(hu[None], size // 2, axis=0).astype(np.float32), spacing, distance


def test_a_ray_through_a_sphere_measures_its_chord():
    radius, step = 50.0, 2.0
    axis = centred_axis(80, step)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    sphere = (0.5 + (radius - torch.sqrt(z ** 2 + y ** 2 + x ** 2)) / step).clamp(0, 1)
    scan = ConeBeam(n_views=3, n_u=21, n_v=21, pixel_u_mm=4.0, pixel_v_mm=4.0)
    paths = forward_project(sphere[None], (step, step, step), scan, radius_mm=60.0)[:, 0]
    u, v = scan.u_mm()[None, :], scan.v_mm()[:, None]
    distance = torch.sqrt(u ** 2 + v ** 2) / torch.sqrt(1 + (u ** 2 + v ** 2) / scan.source_isocentre_mm ** 2)
    chord = 2 * torch.sqrt((radius ** 2 - distance ** 2).clamp(min=0))
    inside = distance < 0.9 * radius
    assert (paths - chord).abs()[:, inside].max() < 1.0                                  # of up to 100 mm


def test_fdk_of_a_water_cylinder_is_water():
    hu, spacing, distance = water_cylinder()
    cbct = simulate_cbct(hu, spacing, 0, IDEAL)
    inside, outside = distance < 60, (distance > 82) & (distance < 95)
    assert abs(cbct[:, inside].mean()) < 5                                               # HU
    assert np.abs(cbct[:, inside]).max() < 30
    assert np.abs(cbct[:, outside] + 1000).max() < 30


def test_fdk_keeps_the_scale_off_the_middle_plane():
    """A short cylinder, away from its ends: the cone angle costs little within the middle two thirds."""
    axis_z, axis = centred_axis(32, 4.0), centred_axis(64, 4.0)
    z, y, x = torch.meshgrid(axis_z, axis, axis, indexing="ij")
    disc = ((0.5 + (40 - torch.hypot(x, y)) / 4).clamp(0, 1) * (0.5 + (40 - z.abs()) / 4).clamp(0, 1))[None]
    scan = ConeBeam(n_views=60, n_u=64, n_v=44, pixel_u_mm=2.0, pixel_v_mm=4.0)
    paths = forward_project(disc, (4.0, 4.0, 4.0), scan, radius_mm=50.0)
    volume = reconstruct_fdk(paths[:, 0], (4.0, 4.0, 4.0), (32, 64, 64), scan)
    core = (torch.hypot(x, y) < 28) & (z.abs() < 27)
    assert abs(float(volume[core].mean()) - 1) < 0.02


@pytest.mark.parametrize("fault", [{"noise": True, "photons": 5e3}, {"scatter_to_primary": 0.8, "scatter_left": 0.4},
                                   {"lag": 0.3}])
def test_each_imperfection_raises_the_error(case, fault):
    ct, spacing = case.volumes["CT"], case.grid.spacing_mm
    ideal, faulty = (simulate_cbct(ct, spacing, 0, settings) for settings in (IDEAL, replace(IDEAL, **fault)))
    error = [float(np.abs(scan - ct)[case.mask].mean()) for scan in (ideal, faulty)]
    assert error[1] > error[0]


def test_scatter_makes_a_cup():
    hu, spacing, distance = water_cylinder()
    cbct = simulate_cbct(hu, spacing, 0, replace(IDEAL, scatter_to_primary=0.8, scatter_left=0.5))
    middle, rim = cbct[:, distance < 15].mean(), cbct[:, (distance > 50) & (distance < 60)].mean()
    assert middle < rim - 10


def test_beam_hardening_spares_water_and_darkens_between_bones():
    """Water is calibrated away; between two bone rods along their common line HU fall."""
    hu, spacing, _ = water_cylinder()
    axis = centred_axis(64, 4.0).numpy()
    y, x = np.meshgrid(axis, axis, indexing="ij")
    settings = replace(IDEAL, beam_hardening=True)
    assert abs(simulate_cbct(hu, spacing, 0, settings)[:, np.hypot(x, y) < 60].mean()) < 5
    for centre in (-40, 40):
        hu[:, np.hypot(x - centre, y) < 14] = 1500
    between, beside = (np.abs(x) < 8) & (np.abs(y) < 4), (np.abs(x) < 4) & (np.abs(np.abs(y) - 45) < 6)
    cbct = simulate_cbct(hu, spacing, 0, settings) - simulate_cbct(hu, spacing, 0, IDEAL)
    assert cbct[:, between].mean() < cbct[:, beside].mean() - 3


def test_cbct_works_on_any_grid():
    hu, _, _ = water_cylinder(radius_mm=90)
    cbct = simulate_cbct(hu[:20, 4:, 8:], (5.0, 4.0, 4.0), 1, CbctSettings(views=60))
    assert cbct.shape == (20, 60, 56)
    assert np.isfinite(cbct).all() and cbct.min() >= -1000 and cbct.max() <= 3071


def test_raw_cbct_lies_in_the_published_range(case):
    """Published body MAE of raw head-and-neck CBCT against CT: 33-100 HU."""
    error = np.abs(case.volumes["CBCT"] - case.volumes["CT"])[case.mask].mean()
    assert 33 < error < 100


# ------------------------------------------------------------------------------------------------------------------ MR
def test_spin_echo_follows_the_signal_equation():
    by_hand = 0.8 * (1 - math.exp(-600 * (1 / 1350 + 4.5 * 0.06 / 1000))) * math.exp(-11 * (1 / 38 + 5 * 0.06 / 1000))
    assert spin_echo(1350, 38, 0.8, 0.06, T1C) == pytest.approx(by_hand, rel=1e-12)


def test_contrast_is_what_a_radiographer_expects():
    fluid, white, muscle = (4200, 1400, 1.0), (880, 70, 0.72), (1350, 38, 0.8)
    assert spin_echo(*fluid, 0, T2W) > spin_echo(*white, 0, T2W) > spin_echo(*muscle, 0, T2W)
    assert spin_echo(*fluid, 0, T1C) < spin_echo(*white, 0, T1C)
    assert spin_echo(*muscle, 0.4, T1C) > 1.5 * spin_echo(*muscle, 0, T1C)               # gadolinium brightens T1


def test_ct_and_mr_textures_are_independent(case, anatomy):
    """No network can read the grain of the CT from the MR.

    Inside muscle, with what the ideal anatomy explains (partial volume with fat) taken out by least squares and slow
    drifts by a high pass, the residuals do not correlate.
    """
    core = gaussian_filter((anatomy.label == TISSUE_ID["muscle"]).astype(np.float32), 1.0) > 0.95
    assert core.sum() > 300
    ideal = [gaussian_filter(values, sigma)[core] for values in anatomy.values for sigma in (0.01, 0.7, 1.4)]
    design = np.stack([np.ones(core.sum()), *ideal], axis=1)

    def residual(volume: np.ndarray) -> np.ndarray:
        inside = gaussian_filter(core.astype(np.float32), 2)
        grain = (volume - gaussian_filter(volume * core, 2) / np.maximum(inside, 1e-6))[core]
        return grain - design @ np.linalg.lstsq(design, grain, rcond=None)[0]

    for modality in ("T1c", "T2w"):
        r = np.corrcoef(residual(case.volumes["CT"]), residual(case.volumes[modality]))[0, 1]
        assert abs(r) < 0.1


# ------------------------------------------------------------------------------------------------------------- anatomy
def test_distances_are_negative_inside_and_zero_on_the_surface():
    assert capsule_distance(np.float32(0), 0, 0, (0, 0, -10), (0, 0, 10), 5) == pytest.approx(-5)
    assert capsule_distance(np.float32(7), 0, 0, (0, 0, -10), (0, 0, 10), 5) == pytest.approx(2)
    assert ellipsoid_distance(np.float32(0), 20, 0, (0, 0, 0), (10, 20, 30)) == pytest.approx(0, abs=1e-5)


def test_one_grid_and_every_structure(case):
    assert set(case.volumes) == {"CBCT", "CT", "T1c", "T2w"}
    assert tuple(case.structures) == STRUCTURES
    for volume in (*case.volumes.values(), case.mask, *case.structures.values()):
        assert volume.shape == (SIZE // 2, SIZE, SIZE)
    for name, inside in case.structures.items():
        assert inside.any(), f"{name} is empty"
    deep = ~binary_dilation(~case.mask, iterations=2)
    assert not (deep & case.structures["GTV"] & ~case.structures["PTV"]).any()           # the PTV holds the GTV


def test_hu_of_tissues(case, anatomy):
    ct = case.volumes["CT"]
    outside = binary_dilation(case.mask, iterations=3) == 0
    assert ct[outside].mean() == pytest.approx(-1000, abs=5)

    def core_hu(*names: str) -> float:
        inside = np.isin(anatomy.label, [TISSUE_ID[name] for name in names])
        return float(ct[gaussian_filter(inside.astype(np.float32), 0.7) > 0.93].mean())

    assert 0 < core_hu("grey matter", "white matter", "cerebellum") < 80
    assert -130 < core_hu("fat") < -60
    assert 30 < core_hu("muscle") < 80
    assert core_hu("cortical bone", "spongy bone") > 300


def test_hu_is_no_lookup_of_the_label(case, anatomy):
    for name, least in (("muscle", 5), ("cortical bone", 60)):
        inside = gaussian_filter((anatomy.label == TISSUE_ID[name]).astype(np.float32), 0.5) > 0.9
        assert case.volumes["CT"][inside].std() > least


@pytest.mark.parametrize("index", [0, 3])
def test_organ_volumes_are_those_of_adults(index):
    streams, grid = Streams(0, index), Grid.of_size(SIZE)
    organs = build_anatomy(grid, draw_traits(streams), Pose(), streams).organs
    ml = {name: inside.sum() * float(np.prod(grid.spacing_mm)) / 1000 for name, inside in organs.items()}
    ranges = {"Parotid": (10, 40), "Eye": (5, 9), "Submandibular": (3, 14), "Brainstem": (15, 45),
              "SpinalCord": (3, 15), "Mandible": (25, 90)}
    for organ, (low, high) in ranges.items():
        for name in (name for name in ml if name.startswith(organ)):
            assert low < ml[name] < high, f"{name}: {ml[name]:.1f} ml"


def test_the_cord_runs_inside_bone(case):
    """From every slice's cord, at least half of the directions meet bone within 25 mm: the spinal canal."""
    cord, ct = case.structures["SpinalCord"], case.volumes["CT"]
    reach = int(25 / case.grid.spacing_mm[2])
    share = []
    for k in np.flatnonzero(cord.any(axis=(1, 2))):
        y, x = (round(float(c.mean())) for c in np.nonzero(cord[k]))
        directions = [(math.sin(a), math.cos(a)) for a in np.linspace(0, 2 * math.pi, 16, endpoint=False)]
        rays = [[ct[k, round(y + r * dy), round(x + r * dx)] for r in range(1, reach + 1)] for dy, dx in directions]
        share.append(np.mean([max(ray) > 250 for ray in rays]))
    assert np.median(share) > 0.6
    assert ct[cord].max() < 200


def test_left_is_left_and_front_is_front(case):
    """LPS: x grows to the patient's left, y to the back, z to the head."""
    centre = {name: np.argwhere(inside).mean(axis=0) for name, inside in case.structures.items()}
    assert centre["Parotid_L"][2] > centre["Parotid_R"][2] and centre["Eye_L"][2] > centre["Eye_R"][2]
    assert centre["Eye_L"][1] < centre["Brainstem"][1] and centre["Mandible"][1] < centre["SpinalCord"][1]
    assert centre["Eye_L"][0] > centre["Mandible"][0] > centre["Larynx"][0]


# ------------------------------------------------------------------------------------------- files, seeds, splits, jobs
@pytest.mark.parametrize(("n", "expected"), [(40, (28, 4, 8)), (6, (3, 1, 2)), (3, (1, 1, 1)), (10, (7, 1, 2))])
def test_split_sizes(n, expected):
    assert tuple(split_sizes(n).values()) == expected
    cases = planned_cases(n)
    assert len({case["patient"] for case in cases}) == len({case["name"] for case in cases}) == n


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> Path:
    """Three cases of 32 voxels, seed 5, made by two processes."""
    out = tmp_path_factory.mktemp("phantom") / "set"
    result = run_script(out, "--cases", "3", "--size", "32", "--seed", "5", "--jobs", "2")
    assert result.returncode == 0, result.stderr
    return out


def file_sums(folder: Path) -> list[dict[str, str]]:
    return [case["sha256"] for case in json.loads((folder / "dataset.json").read_text())["cases"]]


def test_same_seed_same_bytes_whatever_the_jobs(small_set, tmp_path):
    result = run_script(tmp_path, "--cases", "3", "--size", "32", "--seed", "5", "--jobs", "1")
    assert result.returncode == 0, result.stderr
    assert file_sums(tmp_path) == file_sums(small_set)
    assert len({case["ct.nii.gz"] for case in file_sums(small_set)}) == 3


def test_another_seed_is_another_patient(small_set):
    stored = nib.load(small_set / "case_000" / "ct.nii.gz").get_fdata().transpose(2, 1, 0)
    again, other = (make_case(seed, 0, 32).volumes["CT"] for seed in (5, 6))
    assert np.abs(again - stored).max() < 1                                              # int16 rounding
    assert np.abs(other - stored).mean() > 10


def test_files_carry_their_geometry(small_set):
    image = nib.load(small_set / "case_000" / "ct.nii.gz")
    assert image.shape == (32, 32, 16) and image.get_data_dtype() == np.int16
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.allclose(image.get_sform(), image.get_qform(), atol=1e-4)


def test_finished_cases_are_kept(small_set, capsys):
    before = {path: path.stat().st_mtime_ns for path in small_set.glob("case_*/*")}
    dataset = (small_set / "dataset.json").read_bytes()
    (small_set / "dataset.json").unlink()
    make_cohort(3, 32, small_set, seed=5, n_jobs=1)
    assert "3 there, 0 to make" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in small_set.glob("case_*/*")} == before
    assert (small_set / "dataset.json").read_bytes() == dataset


@pytest.mark.parametrize(("arguments", "message"), [(["--cases", "2"], "at least 3"),
                                                      (["--size", "30"], "multiple of 4")])
def test_nonsense_is_refused_in_one_line(tmp_path, arguments, message):
    result = run_script(tmp_path, *arguments)
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr


def test_the_writer_refuses_what_cannot_be_read(tmp_path):
    good = np.zeros((2, 4, 4), np.float32)

    def write(volumes: dict) -> Path:
        return write_case(tmp_path, "a", volumes, good > -1, {}, (3, 2, 2), (0, 0, 0), {})

    with pytest.raises(ValueError, match="one grid"):
        write({"CT": good[:1]})
    with pytest.raises(ValueError, match="NaN"):
        write({"CT": np.full_like(good, np.nan)})
    with pytest.raises(ValueError, match="unknown modality"):
        write({"PET": good})
    write({"CT": good})
    rows = [{"name": "a", "patient": "p", "split": split} for split in ("train", "test")]
    with pytest.raises(ValueError, match="one split"):
        write_dataset(tmp_path, rows, {})
