"""Do the neighbouring slices as further inputs (2.5-D) calm the jump from slice to slice, at equal training time?

    python tests/benchmarks/neighbours.py DATA [--seconds 60] [--size 64] [--seeds 0] [--chain] [--out RESULT.json]

The no-latent control as shipped, and with the slices below and above of every source; with --chain stage 3 of the method too.
A neighbour counts as a further modality, given where its own is, so the linear start filters it as well. All networks get the
same processor seconds, slices (every data.slice_step-th; their neighbours come from the full stack), tasks, mirroring and
loss; the two of stage 3 share their VAE and mapper, and encode the slices as they go. `control, smoothed` is a null: the
control's volumes filtered with 1/4, 1/2, 1/4 along z.

Judged on whole volumes, slice step 1, mean over the directions, one value a patient. MAE, PSNR and SSIM (2-D) as in
compare_methods; in the body p(z + 1) - p(z) is the jump of a drawing p, of the reference r likewise:
jump = mean |jump of p| / mean |jump of r| (1 is right, below 1 too smooth); jump error = mean |jump of p - jump of r|, in % of
the range.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from vaelite.baselines import NoLatentControl
from vaelite.cases import Case, load_cases
from vaelite.decoder import GuidedDecoder
from vaelite.intensity import MODALITIES
from vaelite.layers import in_slot
from vaelite.losses import image_loss, ssim_2d
from vaelite.profiles import Config, profile
from vaelite.runs import open_run
from vaelite.slices import SliceSet, load_slices
from vaelite.stages import draw_share, load_mapped, mirrored, sample_tasks, split, train_mapper, train_vae
from vaelite.train import FitConfig, clocks, directions, fit
from vaelite.translate import Translator

SHARES = {"vae_fit": 0.05, "mapper_fit": 0.1}                # of the chain's seconds, as in compare_methods
METRICS = {"mae": ".3f", "psnr": ".2f", "ssim": ".4f", "jump": ".3f", "jump_error": ".3f"}
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]            # x (b, k m, H, W), given (b, k m), target (b,) -> (b, 1, H, W)


class Chain(nn.Module):
    """Stage 3 on trained stages 1 and 2: they see the slices themselves, the first m of x, the guided decoder sees all."""

    def __init__(self, stages: Translator, cfg: Config, context: int):
        super().__init__()
        self.stages = stages                                 # frozen
        config = replace(cfg.decoder, modalities=context * len(MODALITIES))
        self.guided = GuidedDecoder(stages.vae.decoder, config, stages.mapper).requires_grad_(True)

    def mapped(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        x, given = x[:, : len(MODALITIES)], given[:, : len(MODALITIES)]
        with torch.no_grad():
            z = self.stages.encode(x, given).float()
        return self.guided.mapper(z, given, target)

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        mapped = self.mapped(x, given, target)
        return self.guided(mapped, self.stages.vae.linear_decode(mapped), x, given, target)[0]

    @torch.no_grad()
    def fit_blend(self, x: Tensor, wanted: Tensor, mask: Tensor, given: Tensor, target: int) -> None:
        task = given.expand(len(x), -1), torch.full((len(x),), target)
        self.guided.fit_blend(self.stages.vae.decode(self.mapped(x, *task)), x, wanted, mask, given, target)


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


def train(network: nn.Module, recipe: FitConfig, cfg: Config, slices: SliceSet, full: Tensor, context: Tensor,
          seconds: float) -> int:
    """Closed form, then steps until `seconds` are spent -> number of steps. slices: those to learn from; context: (n, k), their
    rows and those of their neighbours in full (N, m, H, W)."""
    generator, k = torch.Generator().manual_seed(cfg.seed), context.shape[1]
    start = clocks("cpu")[1]
    for rows, given, target in sample_tasks(slices, generator):
        x = stacked(full, context[rows]).float()
        network.fit_blend(x, x[:, target[0]][:, None], slices.mask[rows], given[0].repeat(k), int(target[0]))

    def batch_loss() -> dict[str, Tensor]:
        rows, given, target, mirror = draw_share(slices, recipe.batch, generator, cfg.data.fused)
        x = mirrored(stacked(full, context[rows]), mirror)
        drawn = network(x, given.repeat(1, k), target)
        return {"loss": image_loss(drawn, x[torch.arange(len(x)), target][:, None], cfg.loss.ssim)}

    return fit(network, batch_loss, replace(recipe, processor_seconds=seconds - (clocks("cpu")[1] - start))).steps


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


def compare(cases: list[Case], size: int, seconds: float, seed: int, chain: bool) -> dict:
    """Train and judge all methods of one seed."""
    knobs = {f"{name}.processor_seconds": share * seconds for name, share in SHARES.items()}
    cfg = profile("laptop", **knobs | {"data.size": size, "seed": seed, "device": "cpu"})
    full = load_slices(split(cases, "train"), size, skip_empty=False)
    slices, context = training_slices(full, cfg.data.slice_step)
    judged = {name: load_slices(split(cases, name), size, skip_empty=False) for name in ("validation", "test")}
    found, steps = {name: {"copy": scores(None, some)[0]} for name, some in judged.items()}, {}

    def run(name: str, network: nn.Module, recipe: FitConfig, k: int, left: float) -> None:
        steps[name] = train(network, recipe, cfg, slices, full.x, context[:, :k], left)
        for of_split, some in judged.items():
            found[of_split][name], smoothed = scores(network, some, k)
            if name == "control":
                found[of_split]["control, smoothed"] = smoothed

    for name, k in (("control", 1), ("control, neighbours", 3)):
        torch.manual_seed(seed)
        run(name, NoLatentControl(replace(cfg.control, modalities=k * len(MODALITIES))), cfg.control_fit, k, seconds)
    if chain:
        with tempfile.TemporaryDirectory() as folder:
            stages = open_run(Path(folder) / "run")
            train_vae(cfg, cases, stages)
            train_mapper(cfg, cases, stages)
            trained = load_mapped(stages, cfg)
            left = seconds - sum(stages.stages[name]["processor_seconds"] for name in ("vae", "mapper"))
        for name, k in (("stage 3", 1), ("stage 3, neighbours", 3)):
            torch.manual_seed(seed)
            run(name, Chain(trained, cfg, k), cfg.decoder_fit, k, left)
    return {"seed": seed, "steps": steps, "scores": found}


def table(results: list[dict]) -> str:
    """Mean ± SD over patients of their means over seeds; then the paired change that the neighbours bring, seed by seed."""
    lines = []
    for of_split, methods in results[0]["scores"].items():
        patients = len(methods["copy"]["mae"])
        lines += ["", f"{of_split}, n = {patients} patients, {len(results)} seeds", "",
                  "| method | MAE [% of range] | PSNR [dB] | SSIM | jump | jump error [% of range] |", "|--|--|--|--|--|--|"]
        for method in methods:
            cells = []
            for name, form in METRICS.items():
                values = torch.tensor([result["scores"][of_split][method][name] for result in results]).mean(0)
                cells.append(f"{float(values.mean()):{form}} ± {float(values.std()):{form}}")
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        for plain in [name for name in methods if f"{name}, neighbours" in methods]:
            for result in results:
                change = {name: percent(result["scores"][of_split], plain, name) for name in ("mae", "jump_error")}
                lines.append(f"{plain}, seed {result['seed']}: neighbours change " + ", ".join(
                    f"{name} by {float(c.mean()):+.2f} ± {float(c.std()):.2f} %" for name, c in change.items()))
    return "\n".join(lines)


def percent(methods: dict[str, dict[str, list[float]]], plain: str, metric: str) -> Tensor:
    """Change of a metric from a method to the same with neighbours [%], patient by patient."""
    before, after = (torch.tensor(methods[name][metric]) for name in (plain, f"{plain}, neighbours"))
    return 100 * (after / before - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--chain", action="store_true", help="stage 3 of the method too")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = {"data": options.data.name, "size": options.size, "seconds": options.seconds, "shares": SHARES,
             "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
    cases, results = load_cases(options.data), []
    for seed in options.seeds:
        results.append(compare(cases, options.size, options.seconds, seed, options.chain))
        print(f"seed {seed}, steps: {results[-1]['steps']}\n{table(results)}", flush=True)
        if options.out:
            short = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4))
            options.out.write_text(json.dumps(about | {"results": short}) + "\n")


if __name__ == "__main__":
    main()
