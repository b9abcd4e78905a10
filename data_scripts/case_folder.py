"""The one writer of case folders, the format that `vaelite.data.cases` reads. Phantom and importers all end here.

    <set>/<case>/cbct.nii.gz ct.nii.gz t1c.nii.gz t2w.nii.gz    int16, any subset of the four
                 mask.nii.gz                                    uint8, the body
                 structures.nii.gz                              uint32, bit i = structure i of case.json; only if it names any
                 case.json                                      facts; written last: a folder that has it is complete
    <set>/dataset.json                                          cases, split, checksums; written last of all

Arrays are (z, y, x) in LPS: x to the patient's left, y to the back, z to the head. Files hold (x, y, z) with the affine
diag(-dx, -dy, dz), the same voxels seen from nibabel's RAS. Same input, same bytes.
"""
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

FORMAT = 1
MODALITY_STEMS = {"CBCT": "cbct", "CT": "ct", "T1c": "t1c", "T2w": "t2w"}
SPLITS = ("train", "validation", "test")
GZIP_LEVEL = 4                             # int16 with noise compresses little, whatever the level


def write_case(folder: str | Path, name: str, volumes: Mapping[str, np.ndarray], mask: np.ndarray,
               structures: Mapping[str, np.ndarray], spacing_mm: tuple[float, float, float],
               origin_lps_mm: tuple[float, float, float], info: Mapping,
               extra: Mapping[str, np.ndarray] | None = None) -> Path:
    """Write folder/name, replacing what is there only once the new case is complete.

    volumes: {modality: (z, y, x)}, HU or arbitrary units, stored as int16 (saturating); mask: (z, y, x) bool;
    structures: {name: (z, y, x) bool}, at most 32; spacing_mm = (dz, dy, dx); origin_lps_mm = (x, y, z) of the first
    voxel's centre; info: facts for case.json; extra: {file stem: (z, y, x)} stored as float32 -> the case's folder.
    Raises ValueError for an unknown modality, another shape, or values that are not finite.
    """
    arrays = {MODALITY_STEMS[modality]: to_int16(volume) for modality, volume in checked(volumes, mask.shape).items()}
    arrays["mask"] = mask.astype(np.uint8)
    if structures:                         # load_cases wants names and file, or neither
        arrays["structures"] = to_bits(structures, mask.shape)
    arrays.update({stem: volume.astype(np.float32) for stem, volume in (extra or {}).items()})
    affine = lps_affine(spacing_mm, origin_lps_mm)
    final, temporary = Path(folder) / name, Path(folder) / f".{name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for stem, array in arrays.items():
        (temporary / f"{stem}.nii.gz").write_bytes(nifti_bytes(array, affine))
    write_json(temporary / "case.json", {"name": name, **info, "structures": list(structures)})
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    return final


def write_dataset(folder: str | Path, cases: list[dict], info: Mapping) -> Path:
    """Write folder/dataset.json: info, and for each case {"name", "patient", "split"} plus the checksums of its files.

    Raises ValueError if a split has another name, or one patient is in two of them.
    """
    split_of: dict[str, str] = {}
    for case in cases:
        if case["split"] not in SPLITS:
            raise ValueError(f"case {case['name']}: split {case['split']!r} is none of {', '.join(SPLITS)}")
        if split_of.setdefault(case["patient"], case["split"]) != case["split"]:
            raise ValueError(f"patient {case['patient']} is in {split_of[case['patient']]} and in {case['split']}: "
                             "a patient belongs to one split")
    rows = [{**case, "sha256": checksums(Path(folder) / case["name"])} for case in cases]
    path = Path(folder) / "dataset.json"
    write_json(path, {"format": FORMAT, **info, "cases": rows})
    return path


def checked(volumes: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Mapping[str, np.ndarray]:
    for modality, volume in volumes.items():
        if modality not in MODALITY_STEMS:
            raise ValueError(f"unknown modality {modality!r}: expected one of {', '.join(MODALITY_STEMS)}")
        if volume.shape != shape:
            raise ValueError(f"{modality} has the shape {volume.shape}, the mask {shape}: one grid per case")
        if not np.isfinite(volume).all():
            raise ValueError(f"{modality} holds NaN or infinite values")
    return volumes


def to_int16(volume: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(volume), -32768, 32767).astype(np.int16)


def to_bits(structures: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """{name: bool (z, y, x)} -> uint32, bit i for structure i: structures may overlap."""
    if len(structures) > 32:
        raise ValueError(f"{len(structures)} structures, but a case folder holds at most 32")
    bits = np.zeros(shape, np.uint32)
    for index, inside in enumerate(structures.values()):
        bits |= inside.astype(np.uint32) << np.uint32(index)
    return bits


def lps_affine(spacing_mm: tuple[float, float, float], origin_lps_mm: tuple[float, float, float]) -> np.ndarray:
    """The RAS affine of an (x, y, z) array whose axes run along LPS."""
    dz, dy, dx = spacing_mm
    x, y, z = origin_lps_mm
    affine = np.diag((-dx, -dy, dz, 1.0))
    affine[:3, 3] = -x, -y, z
    return affine


def nifti_bytes(array_zyx: np.ndarray, affine: np.ndarray) -> bytes:
    """A .nii.gz file: sform and qform of code 1 (scanner), no time stamp."""
    image = nib.Nifti1Image(np.ascontiguousarray(array_zyx.transpose(2, 1, 0)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=GZIP_LEVEL, mtime=0) as stream:
        stream.write(image.to_bytes())
    return buffer.getvalue()


def checksums(case_folder: Path) -> dict[str, str]:
    """{file name: SHA-256} of every file of a case."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(case_folder.iterdir())}


def write_json(path: Path, content: Mapping) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
