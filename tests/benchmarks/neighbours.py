"""Do the neighbouring slices as further inputs (2.5-D) calm the jump from slice to slice, at equal training time?

    python tests/benchmarks/neighbours.py DATA OUT.json [--seconds 60] [--size 64] [--seeds 0] [--methods control ...]

The no-latent control as shipped, and with the slices below and above of every source: "neighbours" shows them to the U-Net alone,
"neighbours, linear start too" also filters them in the closed form (a neighbour then is a further modality). All get the same
processor seconds, slices (every data.slice_step-th; their neighbours come from the full stack), tasks, mirroring and loss. A
null: "control, smoothed", the control's volumes filtered with 1/4, 1/2, 1/4 along z. OUT.json is added to if it exists.

Judged on whole volumes, slice step 1, mean over the directions, one value a patient. MAE, PSNR and SSIM (2-D) as in
compare_methods; in the body p(z + 1) - p(z) is the jump of a drawing p, of the reference r likewise:
jump = mean |jump of p| / mean |jump of r| (1 is right, below 1 too smooth); jump error = mean |jump of p - jump of r|, in % of
the range.
"""
from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import SliceSet, load_slices
from vaelite.models.baselines import NoLatentControl
from vaelite.models.layers import in_slot, only, zero
from vaelite.models.losses import image_loss, ssim_2d
from vaelite.models.unet import ConditionedUNet, UNetConfig
from vaelite.profiles import Config, profile
from vaelite.stages import draw_share, mirrored, sample_tasks, split
from vaelite.training.train import clocks, directions, fit

METRICS = {"mae": ".3f", "psnr": ".2f", "ssim": ".4f", "jump": ".3f", "jump_error": ".3f"}
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]            # x (b, k m, H, W), given (b, k m), target (b,) -> (b, 1, H, W)
M = len(MODALITIES)


class WideControl(NoLatentControl):
    """The control whose U-Net sees k slices of each source, the slice itself first; the linear start filters that one alone."""

    def __init__(self, config: UNetConfig, k: int):
        super().__init__(config)
        self.guided.unet = ConditionedUNet(k * M + 2, 3, config)
        zero(self.guided.unet.unet.final_conv)

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        air = torch.full_like(x[:, :1], -1.0)
        blend = self.guided.blend(air, x[:, :M], given[:, :M], target)
        images = torch.cat([only(x, given, absent=-1.0), air, blend], 1)
        gain, detail, _ = self.guided.unet(images, self.guided.guidance(given[:, :M], target)).chunk(3, dim=1)
        return (1 + gain) * (blend + 1) - 1 + detail

    def fit_blend(self, x: Tensor, wanted: Tensor, mask: Tensor, given: Tensor, target: int) -> None:
        super().fit_blend(x[:, :M], wanted, mask, given[:M], target)


METHODS: dict[str, tuple[int, Callable[[UNetConfig], nn.Module]]] = {        # slices of a source that it reads; network
    "control": (1, NoLatentControl),
    "neighbours": (3, lambda config: WideControl(config, 3)),
    "neighbours, linear start too": (3, lambda config: NoLatentControl(replace(config, modalities=3 * M)))}


def neighbours(case: Tensor) -> Tensor:
    """Rows of a slice itself, the one below and the one above: case (n,) -> (n, 3). At the end of a volume, the slice itself."""
    rows = torch.arange(len(case))
    below, above = (rows - 1).clamp_min(0), (rows + 1).clamp_max(len(case) - 1)
    return torch.stack([rows, *(torch.where(case[other] == case, other, rows) for other in (below, above))], 1)


def training_slices(full: SliceSet, step: int) -> tuple[SliceSet, Tensor]:
    """What every network of the kit trains on, every step-th slice with body, and the rows (n, 3) of their context in `full`."""
    rows = full.mask.any((1, 2)).nonzero()[::step, 0]
    some = replace(full, x=full.x[rows], have=full.have[rows], mask=full.mask[rows], case=full.case[rows])
    return some, neighbours(full.case)[rows]


def stacked(x: Tensor, rows: Tensor) -> Tensor:
    """Slices x (n, m, H, W) and their context by rows (b, k) -> (b, k m, H, W), the slices themselves first."""
    return rearrange(x[rows], "b k m h w -> b (k m) h w")


def train(network: nn.Module, cfg: Config, slices: SliceSet, full: Tensor, context: Tensor, seconds: float) -> int:
    """Closed form, then steps until `seconds` are spent -> number of steps. slices: those to learn from; context: (n, k), their
    rows and those of their neighbours in full (N, m, H, W)."""
    generator, k = torch.Generator().manual_seed(cfg.seed), context.shape[1]
    start = clocks("cpu")[1]
    for rows, given, target in sample_tasks(slices, generator):
        x = stacked(full, context[rows]).float()
        network.fit_blend(x, x[:, target[0]][:, None], slices.mask[rows], given[0].repeat(k), int(target[0]))

    def batch_loss() -> dict[str, Tensor]:
        rows, given, target, mirror = draw_share(slices, cfg.control_fit.batch, generator, cfg.data.fused)
        x = mirrored(stacked(full, context[rows]), mirror)
        drawn = network(x, given.repeat(1, k), target)
        return {"loss": image_loss(drawn, x[torch.arange(len(x)), target][:, None], cfg.loss.ssim)}

    left = seconds - (clocks("cpu")[1] - start)              # a closed form is training too
    return fit(network, batch_loss, replace(cfg.control_fit, processor_seconds=left)).steps


