"""Seconds and peak memory of one phantom case by size, and where the time goes: run it, it asserts nothing.

    python tests/benchmarks/phantom_speed.py --sizes 64 128

One thread unless --threads says more; the first case of each run is a warm-up. Grows with the voxels times the views:
doubling the size costs about eight times as much.
"""
from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "data_scripts"))

import torch
from phantom.scans import draw_patient, make_case, take_cbct, take_ct, take_mr


def seconds_of(step, *arguments) -> float:
    started = time.perf_counter()
    step(*arguments)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--cases", type=int, default=2, help="cases to average over")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    make_case(0, 0, 32)
    print(f"{torch.get_num_threads()} thread(s), GPU {'used' if torch.cuda.is_available() else 'absent'}")
    print("size   whole case   anatomy      CT    CBCT      MR [s]   peak memory so far [GB]")
    for size in options.sizes:
        whole = sum(seconds_of(make_case, 0, index, size) for index in range(options.cases)) / options.cases
        patient = draw_patient(0, 0, size)
        scans = (seconds_of(take, patient) for take in (take_ct, take_cbct, take_mr))
        steps = seconds_of(draw_patient, 0, 0, size), *scans
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20  # kilobytes on Linux
        print(f"{size:4d}   {whole:10.2f}   " + "".join(f"{s:8.2f}" for s in steps) + f"   {peak_gb:8.2f}", flush=True)


if __name__ == "__main__":
    main()
