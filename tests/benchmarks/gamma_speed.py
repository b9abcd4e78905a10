"""Our gamma search against pymedphys': ratio of times, taken in turns, and the share of voxels with the same verdict.

    NUMBA_NUM_THREADS=1 python tests/benchmarks/gamma_speed.py RUN [--case NAME] [--dose copy/CBCT] [--rounds 3] [--append]

RUN: an evaluated run, whose kept doses are compared on the CT grid; the plan is the reference. Seconds are processor seconds,
which a busy machine changes little; the ratio is that of the medians. pymedphys samples shells around each point where we sample
a cube, so single voxels with a gamma near 1 may differ. --append adds the table to RESULTS.md.
"""
from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import pymedphys

from vaelite.dose.evaluation import load_doses
from vaelite.dose.gamma import gamma_map
from vaelite.evaluation.rows import rows_of
from vaelite.runs import open_run

RESULTS = Path(__file__).with_name("RESULTS.md")
CRITERIA = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--case")
    parser.add_argument("--dose", default="copy/CBCT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--append", action="store_true")
    options = parser.parse_args()
    run = open_run(options.run)
    row = rows_of(run.report(), table="gamma")[0]
    case = options.case or row["cases"][0]
    doses, spacing_mm, top_gy = load_doses(run, case), row["spacing_mm"][case], row["normalisation_gy"][case]
    reference, evaluated = (doses[name].astype(float) for name in ("CT", options.dose))
    axes = tuple(np.arange(n) * mm for n, mm in zip(reference.shape, spacing_mm))

    def ours(percent: float, mm: float) -> np.ndarray:
        return gamma_map(reference, evaluated, spacing_mm, dose_percent=percent, distance_mm=mm, normalisation_gy=top_gy,
                         cutoff_percent=10.0, mode="global")

    def theirs(percent: float, mm: float) -> np.ndarray:
        return pymedphys.gamma(axes, reference, axes, evaluated, percent, mm, lower_percent_dose_cutoff=10, interp_fraction=10,
                               max_gamma=1.5, global_normalisation=top_gy)

    lines = ["| criterion | voxels | pass, ours : pymedphys [%] | same verdict [%] | seconds, ours : pymedphys | ratio |",
             "|--|--|--|--|--|--|"]
    for percent, mm in CRITERIA:
        ours(percent, mm)                                    # the first call compiles
        seconds: dict = {ours: [], theirs: []}
        for _ in range(options.rounds):
            gamma = {}
            for search in seconds:
                start = time.process_time()
                gamma[search] = search(percent, mm)
                seconds[search].append(time.process_time() - start)
        counted = np.isfinite(gamma[ours]) & np.isfinite(gamma[theirs])
        passed = {search: gamma[search][counted] <= 1 for search in gamma}
        same = 100 * np.mean(passed[ours] == passed[theirs])
        a, b = (statistics.median(seconds[search]) for search in (ours, theirs))
        lines.append(f"| {percent:g} %/{mm:g} mm | {counted.sum():,} | {100 * passed[ours].mean():.3f} : "
                     f"{100 * passed[theirs].mean():.3f} | {same:.3f} | {a:.2f} : {b:.2f} | {b / a:.0f} |")
        print("\n".join(lines[-3:] if len(lines) == 3 else lines[-1:]), flush=True)
    if options.append:
        head = (f"## Gamma against pymedphys {pymedphys.__version__}\n\n`python tests/benchmarks/gamma_speed.py RUN --rounds "
                f"{options.rounds}`: {case}, dose on {options.dose} against the plan, {' x '.join(map(str, reference.shape))} "
                f"voxels of {' x '.join(f'{s:g}' for s in spacing_mm)} mm, processor seconds.")
        with open(RESULTS, "a") as file:
            file.write("\n" + head + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
