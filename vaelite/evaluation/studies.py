"""Comparisons that take core-hours, made once by `tests/benchmarks` and read by the lessons from its small JSON files."""
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..errors import VaeliteError
from ..figures import METHOD_COLOURS, METHOD_NAMES, headline, new_figure, plain_axes
from .rows import markdown

RESULTS = Path(__file__).parents[2] / "tests" / "benchmarks" / "results"
DECODERS = ("stage-1 decoder", "blend", "fine-tuned")        # of the shipped method, each used everywhere: no change of training
COLOURS = METHOD_COLOURS | {"pairs": "#332288"}
NAMES = METHOD_NAMES | {"pairs": "a U-Net a direction"}
COLUMNS = {"psnr": ("PSNR [dB]", 1, 2), "ssim": ("SSIM [1]", 1, 3), "mae": ("MAE [% of range]", 100, 2)}    # factor, decimals


def load_study(pattern: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The results whose file names match, e.g. "compare_*.json". Raises VaeliteError if there are none."""
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise VaeliteError(f"{folder} has no {pattern}. It comes with the repository: is this a whole clone?")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def mean_over(tasks: dict[str, dict[str, float]], metric: str, fused: bool = False) -> float:
    """Mean over all directions, or over the tasks with several sources ("CBCT+T1c>CT"); NaN if there are none."""
    values = [of_task[metric] for name, of_task in tasks.items() if ("+" in name) == fused]
    return sum(values) / len(values) if values else float("nan")


def study_table(results: Sequence[dict[str, Any]], first: str = "method") -> str:
    """Mean ± SD over seeds of the means over directions and over fusions, one line a method, as Markdown."""
    header = [label for label, *_ in COLUMNS.values()]
    lines = []
    for method in dict.fromkeys(name for result in results for name in result["scores"]):
        cells = []
        for fused in (False, True):
            for metric, (_, factor, decimals) in COLUMNS.items():
                found = factor * np.array([mean_over(r["scores"][method], metric, fused) for r in results
                                           if method in r["scores"]])
                spread = f" ± {found.std(ddof=1):.{decimals}f}" if len(found) > 1 else ""
                cells.append("–" if np.isnan(found).any() else f"{found.mean():.{decimals}f}{spread}")
        lines.append([NAMES.get(method, method), *cells])
    return markdown([first, *header, *(f"all sources: {label}" for label in header)], lines)


def changed_by(results: Sequence[dict[str, Any]], shipped: str, fused: bool) -> dict[str, list[float]]:
    """{change: PSNR [dB] that it costs, one value a seed}."""
    costs: dict[str, list[float]] = {}
    for scores in (r["scores"] for r in results):
        for name in scores.keys() - {shipped, *DECODERS}:
            lost = mean_over(scores[shipped], "psnr", fused) - mean_over(scores[name], "psnr", fused)
            costs.setdefault(NAMES.get(name, name), []).append(lost)
    return costs


def change_costs(results: Sequence[dict[str, Any]], shipped: str = "as shipped", fused: bool = False) -> dict[str, float]:
    """{change: PSNR [dB] that it costs}, mean over seeds of the mean over directions or fusions; the dearest first."""
    means = {name: float(np.mean(costs)) for name, costs in changed_by(results, shipped, fused).items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def least_cost(results: Sequence[dict[str, Any]], shipped: str = "as shipped", fused: bool = False) -> float:
    """The smallest cost [dB] these seeds tell from none: two standard errors of their mean, the variance pooled over changes.

    Raises VaeliteError if no change was tried with two seeds.
    """
    several = [costs for costs in changed_by(results, shipped, fused).values() if len(costs) > 1]
    if not several:
        raise VaeliteError("One seed cannot tell a change from chance: run tests/benchmarks/ablations.py with another --seed.")
    return 2 * float(np.sqrt(np.mean([np.var(costs, ddof=1) / len(costs) for costs in several])))


def told_changes(results: Sequence[dict[str, Any]], shipped: str = "as shipped", fused: bool = False) -> dict[str, float]:
    """Those of `change_costs` that the seeds tell from none: beyond `least_cost` on average, and beyond half of it in every seed."""
    limit, of_seeds = least_cost(results, shipped, fused), changed_by(results, shipped, fused)
    return {name: cost for name, cost in change_costs(results, shipped, fused).items()
            if abs(cost) > limit and min(np.sign(cost) * np.array(of_seeds[name])) > limit / 2}


def tokenizer_table(study: dict[str, Any]) -> str:
    """What each tokenizer of `tests/benchmarks/tokenizers.py` keeps of the test patients' slices, means over modalities."""
    header = ["tokenizer", "a slice", "bits stored", "steps", "PSNR [dB]", "SSIM [1]", "KID x 1000 [1]",
              "KL [nat a latent]", "collapsed channels"]
    lines = []
    for of in study["tokenizers"]:
        psnr, ssim, kid = (np.mean([q[metric] for q in of["quality"].values()]) for metric in ("psnr", "ssim", "kid"))
        nats, collapsed = of["nats_per_latent"], of["collapsed_channels"]
        size = f"{of['floats']:,} numbers" if of["indices"] is None else f"{of['indices']:,} indices"
        lines.append([of["tokenizer"], size, f"{of['bits']:,}", f"{of['steps']:,}", f"{psnr:.1f}", f"{ssim:.3f}", f"{1000 * kid:.1f}",
                      "–" if nats is None else f"{nats:.2f}", "–" if collapsed is None else str(collapsed)])
    return markdown(header, lines)


def tokenizer_sentence(study: dict[str, Any]) -> str:
    """Which of KL-8 and KL-16, of as many numbers, keeps more; which code says least, and which channels say nothing."""
    psnr = {of["tokenizer"]: np.mean([q["psnr"] for q in of["quality"].values()]) for of in study["tokenizers"]}
    floats = {of["tokenizer"]: of["floats"] for of in study["tokenizers"]}
    best, other = sorted(("KL-8", "KL-16"), key=psnr.get, reverse=True)
    said = {of["tokenizer"]: of["bits"] if of["indices"] else of["nats_per_latent"] * of["floats"] / np.log(2)
            for of in study["tokenizers"] if of["indices"] or of["nats_per_latent"] is not None}     # KL: bits told, not stored
    quietest = min(said, key=said.get)
    dead = [f"{of['collapsed_channels']} channels of {of['tokenizer']}" for of in study["tokenizers"] if of["collapsed_channels"]]
    return (f"{best} keeps more in {floats[best]:,} numbers than {other} in {floats[other]:,}: {psnr[best]:.1f} against "
            f"{psnr[other]:.1f} dB. {quietest} says least: {said[quietest]:.0f} bits a slice. Channels collapsed (below 0.01 nat a latent): {', '.join(dead) or 'none'}.")


def time_to(results: Sequence[dict[str, Any]], psnr: float, fused: bool = False) -> dict[str, float]:
    """Training time [processor s] after which each method reaches a PSNR [dB], means over directions (or fusions) and seeds.

    Between two budgets: a straight line over the logarithm of time. NaN: outside the budgets of the results; never extrapolated.
    """
    found = {}
    for method in dict.fromkeys(name for r in results for name in r["scores"]):
        of_budget: dict[float, list[tuple[float, float]]] = {}
        for r in (r for r in results if method in r["scores"]):
            point = math.log(r["budget"]), mean_over(r["scores"][method], "psnr", fused)
            of_budget.setdefault(r["seconds"], []).append(point)
        log_times, reached = np.transpose([np.mean(of_budget[seconds], 0) for seconds in sorted(of_budget)])
        found[method] = float(np.exp(np.interp(psnr, reached, log_times, left=np.nan, right=np.nan)))
    return found


def draw_budget(results: Sequence[dict[str, Any]]) -> Figure:
    """PSNR and SSIM of every method against the training time: lines are means over seeds, points the seeds."""
    figure, axes = new_figure(3.6, 1, 2)
    budgets = sorted({r["seconds"] for r in results})
    spent = [np.mean([r["budget"] for r in results if r["seconds"] == seconds]) for seconds in budgets]
    for ax, metric in zip(np.ravel(axes), ("psnr", "ssim")):
        for method in dict.fromkeys(name for result in results for name in result["scores"]):
            points = sorted((r["seconds"], r["budget"], mean_over(r["scores"][method], metric)) for r in results
                            if method in r["scores"])
            line = [np.mean(of_budget, 0) for seconds in budgets if (of_budget := [p[1:] for p in points if p[0] == seconds])]
            ax.plot(*np.transpose(line), color=COLOURS[method], label=NAMES.get(method, method))
            ax.plot(*np.transpose([p[1:] for p in points]), ".", color=COLOURS[method], markersize=4)
        ax.set_xscale("log")
        ax.set_xticks(spent, [f"{seconds:.0f}" for seconds in spent])
        ax.minorticks_off()
        plain_axes(ax, "training time [processor s], logarithmic", COLUMNS[metric][0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    ahead = [np.mean([mean_over(r["scores"]["vaelite"], "psnr") - mean_over(r["scores"]["control"], "psnr") for r in results
                      if r["seconds"] == seconds]) for seconds in budgets]
    steps = ", ".join(f"{gap:+.1f} dB after {time:.0f} s" for gap, time in zip(ahead, spent))
    headline(figure, f"The method against its stage 3 without latents: {steps} (mean over directions, "
                     f"{results[0]['test_patients']} test patients)")
    return figure
