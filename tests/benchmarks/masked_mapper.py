"""Is a mapper that learns with part of the target shown, and draws, worth its time? Against the plain one.

    python tests/benchmarks/masked_mapper.py DATA [--steps 400] [--size 64] [--slice-step 4] [--seeds 0 1 2] [--out RESULT.json]

Both mappers of a seed share its VAE, slices, recipe and number of steps; the processor seconds of each are printed, and tell
more than the clock on a machine that others use. Judged on the validation patients through the
stage-1 decoder: latent L1 [SD of a latent], MAE [% of the range], PSNR [dB] of each patient's mean squared error and SSIM
(2-D) of whole slices in [-1, 1]; means over patients, then over directions. Of several samples: the mean of their latents
and of their images. patches: Spearman's rank correlation of spread and error, 8 x 8 pixels in the body. spread : error, RMS:
1 if the spread of the samples is honest, of single latents and of their mean over a slice. "8 x 1 rounds": 8 samples, each
drawn in one round.
"""
from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import SliceSet, thinned
from vaelite.evaluation.images import judge_interval
from vaelite.models.losses import ssim_2d
from vaelite.models.masked import MaskedMapper, random_order, shown
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import load_mapped, stage_slices, train_mapper, train_vae
from vaelite.translate import Translator, task_name

SAMPLES = 8
COLUMNS = {"latent_l1": ".3f", "mae": ".2f", "psnr": ".2f", "ssim": ".4f", "patches": ".2f", "latent": ".2f", "slice_mean": ".2f"}


@torch.no_grad()
def judge(translator: Translator, plain, slices: SliceSet, source: str, target: str) -> dict[str, dict[str, float]]:
    """All methods on one direction; the translator's mapper is the masked one."""
    vae, mapper, generator = translator.vae, translator.mapper, torch.Generator().manual_seed(0)
    s, t = MODALITIES.index(source), MODALITIES.index(target)
    stack, given, to = translator.read(slices.x[:, [s]].float(), (source,), target)
    task = translator.encode(stack, given), given, to
    x = slices.x[:, [t]].float()
    z = vae.encode(x).mean
    drawn = {rounds: torch.stack([mapper.sample(*task, rounds, generator) for _ in range(SAMPLES)]) for rounds in (1, 8)}
    latents = {"ridge": mapper.ridge_latents(*task)[None], "plain mapper": plain(*task)[None],
               "masked, nothing shown": mapper(*task)[None]}
    for count in (1, SAMPLES):
        latents |= {f"masked, {count} x {rounds} rounds": drawn[rounds][:count] for rounds in drawn}
    found = {}
    for name, some in latents.items():
        images = torch.stack([vae.decode(one).clamp(-1, 1) for one in some])
        found[name] = image_scores(images.mean(0), x, slices.case)
        found[name]["latent_l1"] = float(((some.mean(0) - z) / mapper.latent_deviation).abs().mean())
        if len(some) > 1:
            found[name] |= {"patches": patch_rank(images.mean(0), x, images.std(0), slices.mask), "latent": honesty(some, z),
                            "slice_mean": honesty(some.mean((-2, -1)), z.mean((-2, -1)))}
    found["masked, nothing shown"]["patches"] = patch_rank(vae.decode(mapper(*task)), x, own_scale(mapper, *task, vae.config.factor), slices.mask)
    return found | hidden_errors(mapper, *task, z, generator)


def image_scores(drawn: Tensor, wanted: Tensor, case: Tensor) -> dict[str, float]:
    """Means over patients; images (n, 1, h, w), case (n,)."""
    of_patient = [(drawn[case == patient], wanted[case == patient]) for patient in case.unique()]
    values = {"mae": [50 * (a - b).abs().mean() for a, b in of_patient],
              "psnr": [10 * torch.log10(4 / (a - b).square().mean()) for a, b in of_patient],
              "ssim": [ssim_2d(a, b).mean() for a, b in of_patient]}
    return {name: float(torch.stack(of_metric).mean()) for name, of_metric in values.items()}


