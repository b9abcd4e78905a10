"""Make the procedural head-and-neck cohort: CBCT, CT, T1c, T2w, body and structures per case, split by patient.

    python data_scripts/make_phantom.py --cases 87 --size 128 --out data/phantom --seed 0
    python data_scripts/make_phantom.py --settings my_phantom.toml        # a changed copy of data_scripts/phantom.toml

Same seed and settings, same bytes, whatever the number of jobs. A run that was stopped goes on where it was: finished
cases are kept.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

from case_folder import write_case, write_dataset
from phantom import ATLAS_NOTICE, GENERATOR_VERSION
from phantom.settings import SHIPPED, PhantomSettings, load_settings

LICENCE = "CC-BY-4.0"
CITATION = ("vaelite procedural head-and-neck phantom. Brain from the ICBM 152 nonlinear symmetric 2009a maps, "
            "Fonov et al., NeuroImage 54 (2011) 313-327. " + ATLAS_NOTICE)
SMALLEST, LARGEST = 32, 512
PRESCRIPTION_GY = {"PTV": 70.0}


def split_sizes(n_cases: int) -> dict[str, int]:
    """About 70 / 10 / 20 %, at least one case each, and two for testing from six cases on."""
    if n_cases < 3:
        raise ValueError(f"--cases {n_cases}: at least 3 are needed, one each to train, validate and test")
    test = max(2 if n_cases >= 6 else 1, round(0.2 * n_cases))
    validation = max(1, round(0.1 * n_cases))
    return {"train": n_cases - validation - test, "validation": validation, "test": test}


def planned_cases(n_cases: int) -> list[dict]:
    """[{"name", "patient", "split"}]: one case per patient."""
    splits = [split for split, size in split_sizes(n_cases).items() for _ in range(size)]
    return [{"name": f"case_{index:03d}", "patient": f"phantom-{index:03d}", "split": split}
            for index, split in enumerate(splits)]


def recipe(seed: int, size: int, settings: PhantomSettings) -> dict:
    """What a finished case must match to be kept."""
    return {"generator": "make_phantom", "generator_version": GENERATOR_VERSION, "seed": seed, "size": size,
            "settings": settings.as_json()}


def is_finished(folder: Path, wanted: dict) -> bool:
    path = folder / "case.json"
    if not path.is_file():
        return False
    facts = json.loads(path.read_text(encoding="utf-8"))
    return all(facts.get(key) == value for key, value in wanted.items())


def make_and_write(job: tuple[int, dict, int, int, PhantomSettings, str]) -> tuple[str, float, int]:
    """Make one case (in a worker process) and write its folder -> (name, seconds, patients redrawn)."""
    index, planned, seed, size, settings, out = job
    started = time.perf_counter()
    import torch  # here, in the worker, where the limits of make_cohort hold
    from phantom.scans import make_case

    torch.set_num_threads(1)
    case = make_case(seed, index, size, settings)
    info = {"patient": planned["patient"], "source": "procedural phantom, not a patient",
            **recipe(seed, size, settings), "index": index, **case.facts, "licence": LICENCE,
            "deidentification": "not a patient: nothing to remove", "prescription_gy": PRESCRIPTION_GY}
    write_case(out, planned["name"], case.volumes, case.mask, case.structures, case.grid.spacing_mm,
               case.grid.origin_lps_mm, info)
    return planned["name"], time.perf_counter() - started, case.facts["redraws"]


def make_cohort(n_cases: int, size: int, out: Path, seed: int, n_jobs: int,
                settings: PhantomSettings = PhantomSettings()) -> None:
    """Make what is missing, in parallel processes of one thread each, then write dataset.json."""
    cases, wanted = planned_cases(n_cases), recipe(seed, size, settings)
    missing = [(index, case, seed, size, settings, str(out)) for index, case in enumerate(cases)
               if not is_finished(out / case["name"], wanted)]
    print(f"{n_cases} cases of {size} x {size} x {size // 2} voxels in {out}: {n_cases - len(missing)} there, "
          f"{len(missing)} to make", flush=True)
    if missing:
        out.mkdir(parents=True, exist_ok=True)
        (out / "dataset.json").unlink(missing_ok=True)          # it would describe files about to change
        # one thread per process: sums are then taken in one order, and the bytes do not depend on the machine's load
        os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        started = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(min(n_jobs, len(missing))) as pool:
            for done, (name, seconds, redraws) in enumerate(pool.imap(make_and_write, missing), start=1):
                left_s = (time.perf_counter() - started) / done * (len(missing) - done)
                again = f", drawn {redraws + 1} times" if redraws else ""
                print(f"  {name}  {done}/{len(missing)}  {seconds:.1f} s{again}  {left_s / 60:.1f} min left",
                      flush=True)
    write_dataset(out, cases, {"name": out.name, **wanted, "licence": LICENCE, "citation": CITATION})
    print("split: " + ", ".join(f"{size} {split}" for split, size in split_sizes(n_cases).items()), flush=True)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=40, help="number of patients (default 40)")
    parser.add_argument("--size", type=int, default=128, help="voxels across: size x size x size / 2 (default 128)")
    parser.add_argument("--out", type=Path, default=Path("data/phantom"), help="folder of the data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=Path, default=SHIPPED, help="TOML file (default data_scripts/phantom.toml)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if not SMALLEST <= options.size <= LARGEST or options.size % 4:
        sys.exit(f"make_phantom: --size {options.size}: expected a multiple of 4 from {SMALLEST} to {LARGEST}")
    if options.jobs < 1 or options.seed < 0:
        sys.exit("make_phantom: --jobs starts at 1, --seed at 0")
    try:
        settings = load_settings(options.settings)
        make_cohort(options.cases, options.size, options.out, options.seed, options.jobs, settings)
    except (ValueError, OSError) as error:
        sys.exit(f"make_phantom: {error}")


if __name__ == "__main__":
    main()