@torch.no_grad()
def scores(draw: Draw | None, full: SliceSet, k: int = 1) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """{metric: one value a patient} of every slice that holds body, and the same of the drawings smoothed along z.

    draw: None copies the source.
    """
    rows = full.mask.any((1, 2)).nonzero()[:, 0]
    context, case = neighbours(full.case)[rows, :k], full.case[rows]
    found = [{name: defaultdict(list) for name in METRICS} for _ in range(2)]
    for s, t in directions(full.have):
        drawn = full.x[rows, s].float()
        if draw:
            given = in_slot(drawn[:1], torch.tensor([s]))[1].repeat(1, k)
            drawn = torch.cat([draw(stacked(full.x, some).float(), given.expand(len(some), -1), torch.full((len(some),), t))
                               for some in context.split(8)])[:, 0].clamp(-1, 1)
        smooth = (drawn[neighbours(case)] * torch.tensor([0.5, 0.25, 0.25]).view(3, 1, 1)).sum(1)
        for patient in case[full.have[rows][:, [s, t]].all(1)].unique():
            its = case == patient
            wanted, mask = full.x[rows[its], t].float(), full.mask[rows[its]]
            for of_metric, images in zip(found, (drawn, smooth)):
                for name, value in judge(images[its], wanted, mask, rows[its]).items():
                    of_metric[name][int(patient)].append(value)
    return tuple({name: [sum(values) / len(values) for values in of_patient.values()] for name, of_patient in one.items()}
                 for one in found)


def judge(drawn: Tensor, wanted: Tensor, mask: Tensor, z: Tensor) -> dict[str, float]:
    """One patient, one direction: slices (n, H, W) in [-1, 1], their body, and their numbers z (n,), which may leave gaps."""
    together = (z.diff() == 1)[:, None, None] & mask[1:] & mask[:-1]
    jump, true_jump = (x.diff(dim=0)[together] for x in (drawn, wanted))
    return {"mae": 50 * float((drawn - wanted).abs().mean()),
            "psnr": float(10 * torch.log10(4 / (drawn - wanted).square().mean())),
            "ssim": float(ssim_2d(drawn[:, None], wanted[:, None]).mean()),
            "jump": float(jump.abs().mean() / true_jump.abs().mean()), "jump_error": 50 * float((jump - true_jump).abs().mean())}


def table(results: list[dict]) -> str:
    """Mean ± SD over patients of their means over seeds; then what neighbours change, patient by patient, in %."""
    lines, of_method = [], defaultdict(list)
    for result in results:
        of_method[result["method"]].append(result)
    for of_split in ("validation", "test"):
        n = len(results[0]["scores"][of_split]["mae"])
        lines += ["", f"{of_split}, n = {n} patients", "", "| method | steps, seed by seed | MAE [% of range] | PSNR [dB] | SSIM "
                  "| jump | jump error [% of range] |", "|--|--|--|--|--|--|--|"]
        for method, some in of_method.items():
            cells = [", ".join(str(result["steps"]) for result in some)]
            for name, form in METRICS.items():
                values = torch.tensor([result["scores"][of_split][name] for result in some]).mean(0)
                cells.append(f"{float(values.mean()):{form}} ± {float(values.std()):{form}}")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
        plain = {result["seed"]: result["scores"][of_split] for result in of_method["control"]}
        for result in (result for result in results if "neighbours" in result["method"] and result["seed"] in plain):
            for name in ("mae", "jump_error"):
                after, before = (torch.tensor(scores[name]) for scores in (result["scores"][of_split], plain[result["seed"]]))
                change = 100 * (after / before - 1)
                lines.append(f"{result['method']}, seed {result['seed']}: {name} changes by {float(change.mean()):+.1f} ± "
                             f"{float(change.std()):.1f} %")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    about = {"data": options.data.name, "size": options.size, "seconds": options.seconds, "threads": torch.get_num_threads(),
             "date": time.strftime("%Y-%m-%d")}
    results = json.loads(options.out.read_text())["results"] if options.out.exists() else []
    of_split = {name: load_slices(split(load_cases(options.data), name), options.size, skip_empty=False)
                for name in ("train", "validation", "test")}
    full = of_split.pop("train")

    def keep(method: str, seed: int | None, steps: int, found: dict[str, dict[str, list[float]]]) -> None:
        short = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))
        results.append({"method": method, "seed": seed, "steps": steps, "scores": short})
        options.out.write_text(json.dumps(about | {"results": results}) + "\n")

    if not results:
        keep("copy", None, 0, {name: scores(None, some)[0] for name, some in of_split.items()})
    for seed in options.seeds:
        for method in options.methods:
            cfg = profile("laptop", **{"data.size": options.size, "seed": seed, "device": "cpu"})
            slices, context = training_slices(full, cfg.data.slice_step)
            torch.manual_seed(seed)
            k, build = METHODS[method]
            network = build(cfg.control)
            steps = train(network, cfg, slices, full.x, context[:, :k], options.seconds)
            found = {name: scores(network, some, k) for name, some in of_split.items()}
            keep(method, seed, steps, {name: plain for name, (plain, _) in found.items()})
            if method == "control":
                keep("control, smoothed", seed, steps, {name: smooth for name, (_, smooth) in found.items()})
    print(table(results))


if __name__ == "__main__":
    main()
