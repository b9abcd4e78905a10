"""Which part of the method earns its place? The three stages with one thing changed (two where it says so), at equal
training time.

    python tests/benchmarks/ablations.py train DATA OUT.json --seconds 60 --seed 0 [--size 64] [--only NAME ...]
    python tests/benchmarks/ablations.py table RESULT.json ...

Everything else as `compare_methods`: processor seconds, test patients, all directions. A change that takes time away from
each step leaves more steps: time is what is equal. One exception: a mapper that learns eight times as long, its extra time
given, so that stages 1 and 3 have as much as in the shipped method. "stage-1 decoder", "blend" and "fine-tuned" are the
decoders that the shipped method chooses from for each direction on validation, each used everywhere.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from compare_methods import SHARES, scores, train_chain, train_command
from torch import Tensor

from vaelite.data.cases import Case, load_cases
from vaelite.data.slices import load_slices
from vaelite.evaluation.studies import mean_over, study_table
from vaelite.models.decoder import GuidedDecoder
from vaelite.models.layers import Guidance
from vaelite.models.mapper import Block, LatentMapper
from vaelite.models.unet import UNetConfig
from vaelite.profiles import TOKENIZERS
from vaelite.runs import open_run
from vaelite.stages import load_translator, split

SHIPPED = "as shipped"
BOTH = "both: decoder fine-tuned, mapper finished"
GIFT, TIMES = "mapper trained 8 times as long, for free", 8
DECODERS = {SHIPPED: "vaelite", "stage-1 decoder": "mapped", "blend": "blended", "fine-tuned": "finetuned"}


FORWARD, FIT_BLEND = GuidedDecoder.forward, GuidedDecoder.fit_blend


def added_condition(self: Block, x: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
    """A block that is told the task by a vector added to its tokens, as a plain transformer is; gates all open."""
    x = x + condition[:, None]
    x = x + self.attend(self.norm1(x))
    image = x.transpose(1, 2).unflatten(2, grid)
    x = x + self.local(image).flatten(2).transpose(1, 2)
    return x + self.mlp(self.norm2(x))


@contextlib.contextmanager
def unseen(what: str) -> Iterator[None]:
    """Stage 3 with air in place of the "sources" or of what the "latents" decode to. Neither saves time: content, not cost."""
    def air(x: Tensor, name: str) -> Tensor:
        return torch.full_like(x, -1.0) if name == what else x

    def forward(self: GuidedDecoder, z: Tensor, linear: Tensor, x: Tensor, *task: Tensor) -> tuple[Tensor, Tensor]:
        return FORWARD(self, z, air(linear, "latents"), air(x, "sources"), *task)

    def fit_blend(self: GuidedDecoder, draft: Tensor, x: Tensor, *others) -> None:
        FIT_BLEND(self, air(draft, "latents"), air(x, "sources"), *others)

    with patch.object(GuidedDecoder, "forward", forward), patch.object(GuidedDecoder, "fit_blend", fit_blend):
        yield


@contextlib.contextmanager
def untold_target() -> Iterator[None]:
    """Stage 3 alone is not told which modality it draws; the mapper still is."""
    told = GuidedDecoder.__init__

    class SourcesOnly(Guidance):
        def forward(self, given: Tensor, target: Tensor) -> Tensor:
            return super().forward(given, torch.zeros_like(target))

    def init(self: GuidedDecoder, *args) -> None:
        told(self, *args)
        self.guidance.__class__ = SourcesOnly

    with patch.object(GuidedDecoder, "__init__", init):
        yield


def no_ridge(self: LatentMapper, sources: Tensor, given: Tensor, target: Tensor) -> Tensor:
    return sources.new_zeros(len(sources), self.config.latent_channels, *sources.shape[-2:])


def no_depthwise(self: Block, x: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
    """`Block.forward` without its depthwise convolution."""
    scale1, shift1, gate1, _, scale2, shift2, gate2 = self.modulation(F.silu(condition))[:, None].chunk(7, dim=-1)
    x = x + gate1 * self.attend(self.norm1(x) * (1 + scale1) + shift1)
    return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


ABLATIONS: dict[str, dict | Callable[[], contextlib.AbstractContextManager]] = {    # knobs, or a patch of the library
    SHIPPED: {},
    GIFT: {},
    "VAE from noise, no PCA start": {"vae.pca_start": False},
    "mapper from noise, no ridge start": lambda: patch.object(LatentMapper, "ridge", no_ridge),
    "condition added to tokens, no adaLN-Zero": lambda: patch.object(Block, "forward", added_condition),
    "no depthwise mixing": lambda: patch.object(Block, "forward", no_depthwise),
    "stage 3 does not see the sources": lambda: unseen("sources"),
    "stage 3 does not see the latents": lambda: unseen("latents"),
    "stage 3 is not told the target": untold_target,
    "stage 3 with the U-Net's widths and no stem": {"decoder.stem": UNetConfig.stem, "decoder.features": UNetConfig.features},
    "stage-1 decoder fine-tuned too": {"decoder.fine_tune": True},
    "mapper finished end to end": {"decoder.end_to_end": True},
    BOTH: {"decoder.fine_tune": True, "decoder.end_to_end": True},
    "4 latent channels (KL-8)": TOKENIZERS["KL-8"],
    "16x, 16 channels (KL-16)": TOKENIZERS["KL-16"],
}


def ablate(cases: list[Case], name: str, size: int, seconds: float, seed: int, methods: dict[str, str]) -> tuple[dict, float]:
    """Train with one change and judge -> {name: scores of all tasks}, and the processor seconds it took."""
    change = ABLATIONS[name]
    knobs = change if isinstance(change, dict) else {}
    if name == GIFT:
        shares = {stage: share * seconds for stage, share in SHARES.items()}
        shares["mapper_fit"] *= TIMES
        knobs = {f"{stage}.processor_seconds": value for stage, value in shares.items()}
        seconds += (1 - 1 / TIMES) * shares["mapper_fit"]
    with contextlib.nullcontext() if isinstance(change, dict) else change(), tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run")
        cfg, _, used = train_chain(cases, run, seconds, 0, **{"data.size": size, "seed": seed} | knobs)
        translator, test = load_translator(run, cfg), load_slices(split(cases, "test"), size)
        return {name: scores(translator, test, method) for name, method in methods.items()}, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sub = train_command(commands, seconds=60.0)
    sub.add_argument("--only", nargs="+", default=list(ABLATIONS), choices=list(ABLATIONS))
    sub = commands.add_parser("table")
    sub.add_argument("results", nargs="+", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(study_table([json.loads(path.read_text()) for path in options.results], "change"))
        return
    cases = load_cases(options.data)
    result = {"data": options.data.name, "size": options.size, "seconds": options.seconds, "seed": options.seed,
              "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d"), "budgets": {}, "scores": {}}
    for name in options.only:
        methods = DECODERS if name == SHIPPED else {name: "vaelite"}
        found, result["budgets"][name] = ablate(cases, name, options.size, options.seconds, options.seed, methods)
        result["scores"] |= found
        options.out.write_text(json.dumps(result, indent=1) + "\n")    # kept after each: the next may be interrupted
        print(f"{name}: {mean_over(found[next(iter(found))], 'psnr'):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
