"""Which method wins at equal training time? One JSON of results a call, and a figure of many.

    python tests/benchmarks/compare_methods.py train DATA OUT.json --seconds 220 --seed 0 [--size 64] [--paired 8]
    python tests/benchmarks/compare_methods.py add-pairs DATA RESULT.json
    python tests/benchmarks/compare_methods.py draw FIGURE.png RESULT.json ... [--reach 26]

Seconds are processor seconds (of all threads; on a GPU seconds). Stages 1 and 2 get SHARES of them, stage 3 the rest; every
network in image space gets as many as the three then took together (closed forms, encoding and validation counted). Same
training slices, image loss, mirroring and running mean for all; same tasks but for a U-Net a direction, which sees one source.
`--paired N`: only the first N training patients have pairs; the others train stage 1 alone. `--residual-mm R`: all but the CT
of the training and validation patients are shifted by R in plane, as a registration leaves them; the test patients are not.
`add-pairs` trains a U-Net a direction, with the budget and seed of a result that has none, and writes them into it. Judged on
the test patients; nothing is chosen on them: the recipe is the profile's, SHARES and the decoder of each direction come from
validation. To choose a recipe: `--judge validation --set unet_fit.learning_rate=0.004`.
"""
from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from vaelite.__main__ import knob_and_value
from vaelite.data.cases import Case, load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import SliceSet, load_slices
from vaelite.errors import VaeliteError
from vaelite.evaluation.studies import draw_budget, study_table, time_to
from vaelite.models.baselines import BASELINES, UNet
from vaelite.models.losses import image_loss, ssim_2d
from vaelite.models.vae import VAE
from vaelite.profiles import Config, override, profile
from vaelite.runs import Run, open_run
from vaelite.stages import (
    finetune_decoder,
    load_translator,
    mirrored,
    resolve_device,
    split,
    stage_slices,
    train_baseline,
    train_mapper,
    train_vae,
)
from vaelite.training.train import directions, fit
from vaelite.translate import Translator, task_name

SHARES = {"vae_fit": 0.05, "mapper_fit": 0.05}               # of the chain's seconds, chosen on validation; our choice
METHODS = ("vaelite", "control", "unet", "pairs", "ridge", "copy")


class PairUNets(nn.Module):
    """One U-Net a direction, as most translators of the literature: x (b, m, H, W), given (b, m), target (b,)."""

    def __init__(self, config, pairs: list[tuple[int, int]]):
        super().__init__()
        self.pairs = pairs
        self.networks = nn.ModuleDict({f"{s}>{t}": UNet(config) for s, t in pairs})

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        (s,), (t,) = given.any(0).nonzero()[:, 0].tolist(), target.unique().tolist()       # one direction a call
        return self.networks[f"{s}>{t}"](x, given, target)


def train_pairs(cfg: Config, cases: list[Case], seconds: float) -> PairUNets:
    """The total budget shared evenly between the directions."""
    torch.manual_seed(cfg.seed)
    slices, generator = stage_slices(cfg, cases, "train"), torch.Generator().manual_seed(cfg.seed)
    pairs, device = directions(slices.have), resolve_device(cfg.device)
    networks = PairUNets(cfg.unet, pairs).to(device)
    for s, t in pairs:
        both = (slices.have[:, s] & slices.have[:, t]).nonzero()[:, 0]

        def batch_loss(s: int = s, t: int = t, both: Tensor = both) -> dict[str, Tensor]:
            rows = both[torch.randint(len(both), (cfg.unet_fit.batch,), generator=generator)]
            x = mirrored(slices.x[rows], torch.randint(2, rows.shape, generator=generator)).to(device)
            given = torch.zeros(len(rows), len(MODALITIES), dtype=torch.bool, device=device)
            given[:, s] = True
            drawn = networks.networks[f"{s}>{t}"](x, given, torch.full((len(rows),), t, device=device))
            return {"loss": image_loss(drawn, x[:, t][:, None], cfg.loss.ssim)}

        recipe = replace(cfg.unet_fit, processor_seconds=seconds / len(pairs))
        fit(networks.networks[f"{s}>{t}"], batch_loss, recipe, name=f"{s}>{t}")
    return networks.eval()


