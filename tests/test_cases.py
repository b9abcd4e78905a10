"""The door: real damaged files, each refused with one clear error, and good files kept voxel for voxel."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from case_folder import write_case, write_dataset
from conftest import REAL_DATA, TINY_SHAPE, TINY_SPACING_MM, tiny_patient, write_nifti

from vaelite.data import cases
from vaelite.data.cases import load_cases
from vaelite.data.slices import fit_in_plane, load_slices, unfit_in_plane
from vaelite.data.volumes import load_volume, save_volume
from vaelite.errors import VaeliteError


@pytest.fixture
def ct(tmp_path) -> Path:
    return write_nifti(tmp_path / "ct.nii.gz", tiny_patient(0)["ct"])


@pytest.fixture
def plain_ct(tmp_path) -> Path:
    return write_nifti(tmp_path / "plain.nii", tiny_patient(0)["ct"])


def patched(path: Path, offset: int, layout: str, *values) -> Path:
    """The same .nii with one header field overwritten."""
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


def refusal(path, modality=None) -> str:
    """The message of the refusal, which names the file and is written to be read."""
    with pytest.raises(VaeliteError) as caught:
        load_volume(path, modality)
    message = str(caught.value)
    assert message.startswith(str(path)), "the message starts with the file"
    assert message.rstrip()[-1] in ".?", "the message ends in a sentence"
    return message


# ---- paths and signatures --------------------------------------------------------------------------------------

def test_missing_file_suggests_the_nearest_name(ct):
    assert "Did you mean ct.nii.gz" in refusal(ct.with_name("cts.nii.gz"))
    assert "Did you mean" not in refusal(ct.with_name("patient_7.nii")), "a name unlike it helps nobody"
    assert "does not exist either" in refusal(ct.parent / "nowhere" / "ct.nii.gz")
    assert "no such file" in refusal(ct.with_name("x" * 300 + ".nii.gz"))


def test_folder_empty_file_and_other_formats(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder.nii.gz")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    assert "0 bytes" in refusal(tmp_path / "empty.nii.gz")
    (tmp_path / "ct.mha").write_bytes(b"ObjectType = Image")
    assert "only .nii" in refusal(tmp_path / "ct.mha")


@pytest.mark.parametrize("content, expected", [
    (b"<!DOCTYPE html><html><body>Please sign in</body></html>" * 50, "web page"),
    (b'\n\n{"error": "forbidden"}', "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345678\n", "git lfs pull"),
    (b"\x89PNG\r\n" + bytes(600), "not a gzip file"),
])
def test_what_a_failed_download_leaves(tmp_path, content, expected):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(content)
    assert expected in refusal(path)


def test_name_and_content_disagree(ct, plain_ct):
    assert "Rename it to renamed.nii.gz" in refusal(ct.rename(ct.with_name("renamed.nii")))
    assert "Rename it to plain.nii" in refusal(plain_ct.rename(plain_ct.with_name("plain.nii.gz")))


# ---- damage ----------------------------------------------------------------------------------------------------

def test_200_flipped_bytes_are_200_refusals(ct):
    good = ct.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(good)
        damaged[rng.integers(10, len(good))] ^= int(rng.integers(1, 256))  # the 10 bytes before hold no voxels
        ct.write_bytes(damaged)
        with pytest.raises(VaeliteError):
            load_volume(ct, "CT")


def test_flips_in_the_gzip_header_are_refused_or_harmless(ct):
    good, data = ct.read_bytes(), load_volume(ct).data
    for position in range(10):
        for flip in (0x01, 0x04, 0x80, 0xFF):
            damaged = bytearray(good)
            damaged[position] ^= flip
            ct.write_bytes(damaged)
            try:
                assert np.array_equal(load_volume(ct).data, data)
            except VaeliteError:
                pass


def test_truncation_at_40_points(ct, plain_ct):
    for path in (ct, plain_ct):
        good = path.read_bytes()
        for n_bytes in np.linspace(1, len(good) - 1, 40).astype(int):
            path.write_bytes(good[:n_bytes])
            with pytest.raises(VaeliteError):
                load_volume(path, "CT")


def test_a_wrong_checksum_alone_is_enough(ct):
    content = bytearray(ct.read_bytes())
    content[-5] ^= 0xFF
    ct.write_bytes(content)
    assert "damaged or was cut short" in refusal(ct)


def test_a_gzip_bomb_is_refused_before_it_unpacks(tmp_path, plain_ct):
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(plain_ct.read_bytes())
        for _ in range(64):
            stream.write(bytes(2**20))
    assert "far more data" in refusal(path)


def test_padding_behind_the_image_is_harmless(plain_ct):
    data = load_volume(plain_ct).data
    plain_ct.write_bytes(plain_ct.read_bytes() + bytes(500))
    assert np.array_equal(load_volume(plain_ct).data, data)


# ---- header and geometry ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("offset, layout, values, expected", [
    (40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1), "cut short, or its header is wrong"),
    (40, "<8h", (7, 32767, 32767, 32767, 1, 1, 1, 1), "cut short, or its header is wrong"),
    (40, "<8h", (3, -5, 32, 8, 1, 1, 1, 1), "none empty"),
    (40, "<8h", (3, 0, 32, 8, 1, 1, 1, 1), "none empty"),
    (40, "<8h", (2, 32, 32, 1, 1, 1, 1, 1), "three axes"),
    (40, "<8h", (99, 32, 32, 8, 1, 1, 1, 1), "three axes"),
    (40, "<8h", (4, 32, 32, 4, 2, 1, 1, 1), "holds 2 volumes"),
    (70, "<h", (999,), "unknown code 999"),
    (70, "<h", (128,), "RGB"),
    (70, "<h", (32,), "complex"),
    (70, "<h", (1,), "binary"),
    (108, "<f", (1e9,), "cut short"),
    (108, "<f", (float("nan"),), "cut short"),
    (344, "<4s", (b"xxxx",), "bad magic"),
    (0, "<i", (1234,), "no NIfTI header"),
    (252, "<hh", (0, 0), "neither sform nor qform"),
    (280, "<4f", (0.0, 0.0, 0.0, 0.0), "singular"),
    (280, "<4f", (float("nan"), 0.0, 0.0, 0.0), "singular or not finite"),
    (280, "<4f", (-0.002, 0.0, 0.0, 0.0), "metre or micron"),
    (268, "<f", (38.0,), "7.0 mm apart"),                    # the qform's first offset; the sform's is 31
    (112, "<2f", (float("nan"), 0.0), "scale is no number"),
    (112, "<2f", (float("inf"), 0.0), "scale is no number"),
    (112, "<2f", (1.0, float("nan")), "scale is no number"),
])
def test_headers_that_cannot_be_true(plain_ct, offset, layout, values, expected):
    assert expected in refusal(patched(plain_ct, offset, layout, *values))


def test_voxel_sizes_that_contradict_the_affine(plain_ct):
    patched(plain_ct, 80, "<3f", 9.0, 9.0, 9.0)
    assert "9 x 9 x 9 mm (pixdim)" in refusal(patched(plain_ct, 252, "<h", 0))    # without a qform nothing else uses them


def test_absurd_header_in_a_gz_is_refused_before_allocation(tmp_path, plain_ct):
    patched(plain_ct, 40, "<8h", 3, 2000, 2000, 1000, 1, 1, 1, 1)
    path = tmp_path / "absurd.nii.gz"
    path.write_bytes(gzip.compress(plain_ct.read_bytes()))
    assert "8,000.0 MB" in refusal(path)


@pytest.mark.parametrize("array, expected", [
    (np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "RGB"),
    (np.ones((4, 4, 4), dtype=np.complex64), "complex"),
    (np.arange(192, dtype=np.float32).reshape(4, 4, 4, 3), "image.slicer[:, :, :, 0]"),
    (np.arange(16, dtype=np.float32).reshape(4, 4), "three axes"),
])
def test_not_one_grey_value_per_voxel(tmp_path, array, expected):
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "odd.nii.gz")
    assert expected in refusal(tmp_path / "odd.nii.gz")


def test_singleton_axes_are_squeezed(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(array[..., None, None], np.diag([-1, -1, 1, 1])), tmp_path / "five.nii.gz")
    volume = load_volume(tmp_path / "five.nii.gz")
    assert np.array_equal(volume.data, array.transpose(2, 1, 0)) and volume.file_shape == (3, 4, 5)


def test_nifti_2_and_big_endian_are_read(tmp_path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nib.save(nib.Nifti2Image(array, np.diag([-1, -1, 1, 1])), tmp_path / "two.nii.gz")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(array, None, header)
    image.set_sform(np.diag([-1, -1, 1, 1]), code=1)
    nib.save(image, tmp_path / "big.nii.gz")
    for name in ("two", "big"):
        assert np.array_equal(load_volume(tmp_path / f"{name}.nii.gz").data, array.transpose(2, 1, 0)), name


def affine_of(codes: str, oblique_degrees: float = 0.0) -> np.ndarray:
    spacing = {"L": 2.0, "R": 2.0, "A": 1.5, "P": 1.5, "S": 3.0, "I": 3.0}
    direction = {"L": (-1, 0, 0), "R": (1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    angle = np.deg2rad(oblique_degrees)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.array([np.multiply(direction[c], spacing[c]) for c in codes]).T
    affine[:3, 3] = (12.0, -34.0, 56.0)
    return affine


@pytest.mark.parametrize("oblique_degrees", [0.0, 20.0])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SPL", "AIR", "PSL"])
def test_any_orientation_comes_back_voxel_for_voxel(tmp_path, codes, oblique_degrees):
    affine = affine_of(codes, oblique_degrees)
    array = np.random.default_rng(0).normal(0, 300, (5, 6, 7)).astype(np.float32)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=4)
    image.set_qform(affine, code=2)
    image.header["descrip"] = b"Doe^Jane 1970-01-01"
    nib.save(image, tmp_path / "in.nii.gz")
    volume = load_volume(tmp_path / "in.nii.gz")
    assert volume.spacing_mm == pytest.approx((3.0, 1.5, 2.0), abs=1e-5)
    # the voxel that lies furthest to the patient's left, posterior and superior is the last in memory
    corners = np.array(np.meshgrid(*([0, n - 1] for n in array.shape), indexing="ij")).reshape(3, -1).T
    world_ras = nib.affines.apply_affine(affine, corners)
    corner = corners[np.argmax(world_ras @ np.linalg.inv(affine_of("LPS", oblique_degrees)[:3, :3]).T.sum(axis=1))]
    assert volume.data[-1, -1, -1] == array[tuple(corner)]

    save_volume(volume.like(volume.data + 1.0), tmp_path / "out.nii.gz")
    saved = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(saved.dataobj), (array + 1.0).astype(np.float32))
    source = nib.load(tmp_path / "in.nii.gz")
    for name in ("get_sform", "get_qform"):
        matrix, code = getattr(saved, name)(coded=True)
        expected_matrix, expected_code = getattr(source, name)(coded=True)
        assert code == expected_code and np.allclose(matrix, expected_matrix, atol=1e-6)
    assert bytes(saved.header["descrip"]).strip(b"\0") == b"", "no free text travels on"


def test_scale_slope_is_applied_and_not_written_twice(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2.0, -1000.0)
    nib.save(image, tmp_path / "scaled.nii")
    patched(tmp_path / "scaled.nii", 112, "<2f", 2.0, -1000.0)
    volume = load_volume(tmp_path / "scaled.nii")
    stored = np.asarray(nib.load(tmp_path / "scaled.nii").dataobj)
    assert stored.min() == -1000 and stored.max() == -882
    assert np.array_equal(volume.data, stored.transpose(2, 1, 0).astype(np.float32))
    for dtype in ("float32", "int16"):
        save_volume(volume, tmp_path / f"{dtype}.nii.gz", dtype)
        assert np.array_equal(load_volume(tmp_path / f"{dtype}.nii.gz").data, np.rint(volume.data))


def test_saving_saturates_counts_and_never_overwrites_the_source(ct, tmp_path):
    volume = load_volume(ct, "CT")
    metal = volume.data.copy()
    metal[4, 16, 16:18] = (1e6, -1e6)
    path = tmp_path / "metal.nii.gz"
    assert save_volume(volume.like(metal), path, "int16") == 2
    assert load_volume(path).data[4, 16, 16:18].tolist() == [32767.0, -32768.0]
    first = path.read_bytes()
    save_volume(volume.like(metal), path, "int16")
    assert path.read_bytes() == first, "the same volume gives the same bytes"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct.nii.gz", "metal.nii.gz"], "no unfinished file stays"
    bad_paths = {ct: "overwrite", tmp_path / "a.mha": ".nii.gz", tmp_path / "no" / "a.nii": "Make it"}
    for bad_path, expected in bad_paths.items():
        with pytest.raises(VaeliteError, match=expected):
            save_volume(volume, bad_path)
    with pytest.raises(VaeliteError, match="do not fit the grid"):
        volume.like(metal[1:])


# ---- intensities -----------------------------------------------------------------------------------------------

def test_nan_and_inf_are_counted_and_placed(tmp_path):
    data = tiny_patient(0)["ct"].astype(np.float32)
    data[3, 4, 5], data[6, 7, 8] = np.nan, np.inf
    message = refusal(write_nifti(tmp_path / "nan.nii.gz", data))
    assert "2 voxels are NaN or Inf" in message and "(5, 4, 3)" in message


def test_a_constant_volume_is_no_image(tmp_path):
    path = write_nifti(tmp_path / "zero.nii.gz", np.zeros(TINY_SHAPE, np.int16))
    assert "every voxel has the value 0" in refusal(path)


@pytest.mark.parametrize("modality", ["CT", "CBCT"])
@pytest.mark.parametrize("change, guess", [
    (lambda hu: hu + 1024, "RescaleIntercept"),
    (lambda hu: np.clip(hu + 1024, 0, 4095), "RescaleIntercept"),
    (lambda hu: hu + 1000 + np.random.default_rng(0).normal(0, 10, hu.shape), "RescaleIntercept"),
    (lambda hu: (hu + 1000) / 3000, "[0, 1]"),
    (lambda hu: (hu - 500) / 1500, "[-1, 1]"),
    (lambda hu: np.clip((hu + 1000) / 3000 * 255, 0, 255), "8-bit"),
    (lambda hu: hu - 1400, "nothing at water"),
    (lambda hu: np.where(hu < -500, 0, hu), "RescaleIntercept"),
])
def test_a_ct_that_is_not_in_hu_is_named(tmp_path, modality, change, guess):
    hu = np.clip(tiny_patient(0)["ct"], -1000, None).astype(np.float32)
    message = refusal(write_nifti(tmp_path / "ct.nii.gz", change(hu).astype(np.float32)), modality)
    assert "must be in HU" in message and guess in message


def test_an_mr_given_as_cbct_is_not_only_told_to_subtract(tmp_path):
    assert "Or this is an MR" in refusal(write_nifti(tmp_path / "t1c.nii.gz", tiny_patient(0)["t1c"]), "CBCT")


@pytest.mark.parametrize("change", [
    lambda hu: np.clip(hu, -1024, 3071),
    lambda hu: np.clip(hu, -1000, 1000),
    lambda hu: np.where(np.abs(hu) < 2, 30000, hu),  # metal
    lambda hu: np.where(np.indices(hu.shape)[2] < 8, -3024, hu),  # padding outside the reconstruction circle
    lambda hu: np.where(np.indices(hu.shape)[2] < 16, -1000, hu) + np.random.default_rng(0).normal(0, 80, hu.shape),
])
def test_real_kinds_of_hu_are_accepted(tmp_path, change):
    hu = change(tiny_patient(0)["ct"]).astype(np.int16)
    for modality in ("CT", "CBCT"):
        load_volume(write_nifti(tmp_path / "hu.nii.gz", hu), modality)


def test_a_ct_given_as_mr_is_refused_and_a_normalised_mr_is_not(ct, tmp_path):
    assert "looks like a CT" in refusal(ct, "T1c")
    t1c = tiny_patient(0)["t1c"]
    load_volume(write_nifti(tmp_path / "z.nii.gz", ((t1c - t1c.mean()) / t1c.std()).astype(np.float32)), "T1c")


@pytest.mark.parametrize("name, modality", [
    ("catphan_cbct/varian_hq_head_catphan504_cbct.nii.gz", "CBCT"),
    ("porcine_ct_t2/ct_1x1x2.nii.gz", "CT"),
    ("porcine_ct_t2/t2_on_ct_1x1x2.nii.gz", "T2w"),
])
def test_real_scans_pass_the_door(name, modality):
    path = REAL_DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in VAELITE_REAL_DATA")
    assert load_volume(path, modality).data.ndim == 3


def test_a_real_radiotherapy_ct_passes_only_in_hu(tmp_path):
    path = REAL_DATA / "open-kbp" / "provided-data"
    found = sorted(path.glob("*-pats/pt_*/ct.csv"))
    if not found:
        pytest.skip("no open-kbp in VAELITE_REAL_DATA")
    flat_index, stored = np.loadtxt(found[0], delimiter=",", skiprows=1).T
    ct = np.zeros((128, 128, 128), dtype=np.float32)
    ct.flat[flat_index.astype(int)] = np.clip(stored, 0, 4095)
    for modality in ("CT", "CBCT"):
        load_volume(write_nifti(tmp_path / "hu.nii", ct - 1024), modality)
        load_volume(write_nifti(tmp_path / "clipped.nii", np.clip(ct - 1024, -1000, None)), modality)
        assert "RescaleIntercept" in refusal(write_nifti(tmp_path / "stored.nii", ct), modality)
        assert "[0, 1]" in refusal(write_nifti(tmp_path / "scaled.nii", ct / 4095), modality)


# ---- data sets -------------------------------------------------------------------------------------------------

@pytest.fixture
def data_set(tiny_set, tmp_path) -> Path:
    """A copy that a test may damage, without checksums so that each test meets the check it is about."""
    folder = Path(shutil.copytree(tiny_set, tmp_path / "tiny"))
    edit_manifest(folder, lambda manifest: [entry.pop("sha256") for entry in manifest["cases"]])
    return folder


def edit_manifest(folder: Path, change) -> None:
    path = folder / "dataset.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rewrite(path: Path, change) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def set_refusal(folder: Path) -> str:
    with pytest.raises(VaeliteError) as caught:
        load_cases(folder)
    return str(caught.value)


def test_a_good_set_comes_in_whole(tiny_set):
    loaded = load_cases(tiny_set)
    assert [case.split for case in loaded] == ["train", "train", "validation", "test"]
    assert [case.name for case in load_cases(tiny_set, "test")] == ["tiny_03"]
    case, patient = loaded[0], tiny_patient(0)
    assert case.modalities == ("CBCT", "CT", "T1c", "T2w") and case.spacing_mm == TINY_SPACING_MM
    for modality in case.modalities:
        assert np.array_equal(case.volume(modality), patient[modality.lower()])
    assert np.array_equal(case.mask(), patient["mask"] == 1)
    structures = case.structures()
    assert list(structures) == ["PTV", "SpinalCord"] and case.info["prescription_gy"] == {"PTV": 70.0}
    assert np.array_equal(structures["SpinalCord"], patient["structures"] & 2 == 2)
    assert case.published_dose_gy() is None


def test_overlapping_structures_up_to_bit_31_survive(data_set):
    names = [f"organ_{i}" for i in range(32)]
    folder = data_set / "tiny_00"
    bits = np.zeros(TINY_SHAPE, dtype=np.uint32)
    bits[4, 10:20, 10:20] = 2**31 + 1
    write_nifti(folder / "structures.nii.gz", bits)
    (folder / "case.json").write_text(json.dumps({"structures": names}))
    structures = load_cases(data_set)[0].structures()
    assert structures["organ_31"].sum() == structures["organ_0"].sum() == 100 and not structures["organ_30"].any()


def test_published_dose_is_read_and_checked(data_set):
    dose = np.linspace(0, 70, np.prod(TINY_SHAPE), dtype=np.float32).reshape(TINY_SHAPE)
    path = write_nifti(data_set / "tiny_00" / "dose_published.nii.gz", dose)
    assert np.array_equal(load_cases(data_set)[0].published_dose_gy(), dose)
    write_nifti(path, dose - 1)
    assert "negative" in set_refusal(data_set)


def test_a_missing_modality_is_allowed_and_said(data_set):
    (data_set / "tiny_00" / "t1c.nii.gz").unlink()
    case = load_cases(data_set)[0]
    assert case.modalities == ("CBCT", "CT", "T2w")
    with pytest.raises(VaeliteError, match="has no T1c, only CBCT, CT, T2w"):
        case.volume("T1c")


@pytest.mark.parametrize("change, expected", [
    (lambda m: m["cases"][3].update(patient="tiny_00"), "is in two splits, train (tiny_00) and test (tiny_03)"),
    (lambda m: m["cases"][3].update(patient=" TINY_00"), "is in two splits"),
    (lambda m: m["cases"][1].update(name="Tiny_00"), "occurs twice"),
    (lambda m: m["cases"][1].update(name="../tiny_01"), "plain folder name"),
    (lambda m: m["cases"][1].update(name="tiny_1"), "Did you mean tiny_01"),
    (lambda m: m["cases"][1].update(split="dev"), "train, validation, test"),
    (lambda m: m["cases"][1].pop("patient"), "lacks 'patient'"),
    (lambda m: m["cases"][1].update(sha256="abc"), "must map file names"),
    (lambda m: m["cases"][1].update(sha256={"t9.nii.gz": "0"}), "lists this file"),
    (lambda m: m.update(cases=[]), "at least one case"),
    (lambda m: m.update(format=2), "format 2"),
    (lambda m: m.pop("format"), "format None"),
])
def test_a_manifest_that_cannot_be_right(data_set, change, expected):
    edit_manifest(data_set, change)
    assert expected in set_refusal(data_set)


@pytest.mark.parametrize("content, expected", [(b"", "not valid"), (b"[]", "JSON object"), (b"\xff{", "not valid")])
def test_a_manifest_that_is_not_json(data_set, content, expected):
    (data_set / "dataset.json").write_bytes(content)
    assert expected in set_refusal(data_set)


def test_missing_folder_manifest_and_split(data_set, tmp_path):
    (tmp_path / "tinny.txt").touch()
    assert "Did you mean tiny?" in set_refusal(tmp_path / "tinny"), "a file is no data set"
    assert "Did you mean" not in set_refusal(tmp_path / "elsewhere")
    with pytest.raises(VaeliteError, match="train, validation, test"):
        load_cases(data_set, "training")
    edit_manifest(data_set, lambda m: m["cases"].pop())
    with pytest.raises(VaeliteError, match="no case in split 'test'"):
        load_cases(data_set, "test")
    (data_set / "dataset.json").unlink()
    assert "importer" in set_refusal(data_set) and "make data" not in set_refusal(data_set), "make fills no user's folder"


def test_a_missing_or_broken_phantom_is_made_with_its_own_profile(tmp_path):
    folder = tmp_path / "data" / "phantom-smoke"
    assert "Make it with `make data PROFILE=smoke`" in set_refusal(folder)
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{")
    assert "Remove it and make it again with `make data PROFILE=smoke`" in set_refusal(folder)


def test_different_grids_are_shown_in_a_table(data_set):
    path = data_set / "tiny_00" / "t2w.nii.gz"
    original = tiny_patient(0)["t2w"]
    for array, spacing, origin in ((original[:, :, :30], TINY_SPACING_MM, (31.0, 31.0, 0.0)),
                                   (original, (3.0, 2.0, 1.9), (31.0, 31.0, 0.0)),
                                   (original, TINY_SPACING_MM, (31.0, 33.0, 0.0))):
        write_nifti(path, array, spacing, origin)
        message = set_refusal(data_set)
        assert "one grid" in message and "resample" in message
        assert all(f"  {name}.nii.gz" in message for name in ("cbct", "ct", "t1c", "t2w", "mask", "structures"))
    write_nifti(path, original, TINY_SPACING_MM, (31.001, 31.0, 0.0))  # a rounding of the writer
    load_cases(data_set)


def test_masks_that_are_not_masks(data_set):
    path = data_set / "tiny_02" / "mask.nii.gz"
    mask = tiny_patient(2)["mask"]
    for array, expected in ((mask * 0, "the mask is empty"), (mask * 255, "0 and 1 only, this one 0, 255"),
                            (mask * np.float32(0.7), "0 and 1 only"), (mask[:-1], "one grid")):
        write_nifti(path, array)
        assert expected in set_refusal(data_set)
    write_nifti(path, mask.astype(np.float32))  # zeros and ones are a mask in any type
    load_cases(data_set)
    path.unlink()
    assert "no body mask" in set_refusal(data_set)


def test_structures_must_match_their_names(data_set):
    folder = data_set / "tiny_00"
    rewrite(folder / "structures.nii.gz", lambda bits: bits | np.uint32(4))
    assert "with 2 names, integers from 0 to 3" in set_refusal(data_set)
    (folder / "structures.nii.gz").unlink()
    assert "names 2 structures and structures.nii.gz is missing" in set_refusal(data_set)
    (folder / "case.json").write_text(json.dumps({"structures": ["PTV", "PTV"]}))
    assert "different names" in set_refusal(data_set)
    (folder / "case.json").write_text("{}")
    assert load_cases(data_set)[0].structures() == {}
    (folder / "case.json").unlink()
    assert "case.json" in set_refusal(data_set)


def test_one_image_under_two_names(data_set):
    folder = data_set / "tiny_00"
    image = nib.load(folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), folder / "cbct.nii.gz")  # other bytes
    assert "holds the same image as cbct.nii.gz" in set_refusal(data_set)


def test_one_image_under_two_patients(data_set):
    shutil.copy(data_set / "tiny_00" / "ct.nii.gz", data_set / "tiny_03" / "ct.nii.gz")
    assert "of another patient (tiny_00 and tiny_03)" in set_refusal(data_set)


def test_no_image_and_damaged_image_in_a_case(data_set):
    path = data_set / "tiny_01" / "ct.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert str(path) in set_refusal(data_set)
    for stem in ("cbct", "ct", "t1c", "t2w"):
        (data_set / "tiny_01" / f"{stem}.nii.gz").unlink()
    assert "has no image" in set_refusal(data_set)


def test_a_changed_file_breaks_its_checksum(tiny_set, tmp_path):
    folder = Path(shutil.copytree(tiny_set, tmp_path / "tiny"))
    for name in ("ct.nii.gz", "mask.nii.gz", "structures.nii.gz"):
        path = folder / "tiny_01" / name
        content = path.read_bytes()
        path.write_bytes(gzip.compress(gzip.decompress(content), mtime=1))  # same voxels, other bytes
        assert f"{path}: its content is not what dataset.json recorded" in set_refusal(folder)
        path.write_bytes(content)
    load_cases(folder)


@pytest.mark.parametrize("structures", [{}, {"PTV": tiny_patient(0)["structures"] == 1}])
def test_a_written_case_can_be_read_with_structures_or_without(tmp_path, structures):
    patient = tiny_patient(0)
    write_case(tmp_path, "a", {"CT": patient["ct"]}, patient["mask"] == 1, structures, TINY_SPACING_MM, (0, 0, 0), {})
    write_dataset(tmp_path, [{"name": "a", "patient": "a", "split": "train"}], {"name": "own"})
    (case,) = load_cases(tmp_path)
    assert case.structures().keys() == structures.keys() and (case.folder / "structures.nii.gz").exists() == bool(structures)


def test_the_fingerprint_changes_with_data_and_split(tiny_set, tmp_path):
    folder = Path(shutil.copytree(tiny_set, tmp_path / "tiny"))
    original = cases.data_fingerprint(tiny_set)
    assert len(original) == 64 and cases.data_fingerprint(folder) == original
    edit_manifest(folder, lambda m: m["cases"].reverse())
    assert cases.data_fingerprint(folder) == original, "the order of the list is no content"
    edit_manifest(folder, lambda m: m["cases"][0].update(split="train"))
    changed = cases.data_fingerprint(folder)
    edit_manifest(folder, lambda m: m["cases"][0]["sha256"].update({"ct.nii.gz": hashlib.sha256(b"").hexdigest()}))
    assert len({original, changed, cases.data_fingerprint(folder)}) == 3
    edit_manifest(folder, lambda m: [entry.pop("sha256") for entry in m["cases"]])
    unlisted = cases.data_fingerprint(folder)
    rewrite(folder / "tiny_00" / "ct.nii.gz", lambda hu: hu + np.int16(1))
    assert cases.data_fingerprint(folder) != unlisted, "without recorded checksums the files themselves are hashed"


# ---- slices ----------------------------------------------------------------------------------------------------

def test_fitting_is_exact_where_nothing_is_resized():
    volume = np.random.default_rng(0).normal(size=(3, 24, 24)).astype(np.float32)
    assert np.array_equal(fit_in_plane(volume, 24, -1.0), volume)
    assert np.array_equal(unfit_in_plane(volume, (3, 24, 24)), volume)
    wide = volume[:, :15]
    fitted = fit_in_plane(wide, 24, -7.0)
    assert np.array_equal(fitted[:, 4:19], wide) and (fitted[:, :4] == -7).all() and (fitted[:, 19:] == -7).all()
    assert np.array_equal(unfit_in_plane(fitted, wide.shape), wide)


@pytest.mark.parametrize("shape", [(2, 40, 40), (2, 33, 47), (2, 100, 31), (2, 7, 200), (2, 17, 16), (2, 1, 64)])
@pytest.mark.parametrize("size", [32, 33, 64])
def test_fitting_keeps_place_and_shape(shape, size):
    # a straight ramp has no detail to lose: it must come back where it was, away from the edges
    ramp = np.broadcast_to(np.linspace(-1, 1, shape[2], dtype=np.float32), shape).copy()
    fitted = fit_in_plane(ramp, size, 0.0)
    back = unfit_in_plane(fitted, shape)
    assert fitted.shape == (2, size, size) and back.shape == shape
    edge = 2 + 2 * shape[2] // size
    if shape[2] > 2 * edge:
        assert np.abs(back - ramp)[:, :, edge:-edge].max() < 0.06


def test_thin_bone_does_not_vanish_when_a_slice_shrinks():
    for phase in range(4):
        volume = np.zeros((1, 128, 128), dtype=np.float32)
        volume[:, :, 60 + phase] = 1.0  # one voxel wide
        assert fit_in_plane(volume, 32, 0.0).sum() * 16 == pytest.approx(128.0, rel=0.01)


def test_slices_are_in_model_space(tiny_set):
    loaded = load_cases(tiny_set)
    slices = load_slices(loaded, 32)
    assert len(slices) == 28 and slices.x.shape == (28, 4, 32, 32), "the slice below the head is left out"
    assert slices.x.dtype == torch.float16 and slices.have.all() and slices.names[3] == "tiny_03"
    assert slices.case.tolist() == sorted(7 * [0, 1, 2, 3]) and slices.mask.any(dim=(1, 2)).all()
    assert len(load_slices(loaded, 32, skip_empty=False)) == 32
    ct_hu = (slices.x[7:14, 1].float() + 1) * 1500 - 1000
    assert np.abs(ct_hu.numpy() - np.clip(tiny_patient(1)["ct"][1:], -1000, 2000)).max() < 1.0  # float16: under 1 HU
    for channel in (2, 3):
        inside = slices.x[:7, channel].float()[slices.mask[:7]]
        assert 0 < (inside == -1).float().mean() < 0.02 and 0 < (inside == 1).float().mean() < 0.02


def test_absent_modalities_are_minus_one(data_set):
    (data_set / "tiny_01" / "t1c.nii.gz").unlink()
    slices = load_slices(load_cases(data_set, "train"), 16)
    absent = slices.case == 1
    assert (slices.x[absent, 2] == -1).all() and not slices.have[absent, 2].any()
    assert slices.have[~absent].all() and slices.have[absent][:, [0, 1, 3]].all()
    with pytest.raises(VaeliteError, match="No slices"):
        load_slices([], 16)
