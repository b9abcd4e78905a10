"""How long one patient's dose takes: the plan, a recalculation on the copied cone beam, and gamma by each criterion.

    python tests/benchmarks/dose_speed.py RUN DATA [--case NAME]

RUN: a finished run of the patients in DATA; the knobs of the plan and of gamma are the run's. Seconds by the clock.
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from vaelite.data.cases import load_cases
from vaelite.dose.evaluation import prescriptions
from vaelite.dose.gamma import gamma_map
from vaelite.dose.plan import plan_imrt, recalculate
from vaelite.evaluation.rows import markdown
from vaelite.profiles import from_knobs
from vaelite.runs import open_run


def timed(function, *arguments, **named) -> tuple[Any, float]:
    start = time.perf_counter()
    found = function(*arguments, **named)
    return found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--case")
    options = parser.parse_args()
    config = from_knobs(open_run(options.run).stages["decoder"]["config"]).dose
    planned = [case for case in load_cases(options.data) if case.split == "test" and prescriptions(case)]
    case = next(case for case in planned if options.case in (None, case.name))
    ct_hu, cbct_hu, body = case.volume("CT"), case.volume("CBCT"), case.mask()
    structures = {name: mask for name, mask in case.structures().items() if mask.any()}
    plan, planning = timed(plan_imrt, ct_hu, case.spacing_mm, structures, body, prescriptions(case), config)
    dose_gy, reference = timed(recalculate, plan, ct_hu)
    other_gy, again = timed(recalculate, plan, cbct_hu)
    lines = [["plan", planning], ["recalculation on the CT", reference], ["recalculation on CBCT", again]]
    for percent, mm in (config.gamma_criteria[0], *config.gamma_criteria):    # the first call compiles
        _, seconds = timed(gamma_map, dose_gy, other_gy, case.spacing_mm, dose_percent=percent, distance_mm=mm,
                           normalisation_gy=plan.prescription_gy, cutoff_percent=config.cutoff_percent, mode=config.gamma_mode)
        lines.append([f"gamma {percent:g} %/{mm:g} mm", seconds])
    lines[3][0] += ", the first call"
    print(f"{case.name}: {' x '.join(map(str, ct_hu.shape))} voxels, {config.n_fields} fields\n")
    print(markdown(["step", "seconds"], [[name, f"{seconds:.2f}"] for name, seconds in lines]))


if __name__ == "__main__":
    main()