@torch.no_grad()
def scores(translator: Translator, slices: SliceSet, method: str) -> dict[str, dict[str, float]]:
    """{task: {"mae", "psnr", "ssim"}} of whole slices in [-1, 1]: MAE as a share of the range, PSNR [dB] of each patient's
    mean squared error, SSIM 2-D; means over patients. Tasks: every direction, and all other modalities at once."""
    found = {}
    tasks = [((s,), t) for s, t in translator.directions()]
    tasks += translator.fusions() if method not in ("copy", "pairs") else ()
    for sources, target in tasks:
        s, t = [MODALITIES.index(source) for source in sources], MODALITIES.index(target)
        of_patient = defaultdict(list)
        rows = slices.have[:, [*s, t]].all(1)
        drawn = translator.slices(slices.x[rows][:, s], sources, target, method)
        wanted = slices.x[rows, t][:, None].float()
        for patient in slices.case[rows].unique():
            a, b = (x[slices.case[rows] == patient] for x in (drawn, wanted))
            of_patient["mae"].append(float((a - b).abs().mean()) / 2)
            of_patient["psnr"].append(float(10 * torch.log10(4 / (a - b).square().mean())))
            of_patient["ssim"].append(float(ssim_2d(a, b).mean()))
        found[task_name(sources, target)] = {name: round(sum(values) / len(values), 6) for name, values in of_patient.items()}
    return found


