"""OpenKBP as published becomes case folders: nothing is moved, mirrored or rescaled, and what looks wrong is refused.

Most tests write a synthetic patient in the published format; the last import a real one, where there is one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import REAL_DATA
from import_openkbp import import_patients, main
from openkbp.checks import check_orientation, tissue_peaks_hu
from openkbp.patient import PUBLISHED_SHAPE, read_patient
from openkbp.splits import choose_splits, find_patients
from phantom.cbct import CbctSettings

from vaelite.data.cases import load_cases
from vaelite.data.intensity import body_mask
from vaelite.errors import VaeliteError

# a poor CBCT: these facts are not about its quality
QUICK = CbctSettings(views=8, arc_degree=360.0, detector_width_mm=1000.0, detector_pixel=1.0)
SPACING_MM = (2.5, 4.0, 4.0)
CENTRES = {                                                     # z y x, LPS
    "Brainstem": (84, 66, 64), "SpinalCord": (60, 74, 64), "Larynx": (60, 54, 64), "Mandible": (72, 48, 64),
    "LeftParotid": (74, 64, 77), "RightParotid": (74, 64, 51), "PTV70": (68, 60, 58), "PTV56": (58, 62, 70),
}
OUR_NAMES = {"LeftParotid": "Parotid_L", "RightParotid": "Parotid_R"}
REAL = REAL_DATA / "open-kbp"


def synthetic_patient() -> dict[str, np.ndarray]:
    """A neck of fat around muscle with the organs as balls: ct [HU], dose [Gy] and masks, in (z, y, x), LPS."""
    rng = np.random.default_rng(1)
    z, y, x = np.indices(PUBLISHED_SHAPE).astype(np.float32)
    radius = np.hypot((y - 64) / 22, (x - 64) / 19)
    body = (radius < 1) & (abs(z - 70) < 20)
    patient = {name: (z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 3.5 ** 2 for name, (a, b, c) in CENTRES.items()}
    tissue = np.where(radius < 0.75, 50.0, -90.0) + rng.normal(0, 10, PUBLISHED_SHAPE)
    tissue[patient["Mandible"]] = 900
    tissue[np.hypot(y - 47, x - 64) < 2] = -990                 # the airway
    patient["ct"] = np.where(body, np.rint(tissue), -1024)
    patient["dose"] = np.where(body, np.round(70 * np.exp(-np.hypot(y - 60, x - 58) / 15), 3), 0)
    return patient


def publish(folder: Path, patient: dict[str, np.ndarray], spacing_mm=SPACING_MM) -> Path:
    """Write a patient as OpenKBP does: sparse csv files over axes (y, x, -z)."""
    folder.mkdir(parents=True)
    for name, array in patient.items():
        flat = array[::-1].transpose(1, 2, 0).ravel()
        if array.dtype == bool:
            lines = [f"{index}," for index in np.flatnonzero(flat)]
        else:
            stored = flat + (1024 if name == "ct" else 0)
            lines = [f"{index},{stored[index]:g}" for index in np.flatnonzero(stored)]
        (folder / f"{name}.csv").write_text("\n".join([",data", *lines]) + "\n")
    dz, dy, dx = spacing_mm
    (folder / "voxel_dimensions.csv").write_text(f"{dy:.18e}\n{dx:.18e}\n{dz:.18e}\n")
    return folder


@pytest.fixture(scope="module")
def patient():
    return synthetic_patient()


@pytest.fixture(scope="module")
def published(patient, tmp_path_factory) -> Path:
    """A source with one training patient. Do not write into it."""
    source = tmp_path_factory.mktemp("open-kbp")
    publish(source / "provided-data" / "train-pats" / "pt_7", patient)
    return source


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "openkbp"
    import_patients(published, out, settings=QUICK)
    return out


@pytest.fixture
def source(published, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(published, tmp_path / "source")


def folder_of(source: Path, number: int = 7, subset: str = "train-pats") -> Path:
    return source / "provided-data" / subset / f"pt_{number}"


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(VaeliteError) as refused:
        import_patients(source, tmp_path / "out", settings=QUICK)
    return str(refused.value)


class TestWhatIsWritten:
    def test_the_door_reads_it_and_nothing_has_moved(self, imported, patient):
        case, = load_cases(imported)
        assert case.modalities == ("CBCT", "CT") and case.spacing_mm == pytest.approx(SPACING_MM)
        assert np.array_equal(case.volume("CT"), np.maximum(patient["ct"], -1000))
        assert np.array_equal(case.published_dose_gy(), patient["dose"].astype(np.float32))
        structures = case.structures()
        assert set(structures) == {OUR_NAMES.get(name, name) for name in CENTRES}
        for name in CENTRES:
            assert np.array_equal(structures[OUR_NAMES.get(name, name)], patient[name]), name

    def test_the_files_place_left_front_and_head_for_any_reader(self, imported):
        case, = load_cases(imported)
        image = nib.load(imported / "pt_7" / "structures.nii.gz")
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        bits = np.asanyarray(image.dataobj)

        def place(name):                                        # RAS [mm]
            voxels = np.argwhere(bits >> np.uint32(case.structure_names.index(name)) & np.uint32(1))
            return nib.affines.apply_affine(image.affine, voxels.mean(axis=0))

        assert place("Parotid_L")[0] < place("Parotid_R")[0] - 50
        assert place("Larynx")[1] > place("SpinalCord")[1] + 50
        assert place("Brainstem")[2] > place("Larynx")[2] + 50

    def test_the_case_says_what_is_simulated_and_whose_data_it_is(self, imported):
        case, = load_cases(imported)
        assert case.info["modalities"] == {"CT": "real", "CBCT": "simulated"}
        assert case.info["licence"] == "MIT" and "10.1002/mp.14845" in case.info["citation"]
        assert case.info["prescription_gy"] == {"PTV70": 70.0, "PTV56": 56.0}, "only the targets this patient has"
        assert case.info["orientation"]["not_checked"] == []

    def test_the_cbct_shows_the_same_patient(self, imported):
        case, = load_cases(imported)
        ct, cbct, body = case.volume("CT"), case.volume("CBCT"), case.mask()
        assert body.sum() == pytest.approx(np.pi * 22 * 19 * 39, rel=0.05)
        assert np.corrcoef(ct[body], cbct[body])[0, 1] > 0.5
        assert not np.array_equal(ct, cbct) and cbct[~body].mean() < -900

    def test_same_seed_same_bytes_whatever_the_number_of_processes(self, published, patient, imported, tmp_path):
        source = shutil.copytree(published, tmp_path / "two")
        shutil.copytree(folder_of(source), folder_of(source, 8))
        import_patients(source, tmp_path / "out", n_jobs=2, settings=QUICK)
        for path in (imported / "pt_7").iterdir():
            assert path.read_bytes() == (tmp_path / "out" / "pt_7" / path.name).read_bytes(), path.name
        seven, eight = (tmp_path / "out" / name / "cbct.nii.gz" for name in ("pt_7", "pt_8"))
        assert seven.read_bytes() != eight.read_bytes(), "each patient has noise of its own"

    def test_metal_and_missing_voxels_are_brought_into_the_scanner_range(self, source, tmp_path):
        path = folder_of(source) / "ct.csv"
        first, rest = path.read_text().split("\n")[1].split(",")[0], path.read_text().split("\n")[2:]
        path.write_text("\n".join([",data", f"{first},22575.0", *rest]))
        ct_hu = read_patient(folder_of(source)).ct_hu
        assert ct_hu.max() == 3071 and ct_hu.min() == -1000


class TestAnatomy:
    def test_exchanged_parotids_are_refused(self, source, tmp_path):
        left, right = (folder_of(source) / f"{side}Parotid.csv" for side in ("Left", "Right"))
        left_text = left.read_text()
        left.write_text(right.read_text())
        right.write_text(left_text)
        assert "Parotid_L should lie left to Parotid_R" in refusal(source, tmp_path)

    @pytest.mark.parametrize("turn, word", [
        (lambda a: a[::-1], "superior"), (lambda a: a[:, ::-1], "anterior"), (lambda a: a[:, :, ::-1], "left"),
        (lambda a: a.swapaxes(1, 2), "anterior"), (lambda a: a.swapaxes(0, 1), "superior"),
    ], ids=["upside down", "back to front", "mirrored", "y and x exchanged", "z and y exchanged"])
    def test_a_turned_volume_is_refused(self, patient, turn, word):
        masks = {OUR_NAMES.get(name, name): turn(patient[name]) for name in CENTRES}
        with pytest.raises(VaeliteError, match=word):
            check_orientation(masks, SPACING_MM, "pt_7")

    def test_what_cannot_be_checked_is_said(self, source, tmp_path, capsys):
        (folder_of(source) / "LeftParotid.csv").unlink()
        import_patients(source, tmp_path / "out", settings=QUICK)
        case, = load_cases(tmp_path / "out")
        assert case.info["orientation"]["not_checked"] == ["left"]
        assert "not checked for want of structures: left" in capsys.readouterr().out

    def test_a_slice_thickness_in_the_wrong_line_is_refused(self, source, tmp_path):
        (folder_of(source) / "voxel_dimensions.csv").write_text("2.5\n4.0\n4.0\n")
        assert "square" in refusal(source, tmp_path)

    def test_lengths_in_cm_are_refused(self, source, tmp_path):
        (folder_of(source) / "voxel_dimensions.csv").write_text("0.4\n0.4\n0.25\n")
        assert "parotids are 10 mm apart" in refusal(source, tmp_path)

    def test_the_tissue_peaks_are_found(self, patient):
        fat, muscle = tissue_peaks_hu(patient["ct"], body_mask(patient["ct"], "CT"))
        assert fat == pytest.approx(-90, abs=6) and muscle == pytest.approx(50, abs=6)

    @pytest.mark.parametrize("offset, found", [(-150, "-(98|102) HU"), (150, "(198|202) HU")])
    def test_another_hu_scale_is_refused_with_numbers(self, source, patient, tmp_path, offset, found):
        shutil.rmtree(folder_of(source))
        publish(folder_of(source), {**patient, "ct": np.where(patient["ct"] > -1000, patient["ct"] + offset, -1024)})
        message = refusal(source, tmp_path)
        assert "stored - 1024" in message and re.search(found, message)


class TestBadInput:
    @pytest.mark.parametrize("name", ["ct.csv", "dose.csv", "voxel_dimensions.csv"])
    def test_a_missing_file_is_named(self, source, tmp_path, name):
        (folder_of(source) / name).unlink()
        assert name in refusal(source, tmp_path)

    def test_a_patient_without_target_is_refused(self, source, tmp_path):
        for name in ("PTV70.csv", "PTV56.csv"):
            (folder_of(source) / name).unlink()
        assert "PTV70.csv or PTV63.csv or PTV56.csv missing" in refusal(source, tmp_path)

    @pytest.mark.parametrize("name, rows, word", [
        ("ct.csv", "2097152,900.0", "outside the grid"), ("Larynx.csv", "-1,", "outside the grid"),
        ("dose.csv", "7.5,1.0", "outside the grid"), ("ct.csv", "12,nine", "not the published table"),
        ("ct.csv", "12", "not the published table"), ("SpinalCord.csv", "<html>", "not the published table"),
        ("ct.csv", "12,nan", "no number"), ("dose.csv", "12,-3.0", "negative"), ("PTV70.csv", "5,\n5,", "listed twice"),
        ("voxel_dimensions.csv", "4.0", "three lengths"),
    ])
    def test_a_malformed_csv_is_refused_by_name(self, source, tmp_path, name, rows, word):
        with open(folder_of(source) / name, "a") as stream:
            stream.write(rows + "\n")
        message = refusal(source, tmp_path)
        assert name in message and word in message

    def test_an_empty_csv_is_refused(self, source, tmp_path):
        (folder_of(source) / "ct.csv").write_text(",data\n")
        assert "ct.csv: holds no voxel" in refusal(source, tmp_path)

    def test_a_ct_without_a_patient_is_refused(self, source, tmp_path):
        (folder_of(source) / "ct.csv").write_text(",data\n5,900.0\n")
        assert "ct.csv: No body found" in refusal(source, tmp_path)

    def test_a_folder_that_is_not_openkbp_is_refused(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        assert "provided-data" in refusal(tmp_path / "elsewhere", tmp_path)
        assert "no such folder" in refusal(tmp_path / "nowhere", tmp_path)

    def test_the_command_ends_with_one_line(self, tmp_path):
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
        assert str(end.value).startswith("import_openkbp: ") and "\n" not in str(end.value)

    def test_a_bad_patient_stops_the_import_and_the_next_one_goes_on(self, source, tmp_path):
        bad = folder_of(source, 8)
        shutil.copytree(folder_of(source), bad)
        (bad / "ct.csv").write_text(",data\n1,two\n")
        assert "pt_8" in refusal(source, tmp_path)
        finished = tmp_path / "out" / "pt_7" / "case.json"
        written = finished.stat().st_mtime_ns
        shutil.rmtree(bad)
        import_patients(source, tmp_path / "out", settings=QUICK)
        assert finished.stat().st_mtime_ns == written, "a finished case is not made again"
        assert [case.name for case in load_cases(tmp_path / "out")] == ["pt_7"]


class TestSplits:
    def test_all_three_subsets_stay_as_published(self):
        published = {"pt_1": "train", "pt_201": "validation", "pt_241": "test"}
        assert choose_splits(published, 0) == (published, "as published")

    def test_without_test_patients_the_validation_patients_test(self):
        published = {f"pt_{n}": "train" for n in range(10)} | {"pt_211": "validation", "pt_230": "validation"}
        splits, rule = choose_splits(published, 0)
        assert sorted(splits.values()) == ["test"] * 2 + ["train"] * 8 + ["validation"] * 2
        assert splits["pt_211"] == splits["pt_230"] == "test" and "validation patients test" in rule

    @pytest.mark.parametrize("split", ["train", "validation", "test"])
    @pytest.mark.parametrize("n", [4, 5, 30])
    def test_one_subset_alone_is_divided(self, split, n):
        splits, _ = choose_splits({f"pt_{k}": split for k in range(n)}, 0)
        counts = {name: list(splits.values()).count(name) for name in ("train", "validation", "test")}
        assert sum(counts.values()) == n and counts["train"] >= 1 and counts["validation"] >= 1 and counts["test"] >= 2

    def test_the_draw_depends_on_the_seed_and_not_on_the_order(self):
        published = {f"pt_{n}": "train" for n in range(20)}
        backwards = dict(reversed(published.items()))
        assert choose_splits(published, 3)[0] == choose_splits(backwards, 3)[0]
        assert choose_splits(published, 3)[0] != choose_splits(published, 4)[0]

    def test_any_level_of_the_published_folders_will_do(self, published):
        levels = (published, published / "provided-data", published / "provided-data" / "train-pats")
        assert [list(find_patients(level)) for level in levels] == [["pt_7"]] * 3


@pytest.fixture(scope="module")
def real_case(tmp_path_factory):
    """One real patient, imported with a quick scan."""
    if not (REAL / "provided-data").is_dir():
        pytest.skip("no open-kbp in VAELITE_REAL_DATA")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("data") / "openkbp"
    (source / "train-pats").mkdir()
    (source / "train-pats" / "pt_100").symlink_to(REAL / "provided-data" / "train-pats" / "pt_100")
    import_patients(source, out, settings=QUICK)
    case, = load_cases(out)
    return case


class TestRealPatient:
    def test_fat_and_muscle_lie_where_they_should(self, real_case):
        peaks = real_case.info["tissue_peaks_hu"]
        assert peaks["fat"] == pytest.approx(-90, abs=35) and peaks["muscle"] == pytest.approx(50, abs=35)

    def test_the_patient_is_the_right_way_round_without_asking_the_contours(self, real_case):
        ct_hu, body = real_case.volume("CT"), real_case.mask()
        lungs = (ct_hu < -600) & body
        assert lungs[:20].sum() > 20 * lungs[-20:].sum(), "the lungs are at the feet's end"
        width_mm = body.any(axis=1).sum(axis=1) * real_case.spacing_mm[2]
        assert width_mm[:30].max() > 400 > 220 > width_mm[-20:].max(), "shoulders below, head above"
        bone, air = (np.argwhere(found[40:60]) for found in ((ct_hu > 300) & body, (ct_hu < -700) & body))
        assert bone[:, 1].mean() > air[:, 1].mean() + 3, "in the neck the spine is behind the airway"

    def test_the_aorta_descends_on_the_left_of_the_spine(self, real_case):
        ct_hu = real_case.volume("CT")[3:10, 71:76]              # beside the spine, at the height of the lungs
        left, right = ct_hu[..., 70:75].mean(), ct_hu[..., 58:63].mean()
        assert left > 80 and right < -300, f"vessel with contrast {left:.0f} HU, lung {right:.0f} HU"

    def test_its_orientation_was_checked_in_all_directions(self, real_case):
        orientation = real_case.info["orientation"]
        assert orientation["not_checked"] == [] and len(orientation["checked"]) >= 5

    def test_the_published_dose_treats_the_target_and_spares_the_cord(self, real_case):
        dose_gy, structures = real_case.published_dose_gy(), real_case.structures()
        assert np.median(dose_gy[structures["PTV70"]]) == pytest.approx(70, rel=0.08)
        assert dose_gy[structures["SpinalCord"]].max() < 50