def hidden_errors(mapper: MaskedMapper, z: Tensor, given: Tensor, target: Tensor, wanted: Tensor, generator: torch.Generator,
                  ) -> dict[str, dict[str, float]]:
    """Latent L1 of the same half of the tokens without and with the true other half: what drawing in turn could gain at best."""
    sources = mapper.normalise(z, given)
    rest = (wanted - mapper.latent_mean) / mapper.latent_deviation - mapper.ridge(sources, given, target)
    visible = shown(random_order(rest, generator), torch.tensor(2 / 3))          # cos 60 degrees is one half
    found = {}
    for name, seen in (("nothing", torch.zeros_like(visible)), ("the true other half", visible)):
        error = (mapper.density(sources, rest, seen, given, target)[0] - rest)[~visible.expand_as(rest)]
        found[f"masked, half of the tokens, {name} shown"] = {"latent_l1": float(error.abs().mean())}
    return found


def own_scale(mapper: MaskedMapper, z: Tensor, given: Tensor, target: Tensor, factor: int) -> Tensor:
    """The Laplace scale that the head itself gives with nothing shown, mean over channels, `factor` times as large: an image."""
    sources = mapper.normalise(z, given)
    nothing = torch.zeros_like(z[:, 0])
    log_scale = mapper.density(sources, nothing, nothing[:, :1].bool(), given, target)[1]
    return F.interpolate(log_scale.exp().mean(1, keepdim=True), scale_factor=factor)


def patch_rank(drawn: Tensor, wanted: Tensor, spread: Tensor, mask: Tensor) -> float:
    judged = judge_interval(wanted[:, 0].numpy(), drawn[:, 0].numpy(), spread[:, 0].numpy(), mask.numpy())
    return judged["spearman", "1", "8 x 8 pixels in the body"]


def honesty(draws: Tensor, wanted: Tensor) -> float:
    """Spread of the draws (s, ...) over the error of their mean, both RMS; the error of a mean of s has itself 1/s more."""
    error = (draws.mean(0) - wanted).square().mean() / (1 + 1 / len(draws))
    return float((draws.var(0).mean() / error).sqrt())


def compare(options: argparse.Namespace, seed: int) -> dict:
    knobs = {"data.size": options.size, "data.slice_step": options.slice_step, "seed": seed,
             "vae_fit.steps": options.steps, "mapper_fit.steps": options.steps}
    cfg, cases, quiet = profile("laptop", **knobs), load_cases(options.data), lambda *progress: None
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run")
        train_vae(cfg, cases, run, quiet)
        start = time.process_time()
        plain = train_mapper(cfg, cases, run, quiet)
        between = time.process_time()
        train_mapper(profile("laptop", **knobs | {"mapper.masked": True}), cases, run, quiet)
        seconds = {"plain": between - start, "masked": time.process_time() - between}
        translator = load_mapped(run)
    slices = thinned(stage_slices(cfg, cases, "validation"), 32)
    of_direction = {}
    for source, target in translator.directions():
        both = slices.have[:, [MODALITIES.index(source), MODALITIES.index(target)]].all(1)
        some = SliceSet(slices.x[both], slices.have[both], slices.mask[both], slices.case[both], slices.names)
        of_direction[task_name(source, target)] = judge(translator, plain, some, source, target)
    methods = next(iter(of_direction.values()))
    means = {method: {name: sum(found[method][name] for found in of_direction.values()) / len(of_direction)
                      for name in COLUMNS if name in methods[method]} for method in methods}
    return {"seed": seed, "cpu_seconds": seconds, "slices": len(slices), "mean": means}


def table(results: list[dict]) -> str:
    """Mean over the seeds; for more than one, the standard deviation of one of them."""
    lines = ["| method | latent L1 | MAE [%] | PSNR [dB] | SSIM | patches | spread : error | of the slice's mean |",
             "|--|--|--|--|--|--|--|--|"]
    for method, first in results[0]["mean"].items():
        cells = []
        for name, form in COLUMNS.items():
            found = torch.tensor([result["mean"][method].get(name, float("nan")) for result in results])
            spread = f" ± {float(found.std()):{form}}" if len(found) > 1 else ""
            cells.append(f"{float(found.mean()):{form}}{spread}" if name in first else "–")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--slice-step", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    about = {"data": options.data.name, "size": options.size, "steps": options.steps, "slice_step": options.slice_step,
             "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
    results = []
    for seed in options.seeds:
        results.append(compare(options, seed))
        print(f"seed {seed}, seconds of processor time: {results[-1]['cpu_seconds']}\n{table(results)}", flush=True)
        if options.out:
            short = json.loads(json.dumps(results), parse_float=lambda text: round(float(text), 4))
            options.out.write_text(json.dumps(about | {"results": short}, indent=1) + "\n")


if __name__ == "__main__":
    main()
