"""Shared by all tests: the data scripts on the path, and a tiny data set of simple shapes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "data_scripts"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

# Real scans are licensed and large, so they are not shipped: a folder with open-kbp/ (a clone of ababier/open-kbp), ...
REAL_DATA = Path(os.environ.get("VAELITE_REAL_DATA", ROOT / "data" / "real"))
TINY_SHAPE = (8, 32, 32)  # z y x
TINY_SPACING_MM = (3.0, 2.0, 2.0)
TINY_STRUCTURES = ("PTV", "SpinalCord")


@pytest.fixture(scope="module")
def one_thread():
    """As in the generator's workers: small grids gain nothing from more threads, and a busy machine loses a lot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_nifti(path: Path, array_zyx: np.ndarray, spacing_mm=TINY_SPACING_MM, origin_ras_mm=(31.0, 31.0, 0.0)) -> Path:
    """Write an LPS (z, y, x) array as NIfTI with sform and qform code 1; the same array gives the same bytes."""
    dz, dy, dx = spacing_mm
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[:3, 3] = origin_ras_mm
    image = nib.Nifti1Image(array_zyx.transpose(2, 1, 0), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)
    return path


def tiny_patient(seed: int) -> dict[str, np.ndarray]:
    """An elliptic head with skull, air cavity, cord and tumour: ct, cbct [HU], t1c, t2w [a.u.], mask, structures."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in TINY_SHAPE), indexing="ij")
    width, tumour_x = 0.65 + 0.05 * rng.random(), rng.uniform(-0.3, 0.3)
    radius = np.hypot(x / width, y / 0.85)
    head = (radius < 1) & (z > -0.95)  # the lowest slice is empty: it must be dropped
    skull = head & (radius > 0.78) & (radius < 0.9)  # under the scalp
    cavity = head & (np.hypot(x, y + 0.4) < 0.18)
    cord = head & (np.hypot(x, y - 0.45) < 0.15)
    tumour = head & (np.hypot(x - tumour_x, y) < 0.2)
    tissue = np.select([cavity, skull, cord, tumour, head], [1, 2, 3, 4, 5], default=0)
    ct = np.array([-1000, -950, 900, 30, 60, 40])[tissue] + rng.normal(0, 8, TINY_SHAPE)
    cbct = ct + rng.normal(0, 40, TINY_SHAPE) - 60 * head * (1 - radius)
    t1c = np.array([0, 15, 60, 300, 900, 400])[tissue] + np.abs(rng.normal(0, 12, TINY_SHAPE))
    t2w = np.array([0, 15, 50, 900, 600, 350])[tissue] + np.abs(rng.normal(0, 12, TINY_SHAPE))
    images = {"ct": ct, "cbct": cbct, "t1c": t1c, "t2w": t2w}
    patient = {name: np.rint(image).astype(np.int16) for name, image in images.items()}
    patient["mask"] = head.astype(np.uint8)
    patient["structures"] = (tumour * 1 + cord * 2).astype(np.uint32)
    return patient


def write_tiny_set(folder: Path) -> Path:
    """Four patients in the case-folder contract: two train, one validation, one test."""
    entries = []
    for number, split in enumerate(("train", "train", "validation", "test")):
        name = f"tiny_{number:02d}"
        case_folder = folder / name
        case_folder.mkdir(parents=True)
        files = [write_nifti(case_folder / f"{stem}.nii.gz", image) for stem, image in tiny_patient(number).items()]
        info = {"name": name, "patient": name, "source": "simple shapes", "seed": number, "licence": "CC0-1.0",
                "deidentification": "none needed", "structures": list(TINY_STRUCTURES),
                "prescription_gy": {"PTV": 70.0}}
        (case_folder / "case.json").write_text(json.dumps(info))
        checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        entries.append({"name": name, "patient": name, "split": split, "sha256": checksums})
    manifest = {"name": "tiny", "format": 1, "licence": "CC0-1.0", "citation": "", "generator": "tests/conftest.py",
                "generator_version": "1", "seed": 0, "size": 32, "cases": entries}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """Folder of the four-patient data set. Do not write into it: copy it first (shutil.copytree)."""
    return write_tiny_set(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """The smoke profile's phantom patients."""
    import make_phantom

    from vaelite.profiles import profile

    folder, data = tmp_path_factory.mktemp("data") / "phantom-smoke", profile("smoke").data
    make_phantom.main(["--cases", str(data.cases), "--size", str(data.size), "--out", str(folder)])
    return folder


@pytest.fixture(scope="session")
def finished(cohort, tmp_path_factory) -> Path:
    """A run folder after all four lessons, for the tests of the lessons and of the browser. Do not write into it."""
    from vaelite.__main__ import main

    run = tmp_path_factory.mktemp("runs") / "phantom-smoke"
    assert main(["run-all", "--profile", "smoke", "--data", str(cohort), "--run", str(run)]) == 0
    return run
