"""Import OpenKBP, real head-and-neck radiotherapy patients, as published: CT, organs, targets, dose; simulate the CBCT.

    python data_scripts/import_openkbp.py path/to/open-kbp data/openkbp

The first folder is the cloned public repository ababier/open-kbp, or any folder that holds provided-data/, with
whichever subsets and patients are there. The CBCT is simulated from the real CT and says so in case.json. Axes and HU
scale, which OpenKBP does not document, are checked by anatomy for each patient. A stopped import goes on where it was.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from case_folder import write_case, write_dataset
from openkbp import IMPORTER_VERSION
from openkbp.checks import check_hu, check_orientation, in_hu
from openkbp.patient import Patient, check_files, read_patient
from openkbp.splits import choose_splits, find_patients, first_of_each_subset
from phantom.cbct import CbctSettings, simulate_cbct

from vaelite.data.intensity import body_mask
from vaelite.errors import VaeliteError

LICENCE = "MIT"
CITATION = ("Babier A, Zhang B, Mahmood R, et al. OpenKBP: The open-access knowledge-based planning grand challenge "
            "and dataset. Med Phys 48:5549-5561 (2021). doi:10.1002/mp.14845")
# Our choice. Voxels are 4-5 mm here, twice the phantom's, so the detector gets three pixels per voxel. Shoulders need
# a body protocol: 125 kVp, more photons, a better scatter correction, a full circle and a panel wide enough to see them
# (a head scan's field of 26 cm would cut them off); no bowtie, whose profile would follow that panel's width.
SETTINGS = CbctSettings(views=120, arc_degree=360.0, detector_width_mm=1000.0, detector_pixel=0.35, hann_cutoff=2.0,
                        kvp=125.0, bowtie_mm_al=0.0, photons_log10=(5.6, 5.6), scatter_left=(0.01, 0.03))
MOST_JOBS = 4                              # a patient needs up to 1.5 GB of memory while it is scanned


def import_patients(source: Path, out: Path, seed: int = 0, n_jobs: int = 1, limit: int | None = None,
                    settings: CbctSettings = SETTINGS) -> Path:
    """Write the case folders that are missing in `out`, then dataset.json -> its path.

    Raises VaeliteError at the first patient that cannot be imported; the cases finished until then are kept.
    """
    patients = find_patients(source)
    if limit is not None:
        patients = first_of_each_subset(patients, limit)
    for folder, _ in patients.values():
        check_files(folder)
    splits, rule = choose_splits({name: split for name, (_, split) in patients.items()}, seed)
    cases = [{"name": name, "patient": f"openkbp-{name}", "split": splits[name]} for name in patients]
    missing = [(str(folder), split, str(out), seed, settings) for name, (folder, split) in patients.items()
               if not is_finished(out / name, seed, settings)]
    print(f"OpenKBP, licence {LICENCE}: {CITATION}")
    print(f"{len(cases)} patients: {len(cases) - len(missing)} in {out} already, {len(missing)} to import", flush=True)
    if missing:
        out.mkdir(parents=True, exist_ok=True)
        (out / "dataset.json").unlink(missing_ok=True)          # it would describe files about to change
        import_missing(missing, n_jobs)
    info = {"name": out.name, **recipe(seed, settings), "size": 128, "licence": LICENCE, "citation": CITATION,
            "modalities": {"CT": "real", "CBCT": "simulated from the CT"}, "split_rule": rule}
    path = write_dataset(out, cases, info)
    print(describe_splits(splits, rule), flush=True)
    return path


def recipe(seed: int, settings: CbctSettings) -> dict:
    """What a finished case must match to be kept."""
    return {"generator": "import_openkbp", "generator_version": IMPORTER_VERSION, "seed": seed,
            "cbct_settings": json.loads(json.dumps(asdict(settings)))}  # pairs as the lists that a file gives back


def is_finished(folder: Path, seed: int, settings: CbctSettings) -> bool:
    path = folder / "case.json"
    if not path.is_file():
        return False
    facts = json.loads(path.read_text(encoding="utf-8"))
    return all(facts.get(key) == value for key, value in recipe(seed, settings).items())


def import_missing(jobs: list[tuple], n_jobs: int) -> None:
    """Run the jobs one after another, or in processes of one thread each, and report each patient as it is done."""
    if n_jobs == 1 or len(jobs) == 1:
        report(map(import_one, jobs), len(jobs))
        return
    # one thread per process: the bytes do not depend on how many there are
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with multiprocessing.get_context("spawn").Pool(min(n_jobs, len(jobs))) as pool:
        report(pool.imap(import_one, jobs), len(jobs))


def report(results, n_jobs: int) -> None:
    for done, line in enumerate(results, start=1):
        print(f"  {done}/{n_jobs}  {line}", flush=True)


def import_one(job: tuple[str, str, str, int, CbctSettings]) -> str:
    """Read, check, scan and write one patient -> what to tell about it."""
    source, published_split, out, seed, settings = job
    started = time.perf_counter()
    folder = Path(source)
    patient = read_patient(folder)
    body = find_body(patient.ct_hu, folder)
    orientation = check_orientation(patient.structures, patient.spacing_mm, str(folder))
    peaks = check_hu(patient.ct_hu, body, str(folder))
    cbct_hu = scan(patient, f"{seed} {folder.name}", settings)
    mae_hu = float(np.abs(cbct_hu - patient.ct_hu)[body].mean())
    facts = {"patient": f"openkbp-{folder.name}",
             "source": "OpenKBP: real CT, structures and dose of a patient; the CBCT is simulated from the CT",
             "modalities": {"CT": "real", "CBCT": "simulated"},
             "origin": f"{folder.parent.name}/{folder.name}", "published_split": published_split,
             **recipe(seed, settings), "licence": LICENCE, "citation": CITATION,
             "deidentification": "by the publishers: csv files without names, dates or headers",
             "prescription_gy": patient.prescriptions_gy(),
             "hu": "stored value (clipped to 0..4095) - 1024, not below -1000", "tissue_peaks_hu": peaks,
             "orientation": orientation, "cbct_mae_hu": round(mae_hu, 1),
             "cbct_coverage": "the whole volume, shoulders included: our choice, a real scan is shorter and narrower"}
    write_case(out, folder.name, {"CBCT": cbct_hu, "CT": patient.ct_hu}, body, patient.structures, patient.spacing_mm,
               centred_origin_mm(patient), facts, {"dose_published": patient.dose_gy})
    seconds = time.perf_counter() - started
    line = (f"{folder.name}: fat {in_hu(peaks['fat'])}, muscle {in_hu(peaks['muscle'])}, CBCT {mae_hu:.0f} HU from the "
            f"CT (MAE in the body), {seconds:.0f} s")
    if orientation["not_checked"]:
        line += f"; direction not checked for want of structures: {', '.join(orientation['not_checked'])}"
    return line


def find_body(ct_hu: np.ndarray, folder: Path) -> np.ndarray:
    try:
        return body_mask(ct_hu, "CT")
    except VaeliteError as error:
        raise VaeliteError(f"{folder / 'ct.csv'}: {error}") from error


def scan(patient: Patient, key: str, settings: CbctSettings) -> np.ndarray:
    """The simulated CBCT; `key` seeds its noise, so that a patient's does not depend on which others are imported."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                                    # sums in one order: the same bytes on every machine
    try:
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return simulate_cbct(patient.ct_hu, patient.spacing_mm, seed, settings)
    finally:
        torch.set_num_threads(threads)