def misregistered(data: Path, folder: Path, residual_mm: float, seed: int) -> Path:
    """A copy of a data set in which what is not CT lies `residual_mm` beside it, in plane, in a direction of its own for each
    volume (linear interpolation); the test patients stay as they are."""
    shutil.copytree(data, folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    for entry in manifest["cases"]:
        entry.pop("sha256", None)                            # of the files before the shift
    (folder / "dataset.json").write_text(json.dumps(manifest))
    generator = np.random.default_rng(seed)
    for case in load_cases(folder):
        for modality in (m for m in case.modalities if m != "CT" and case.split != "test"):
            angle, image = generator.uniform(0, 2 * np.pi), nib.load(case.path(modality))
            xyz = np.array([np.cos(angle), np.sin(angle), 0]) * residual_mm / np.array(image.header.get_zooms()[:3])
            moved = ndimage.shift(image.get_fdata(dtype=np.float32), xyz, order=1, mode="nearest")
            nib.save(nib.Nifti1Image(moved, image.affine), case.path(modality))
    return folder


def train_chain(cases: list[Case], run: Run, seconds: float, paired: int, **knobs: Any) -> tuple[Config, list[Case], float]:
    """The three stages within a budget -> configuration, the cases stages 2 and 3 saw, and the seconds it took."""
    cfg = profile("laptop", **{f"{name}.processor_seconds": share * seconds for name, share in SHARES.items()} | knobs)
    training = split(cases, "train")
    few = [case for case in cases if case.split != "train"] + training[:paired or None]
    train_vae(cfg, cases, run)
    train_mapper(cfg, few, run)
    used = {name: run.stages[name]["processor_seconds"] for name in ("vae", "mapper")}
    again = used["mapper"] - run.stages["mapper"]["history"][-1]["processor_seconds"]    # stage 3 encodes the same
    rest = seconds - sum(used.values()) - again
    if rest < 0.3 * seconds:
        raise VaeliteError(f"{seconds:g} s are too few for so many slices: loading and closed forms take most of them.")
    cfg = override(cfg, {"decoder_fit.processor_seconds": rest})
    finetune_decoder(cfg, few, run)
    return cfg, few, sum(run.stages[name]["processor_seconds"] for name in ("vae", "mapper", "decoder"))


def compare(data: Path, run: Run, size: int, seconds: float, seed: int, paired: int, methods: list[str],
            judged: str = "test", **knobs: Any) -> dict:
    """Train and judge the methods; see the module."""
    cases = load_cases(data)
    cfg, few, budget = train_chain(cases, run, seconds, paired, **{"data.size": size, "seed": seed} | knobs)
    for name in BASELINES:
        if name in methods:
            train_baseline(name, cfg, few, run)
    translator = load_translator(run, cfg)
    if "pairs" in methods:
        translator.baselines["pairs"] = train_pairs(cfg, few, budget)
    slices = load_slices(split(cases, judged), size)
    return {"data": data.name, "size": size, "seconds": seconds, "budget": budget, "seed": seed,
            "paired": len(split(few, "train")), "shares": SHARES, "threads": torch.get_num_threads(),
            "date": time.strftime("%Y-%m-%d"), f"{judged}_patients": len(slices.names), "set": knobs,
            "steps": {name: stage["steps"] for name, stage in run.stages.items()},
            "scores": {method: scores(translator, slices, method) for method in methods}}


def add_pairs(data: Path, result: dict) -> dict:
    """The result with "pairs" beside its other methods: of the chain nothing but its time enters them."""
    cfg = profile("laptop", **{"data.size": result["size"], "seed": result["seed"]})
    cases = load_cases(data)
    training = split(cases, "train")[:result["paired"]]
    networks = train_pairs(cfg, training, result["budget"])
    names = tuple(task_name(MODALITIES[s], MODALITIES[t]) for s, t in networks.pairs)
    vae = VAE(cfg.vae).to(resolve_device(cfg.device))        # it draws nothing here, but says where the networks are
    translator = Translator(vae, None, None, cfg.data.size, MODALITIES, names, baselines={"pairs": networks})
    test = load_slices(split(cases, "test"), cfg.data.size)
    found = result["scores"] | {"pairs": scores(translator, test, "pairs")}
    return result | {"pairs_date": time.strftime("%Y-%m-%d"), "scores": found}


def train_command(commands, seconds: float) -> argparse.ArgumentParser:
    """`train DATA OUT.json` with the knobs that every comparison has; seconds: its default."""
    sub = commands.add_parser("train")
    sub.add_argument("data", type=Path)
    sub.add_argument("out", type=Path)
    sub.add_argument("--size", type=int, default=64)
    sub.add_argument("--seconds", type=float, default=seconds)
    sub.add_argument("--seed", type=int, default=0)
    return sub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = train_command(commands, seconds=220.0)
    sub.add_argument("--paired", type=int, default=0, help="training patients with pairs; 0: all")
    sub.add_argument("--residual-mm", type=float, default=0.0, help="misregistration of the training pairs")
    sub.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    sub.add_argument("--judge", default="test", choices=("validation", "test"), help="the patients to judge on")
    sub.add_argument("--set", nargs="*", default=[], metavar="KNOB=VALUE", help="change single knobs of the profile")
    sub = commands.add_parser("add-pairs")
    sub.add_argument("data", type=Path)
    sub.add_argument("result", type=Path)
    sub = commands.add_parser("draw")
    sub.add_argument("figure", type=Path)
    sub.add_argument("results", nargs="+", type=Path)
    sub.add_argument("--reach", type=float, help="how long each method takes to this PSNR [dB], from one source")
    options = parser.parse_args()
    if options.command == "train":
        with tempfile.TemporaryDirectory() as folder:
            data = options.data
            if options.residual_mm:
                data = misregistered(data, Path(folder) / data.name, options.residual_mm, options.seed)
            result = compare(data, open_run(Path(folder) / "run"), options.size, options.seconds, options.seed, options.paired,
                             options.methods, options.judge, **dict(map(knob_and_value, options.set)))
            result["residual_mm"] = options.residual_mm
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        print(study_table([result]))
    elif options.command == "add-pairs":
        result = json.loads(options.result.read_text())
        if "pairs" in result["scores"] or result["residual_mm"]:
            raise VaeliteError(f"{options.result} has its U-Nets a direction already, or is of shifted pairs: nothing to add.")
        if (result["data"], result["threads"]) != (options.data.name, torch.get_num_threads()):
            raise VaeliteError(f"{options.result} is of {result['data']} with OMP_NUM_THREADS={result['threads']}: give these.")
        options.result.write_text(json.dumps(add_pairs(options.data, result), indent=1) + "\n")
    else:
        results = [json.loads(path.read_text()) for path in options.results]
        draw_budget(results).savefig(options.figure, dpi=150)
        for seconds in sorted({r["seconds"] for r in results}):
            some = [r for r in results if r["seconds"] == seconds]
            print(f"\n{seconds:g} s nominal, n = {len(some)} seeds\n\n{study_table(some)}")
        if options.reach:
            print(f"\nprocessor seconds to {options.reach:g} dB (nan: outside the budgets):", time_to(results, options.reach))


if __name__ == "__main__":
    main()
