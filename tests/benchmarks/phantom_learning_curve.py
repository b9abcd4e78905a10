"""Does more of the phantom's patients teach more? Test error of a small T1c-to-CT translator over them.

    python data_scripts/make_phantom.py --cases 84 --size 64 --out data/curve
    python tests/benchmarks/phantom_learning_curve.py data/curve --figure learning_curve.png

A cohort on which 8 patients do as well as 64 cannot tell methods apart. Each network gets the same number of steps,
whatever the number of patients, and is tested on the same 20 patients, the cohort's last. Finished runs are kept in a
.json beside the figure, for the same data and training only; with `--require`, the exit status is 1 unless the error
falls by 10 % from 8 to 32 patients and by more than two standard errors of the difference from 32 to 64.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vaelite.data.cases import Case, data_fingerprint, load_cases  # noqa: E402
from vaelite.data.intensity import hu_to_unit, mr_scale, mr_to_unit  # noqa: E402

PATIENTS, SEEDS, TEST_PATIENTS = (8, 32, 64), (0, 1, 2), 20
STEPS, BATCH, LEARNING_RATE = 2000, 8, 5e-3  # our choice
HU_PER_UNIT = 1500.0


class Translator(nn.Module):
    """A U-Net of four levels on pixels folded 2 x 2: a minute of one core for 64 x 64 slices."""

    def __init__(self, widths: tuple[int, ...] = (24, 32, 48, 64)):
        super().__init__()
        self.down = nn.ModuleList(block(n_in, n_out) for n_in, n_out in zip((4, *widths), widths, strict=False))
        self.up = nn.ModuleList(block(n_deep + n_near, n_near) for n_near, n_deep in pairwise(widths))
        self.last = nn.Conv2d(widths[0], 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """b 1 h w -> b 1 h w, both in [-1, 1]."""
        x, levels = functional.pixel_unshuffle(x, 2), []
        for layer in self.down:
            x = layer(functional.avg_pool2d(x, 2) if levels else x)
            levels.append(x)
        x = levels.pop()
        for layer in reversed(self.up):
            x = layer(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), levels.pop()], dim=1))
        return functional.pixel_shuffle(self.last(x), 2)


def block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(),
                         nn.Conv2d(n_out, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU())


def slices(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """T1c and CT in [-1, 1] and the body, n 1 h w each."""
    mask, t1c = case.mask(), case.volume("T1c")
    pictures = mr_to_unit(t1c, mr_scale(t1c, mask)), hu_to_unit(case.volume("CT")), mask
    return tuple(torch.from_numpy(np.asarray(p, np.float32))[:, None] for p in pictures)


def train(patients: list[tuple[Tensor, Tensor, Tensor]], seed: int) -> Translator:
    torch.manual_seed(seed)
    network = Translator()
    source, target, body = (torch.cat(part) for part in zip(*patients, strict=True))
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(source), (BATCH,))
        error = (network(source[chosen]) - target[chosen]).abs() * body[chosen]
        loss = error.sum() / body[chosen].sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def test_mae_hu(network: Translator, patients: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Mean over patients of the mean absolute error in the body [HU]."""
    errors = [((network(source) - target).abs() * body).sum() / body.sum() for source, target, body in patients]
    return HU_PER_UNIT * float(torch.stack(errors).mean())


def draw(results: dict[str, dict[str, float]], data: str) -> Figure:
    numbers = sorted({int(n) for run in results.values() for n in run})
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for seed, run in results.items():
        axis.plot(numbers, [run.get(str(n), np.nan) for n in numbers], ".", color="#999999")
    mean = [np.mean([run[str(n)] for run in results.values() if str(n) in run]) for n in numbers]
    axis.plot(numbers, mean, "o-", color="#0072B2")
    for n, value in zip(numbers, mean, strict=True):
        axis.annotate(f"{value:.0f}", (n, value), textcoords="offset points", xytext=(4, 6))
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.set(xlabel="training patients", ylabel="T1c to CT, test MAE in the body [HU]", ylim=(0, 1.15 * max(mean)))
    axis.margins(x=0.1)                                      # room for the last number
    axis.set_title(f"{data}: {100 * (1 - mean[-1] / mean[0]):.0f} % less error with {numbers[-1]} patients than with "
                   f"{numbers[0]}\n{len(results)} seeds (grey), mean (blue), {TEST_PATIENTS} test patients", fontsize=9)
    return figure


def verdict(results: dict[str, dict[str, float]]) -> tuple[str, bool]:
    """Relative fall from 8 to 32, and from 32 to 64 with the standard error of the difference over seeds."""
    at = {n: np.array([run[str(n)] for run in results.values()]) for n in (8, 32, 64)}
    first = 1 - at[32].mean() / at[8].mean()
    steps = at[32] - at[64]
    error = steps.std(ddof=1) / np.sqrt(len(steps)) if len(steps) > 1 else np.inf
    text = (f"8 to 32 patients: {100 * first:.1f} % less error; 32 to 64: {steps.mean():.1f} +- {error:.1f} HU "
            f"({100 * steps.mean() / at[32].mean():.1f} %)")
    return text, bool(first >= 0.10 and steps.mean() > 2 * error)


def kept_results(store: Path, recipe: dict) -> dict[str, dict[str, float]]:
    """{seed: {training patients: test MAE [HU]}} of earlier runs; none if they had other data or another training."""
    kept = json.loads(store.read_text()) if store.is_file() else {}
    if kept and kept.get("recipe") != recipe:
        print(f"{store} is of other data or another training: starting anew", flush=True)
        return {}
    return kept.get("results", {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a cohort of 64 x 64 pixels: 84 cases for all of the curve")
    parser.add_argument("--figure", type=Path, default=Path("learning_curve.png"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--patients", type=int, nargs="+", default=list(PATIENTS), help="training patients")
    parser.add_argument("--require", action="store_true", help="exit with 1 if the curve does not fall")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = load_cases(options.folder)
    if min(options.patients) < 1 or max(options.patients) + TEST_PATIENTS > len(cases):
        sys.exit(f"--patients {' '.join(map(str, options.patients))}: from 1 on, and together with the {TEST_PATIENTS} "
                 f"for testing no more than the {len(cases)} cases of {options.folder}")
    patients = [slices(case) for case in cases]
    pool, held_out = patients[:-TEST_PATIENTS], patients[-TEST_PATIENTS:]
    store = options.figure.with_suffix(".json")
    recipe = {"data": data_fingerprint(options.folder), "steps": STEPS, "batch": BATCH, "learning_rate": LEARNING_RATE}
    results = kept_results(store, recipe)
    for seed in options.seeds:
        run = results.setdefault(str(seed), {})
        order = np.random.default_rng(seed).permutation(len(pool))      # nested: the 8 are among the 32
        for n in options.patients:
            if str(n) in run:
                continue
            started = time.perf_counter()
            run[str(n)] = test_mae_hu(train([pool[i] for i in order[:n]], seed), held_out)
            seconds = time.perf_counter() - started
            print(f"seed {seed}  {n:3d} patients  {run[str(n)]:.1f} HU  {seconds:.0f} s", flush=True)
            store.write_text(json.dumps({"recipe": recipe, "results": results}, indent=2) + "\n")
    draw(results, options.folder.name).savefig(options.figure, dpi=120)
    complete = {seed: run for seed, run in results.items() if {"8", "32", "64"} <= set(run)}
    if not complete:
        sys.exit("no seed has been trained on 8, 32 and 64 patients yet: no verdict")
    text, falls = verdict(complete)
    print(text)
    sys.exit(int(options.require and not falls))


if __name__ == "__main__":
    main()
