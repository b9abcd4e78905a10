"""How the cost of one training step grows with pixels and tokens, and what comes before the first step with patients.

    python tests/benchmarks/growth.py [--profile laptop] [--sizes 64 128 256] [--rounds 5]
    python tests/benchmarks/growth.py --data DATA --patients 8 16 32 [--size 64]

Every network of the method and its rivals takes a step at each size in turn; each time stands beside the one at the smallest
size, so that a busy machine slows all alike. Growth: the exponent p of time ~ pixels^p between the smallest and the largest, or
of time ~ patients^p. A step itself costs the same with any number of patients. PCA takes 600 slices and the ridges 800 at most.
Left out: of a step the clipping, the running mean and the small terms of the losses; before it the blends of stage 3.
"""
from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from vaelite.data.cases import Case, load_cases
from vaelite.data.slices import every_nth, load_slices
from vaelite.errors import VaeliteError
from vaelite.models.baselines import BASELINES
from vaelite.models.decoder import GuidedDecoder
from vaelite.models.layers import in_slot
from vaelite.models.losses import image_loss
from vaelite.models.mapper import LatentMapper, MapperConfig
from vaelite.models.vae import VAE
from vaelite.profiles import Config, profile
from vaelite.stages import encode_slices, split
from vaelite.training.train import has_bf16

Step = Callable[[], None]


def steps(cfg: Config, size: int) -> dict[str, Step]:
    """A training step of each network at this size, and the encoding of a batch."""
    vae = VAE(cfg.vae)
    mapper = LatentMapper(MapperConfig(**asdict(cfg.mapper) | {"latent_channels": cfg.vae.latent_channels}))
    decoder = GuidedDecoder(cfg.decoder, vae.decoder, mapper)
    x = torch.rand(cfg.decoder_fit.batch, 1, size, size) * 2 - 1
    stack, given = in_slot(x[:, 0], torch.zeros(len(x), dtype=torch.long), absent=-1.0)
    target = torch.ones(len(x), dtype=torch.long)
    with torch.no_grad():
        z = vae.encode(stack.flatten(0, 1)[:, None]).mean.unflatten(0, (len(x), -1))

    def finetune() -> Tensor:
        with torch.set_grad_enabled(decoder.mapper is not None):     # as in stage 3: the mapper learns end to end alone
            mapped = (decoder.mapper or mapper)(z, given, target)
        return image_loss(decoder(mapped, vae.linear_decode(mapped), stack, given, target)[0], x)

    networks: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "vae": (vae, lambda: image_loss(vae(x)[0], x)),
        "mapper": (mapper, lambda: mapper(z, given, target).abs().mean()),
        "decoder": (decoder, finetune)}
    for name, kind in BASELINES.items():
        network = kind(getattr(cfg, name))
        networks[name] = network, lambda network=network: image_loss(network(stack, given, target), x)
    found = {name: train_step(network, loss) for name, (network, loss) in networks.items()}

    @torch.no_grad()
    def encode() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("cpu")):
            vae.encode(x)

    return found | {"encode, no gradient": encode}


def closed_forms(cfg: Config, cases: list[Case], size: int) -> dict[str, float]:
    """Processor seconds of what is done once for a cohort: {what: seconds}."""
    vae = VAE(cfg.vae)
    mapper = LatentMapper(MapperConfig(**asdict(cfg.mapper) | {"latent_channels": cfg.vae.latent_channels}))
    marks = [time.process_time()]
    slices = every_nth(load_slices(cases, size), cfg.data.slice_step)
    marks.append(time.process_time())
    vae.fit_pca(slices.x[slices.have][:600][:, None].float())
    latents = encode_slices(vae, slices, bf16=True)
    marks.append(time.process_time())
    mapper.fit_ridge(latents[:, :800].flatten(0, 1), slices.have[:800].repeat(2, 1))     # as in training: of 800 slices at most
    marks.append(time.process_time())
    names = ("read and resize", "PCA, encode twice (plain, mirrored)", "ridges")
    return {name: after - before for name, before, after in zip(names, marks, marks[1:])}


def table(rows: dict[str, list[float]], columns: list[str], factor: float) -> str:
    """Rows of times, columns that grow by `factor` from the first to the last, and the exponent of the growth."""
    lines = ["| what | " + " | ".join(columns) + " | growth |", "|--" * (len(columns) + 2) + "|"]
    for name, values in rows.items():
        growth = math.log(values[-1] / values[0]) / math.log(factor)
        lines.append(f"| {name} | " + " | ".join(f"{value:.3g}" for value in values) + f" | {growth:.2f} |")
    return "\n".join(lines)


def train_step(network: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("cpu")):
            value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="count patients of this data set instead")
    parser.add_argument("--patients", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    cfg, options.sizes = profile(options.profile), sorted(set(options.sizes))
    if options.data:
        training, counts = split(load_cases(options.data), "train"), sorted(set(options.patients))
        if len(counts) < 2 or counts[-1] > len(training):
            raise VaeliteError(f"{options.data} has {len(training)} training patients: give --patients two numbers up to that.")
        closed_forms(cfg, training[:2], options.size)        # the first also allocates
        found = [closed_forms(cfg, training[:n], options.size) for n in counts]
        rows = {name: [of[name] for of in found] for name in found[0]}
        print(table(rows, [f"{n} patients [s]" for n in counts], counts[-1] / counts[0]))
        return
    at = {size: steps(cfg, size) for size in options.sizes}
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(options.rounds + 1):
        for size, of_network in at.items():
            for name, step in of_network.items():
                start = time.perf_counter()
                step()
                if number > 0:                               # the first also allocates
                    seconds.setdefault((name, size), []).append(time.perf_counter() - start)
    first, last = options.sizes[0], options.sizes[-1]
    columns = [f"{size} px, {(size // cfg.vae.factor) ** 2} tokens [ms]" for size in options.sizes]
    rows = {name: [1000 * statistics.median(seconds[name, size]) for size in options.sizes] for name in at[first]}
    print(table(rows, columns, (last / first) ** 2))


if __name__ == "__main__":
    main()