def centred_origin_mm(patient: Patient) -> tuple[float, float, float]:
    """(x, y, z) of the first voxel, with the middle of the volume at 0: OpenKBP publishes no position (our choice)."""
    lengths = zip(patient.ct_hu.shape, patient.spacing_mm, strict=True)
    z, y, x = (-(n - 1) / 2 * step for n, step in lengths)
    return x, y, z


def describe_splits(splits: dict[str, str], rule: str) -> str:
    counts = Counter(splits.values())
    lines = [f"split: {counts['train']} train, {counts['validation']} validation, {counts['test']} test ({rule})"]
    for split in ("validation", "test"):
        names = [name for name in splits if splits[name] == split]
        if 0 < len(names) <= 12:
            lines.append(f"  {split}: {', '.join(names)}")
    if min(counts["train"], counts["validation"], counts["test"]) == 0:
        lines.append("  too few patients to train, validate and test: import at least 4")
    return "\n".join(lines)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="cloned repository ababier/open-kbp, or a folder with provided-data/")
    parser.add_argument("out", type=Path, help="folder of the data set, for example data/openkbp")
    parser.add_argument("--seed", type=int, default=0, help="of the CBCT's noise and of drawn splits")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, MOST_JOBS), help="processes")
    parser.add_argument("--limit", type=int, help="at most so many patients of each subset")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.jobs < 1 or options.seed < 0 or (options.limit is not None and options.limit < 1):
        sys.exit("import_openkbp: --jobs and --limit start at 1, --seed at 0")
    try:
        import_patients(options.source, options.out, options.seed, options.jobs, options.limit)
    except (ValueError, OSError) as error:
        sys.exit(f"import_openkbp: {error}")


if __name__ == "__main__":
    main()
