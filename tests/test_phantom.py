"""Facts of the phantom cohort: its files, its settings, that a seed fixes every byte, and what a lesson can switch."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from case_folder import write_case, write_dataset
from check_data import describe, draw_contact_sheet, table
from make_phantom import make_cohort, planned_cases, split_sizes
from phantom import GENERATOR_VERSION, organ_volumes
from phantom.scans import Case, draw_patient, make_case, take_cbct, take_ct, take_mr
from phantom.settings import SHIPPED, PhantomSettings, RegistrationSettings, load_settings

from vaelite.data.cases import load_cases

SCRIPTS = Path(__file__).parents[1] / "data_scripts"
SIZE = 64


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def case(one_thread) -> Case:
    return make_case(seed=0, index=1, size=SIZE)


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], capture_output=True, text=True,
                          check=False)


def make(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run_script("make_phantom.py", "--out", str(out), *arguments)


# ------------------------------------------------------------------------------------------------------------- one case
def test_one_grid_and_every_structure(case):
    assert set(case.volumes) == {"CBCT", "CT", "T1c", "T2w"}
    expected = {"GTV", "CTV", "PTV", "Parotid_L", "Parotid_R", "SpinalCord", "Brainstem", "Mandible"}
    assert expected <= set(case.structures)
    for volume in (*case.volumes.values(), case.mask, *case.structures.values()):
        assert volume.shape == (SIZE // 2, SIZE, SIZE)
        assert np.isfinite(volume).all()


def test_structures_lie_inside_the_body(case):
    for name, inside in case.structures.items():
        assert inside.any(), f"{name} is empty"
        assert not (inside & ~case.mask).any(), f"{name} leaves the body"


def test_raw_cbct_lies_in_the_published_range(case):
    """Published body MAE of raw head-and-neck CBCT against CT: 33-100 HU."""
    assert 33 < np.abs(case.volumes["CBCT"] - case.volumes["CT"])[case.mask].mean() < 100


def test_a_case_is_its_steps(case):
    """A lesson that calls the steps one by one sees the same patient."""
    patient = draw_patient(seed=0, index=1, size=SIZE)
    assert (take_ct(patient) == case.volumes["CT"]).all() and (take_cbct(patient) == case.volumes["CBCT"]).all()
    mr = take_mr(patient)
    assert all((mr[name] == case.volumes[name]).all() for name in ("T1c", "T2w"))
    assert case.facts["redraws"] == patient.redraws and case.facts["mr_protocol"]["field_tesla"] in (1.5, 3.0)


def test_a_step_can_be_switched_off(case):
    """Scatter raises the error of the CBCT and touches nothing else."""
    settings = PhantomSettings()
    clean = replace(settings, cbct=replace(settings.cbct, scatter_to_primary=(0.0, 0.0)))
    bad = replace(settings, cbct=replace(settings.cbct, scatter_to_primary=(1.2, 1.2), scatter_left=(0.6, 0.6)))
    patient = draw_patient(seed=0, index=1, size=SIZE)
    error = [np.abs(take_cbct(patient, s) - case.volumes["CT"])[case.mask].mean() for s in (clean, bad)]
    assert error[1] > 1.1 * error[0]
    assert (take_ct(patient, bad) == case.volumes["CT"]).all()


# ------------------------------------------------------------------------------------------------------------- settings
def test_the_shipped_file_holds_every_switch_at_its_default():
    shipped, settings = tomllib.loads(SHIPPED.read_text(encoding="utf-8")), PhantomSettings()
    assert load_settings() == settings
    for part in fields(settings):
        assert set(shipped[part.name]) == {switch.name for switch in fields(getattr(settings, part.name))}


def test_a_changed_copy_changes_what_it_names_and_nothing_else(tmp_path):
    copy = tmp_path / "mine.toml"
    copy.write_text("[registration]\nresidual_mm = 2\n[mr]\nghost = [0, 0.2]\n")
    settings = load_settings(copy)
    assert settings.registration == RegistrationSettings(2.0) and settings.mr.ghost == (0.0, 0.2)
    assert replace(settings, registration=RegistrationSettings(), mr=PhantomSettings().mr) == PhantomSettings()


@pytest.mark.parametrize(("text", "message"), [
    ("[mr]\nghosts = 1", "unknown key 'ghosts'"), ("[pet]\n", "unknown entry 'pet'"),
    ("residual_mm = 1", "unknown entry"),
    ("[mr]\nghost = 0.1", "ghost: expected a value like"), ("[mr]\nghost = [0.2, 0.1]", "a pair is"),
    ("[mr]\nshare_3t = 1.5", "between 0 and 1"), ("[mr]\nsusceptibility = 1", "expected a value like True"),
    ("[registration]\nresidual_mm = -1", "expected 0"), ("[mr\n", "not valid TOML"),
    ("[ct]\nviews = 1.5", "expected a value like"), ("[mr]\nslice_mm = [1, 2, 3]", "expected 2 values"),
    ("[ct]\nhann_cutoff = nan", "finite"), ("[mr]\nghost = [0.0, inf]", "finite"),
    ("[ct]\nviews = 0", "views = 0"), ("[cbct]\nviews = -3", "views = -3"),
    ("[cbct]\ndetector_pixel = 0", "detector_pixel = 0"),
    ("[ct]\nkvp = 30", "kvp = 30"), ("[cbct]\nkvp = 160", "kvp = 160"), ("[mr]\nslice_mm = [0, 3]", "slice_mm = ")])
def test_a_wrong_setting_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match="wrong.toml") as refusal:
        load_settings(path)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_missing_settings_are_refused(tmp_path):
    result = make(tmp_path / "set", "--cases", "3", "--size", "32", "--settings", str(tmp_path / "none.toml"))
    assert result.returncode != 0 and "no such settings file" in result.stderr and "Traceback" not in result.stderr


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
    result = make(out, "--cases", "3", "--size", "32", "--seed", "5", "--jobs", "2")
    assert result.returncode == 0, result.stderr
    return out


def file_sums(folder: Path) -> list[dict[str, str]]:
    return [case["sha256"] for case in json.loads((folder / "dataset.json").read_text())["cases"]]


def test_same_seed_same_bytes_whatever_the_jobs(small_set, tmp_path):
    result = make(tmp_path, "--cases", "3", "--size", "32", "--seed", "5", "--jobs", "1")
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
    result = make(tmp_path, *arguments)
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


def test_other_settings_make_other_cases_and_are_remembered(small_set, tmp_path, capsys):
    """A folder made with other settings is made anew, one case after the other; case.json tells the settings."""
    facts = json.loads((small_set / "case_000" / "case.json").read_text())
    assert facts["settings"] == PhantomSettings().as_json() and facts["generator_version"] == GENERATOR_VERSION
    settings = replace(PhantomSettings(), registration=RegistrationSettings(0.0))
    copy = shutil.copytree(small_set, tmp_path / "set")
    make_cohort(3, 32, copy, seed=5, n_jobs=2, settings=settings)
    assert "0 there, 3 to make" in capsys.readouterr().out
    again = json.loads((copy / "case_000" / "case.json").read_text())
    assert again["settings"]["registration"] == {"residual_mm": 0.0}
    assert file_sums(copy)[0]["t1c.nii.gz"] != file_sums(small_set)[0]["t1c.nii.gz"]
    assert file_sums(copy)[0]["ct.nii.gz"] == file_sums(small_set)[0]["ct.nii.gz"]


def test_a_stopped_run_makes_only_what_is_missing(small_set, tmp_path, capsys):
    copy = shutil.copytree(small_set, tmp_path / "set")
    (copy / "case_001" / "case.json").unlink()                                           # stopped while writing it
    make_cohort(3, 32, copy, seed=5, n_jobs=1)
    assert "2 there, 1 to make" in capsys.readouterr().out
    assert file_sums(copy) == file_sums(small_set)


# -------------------------------------------------------------------------------------------------------- organ volumes
def test_the_volume_table_is_of_the_cases_as_exported(small_set, capsys):
    organ_volumes.main([str(small_set)])
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    cases = load_cases(small_set)
    millilitres = [case.structures()["Mandible"].sum() * np.prod(case.spacing_mm) / 1000 for case in cases]
    assert float(rows["Mandible"][1]) == pytest.approx(np.mean(millilitres), abs=0.01)
    assert "GTV" not in rows and "Brain" not in rows                                    # no range, and cut by the field


def test_the_volume_table_refuses_a_folder_without_data(tmp_path):
    with pytest.raises(SystemExit, match="dataset.json"):
        organ_volumes.main([str(tmp_path)])


# ----------------------------------------------------------------------------------------------------------- check_data
def test_check_data_reports_every_case_and_draws_a_sheet(small_set, tmp_path):
    sheet = tmp_path / "sheet.png"
    result = run_script("check_data.py", str(small_set), "--sheet", str(sheet))
    assert "Traceback" not in result.stderr and sheet.stat().st_size > 10_000
    for word in ("case_000", "case_002", "spacing", "fat HU", "CBCT MAE", "Parotid_L ml", "mean (range)"):
        assert word in result.stdout
    assert result.returncode == 0, "a flag is for looking, not an error"


def test_check_data_flags_what_is_wrong(small_set, tmp_path):
    """HU off by 200, and organs exchanged left and right."""
    good = describe(load_cases(small_set)[0])
    copy = shutil.copytree(small_set, tmp_path / "set")
    folder = copy / "case_000"
    image = nib.load(folder / "ct.nii.gz")
    shifted = np.asarray(image.dataobj) + np.int16(200)
    nib.save(nib.Nifti1Image(shifted, image.affine, image.header), folder / "ct.nii.gz")
    facts = json.loads((folder / "case.json").read_text())
    left, right = (facts["structures"].index(f"Parotid_{side}") for side in "LR")
    facts["structures"][left], facts["structures"][right] = "Parotid_R", "Parotid_L"
    (folder / "case.json").write_text(json.dumps(facts))
    manifest = json.loads((copy / "dataset.json").read_text())
    for entry in manifest["cases"]:
        entry["sha256"] = {}
    (copy / "dataset.json").write_text(json.dumps(manifest))
    bad = describe(load_cases(copy)[0])
    assert "Parotid" in bad["flags"] and "Parotid" not in good["flags"]
    assert bad["muscle [HU]"] is None or "muscle at" in bad["flags"] or "fat at" in bad["flags"]
    assert bad["CBCT MAE [HU]"] > good["CBCT MAE [HU]"] + 50 and "CBCT MAE" in bad["flags"]
    assert "Parotid" in table([bad, good])


def test_check_data_reads_other_data_sets(tiny_set):
    """A set without sites and with two structures: every column that can be filled is."""
    cases = load_cases(tiny_set)
    rows = [describe(case) for case in cases]
    assert {row["case"] for row in rows} == {"tiny_00", "tiny_01", "tiny_02", "tiny_03"}
    assert rows[0]["site"] == "-" and rows[0]["SpinalCord [ml]"] > 0 and "GTV [ml]" not in rows[0]
    lacks_ct = replace(cases[0], modalities=("T1c",))
    for block in draw_contact_sheet([lacks_ct, cases[1]]).subfigs:
        assert all(axis.images for axis in block.axes[4::5]), "the contours lie on a picture"


def test_check_data_refuses_a_folder_without_data(tmp_path):
    result = run_script("check_data.py", str(tmp_path))
    assert result.returncode != 0 and "dataset.json" in result.stderr and "Traceback" not in result.stderr
