"""How the cost of one training step grows with pixels and tokens.

    python tests/benchmarks/growth.py [--profile laptop] [--sizes 64 128 256] [--rounds 5]

Every network of the method and its rivals takes a step at each size in turn; each time stands beside the one at the smallest
size, so that a busy machine slows all alike. Growth: the exponent p of time ~ pixels^p between the smallest and the largest.
"""
from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from vaelite.models.baselines import BASELINES
from vaelite.models.decoder import GuidedDecoder
from vaelite.models.layers import in_slot
from vaelite.models.losses import image_loss
from vaelite.models.mapper import LatentMapper, MapperConfig
from vaelite.models.vae import VAE
from vaelite.profiles import Config, profile
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


def train_step(network: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5)

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
    options = parser.parse_args()
    cfg = profile(options.profile)
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
    tokens = {size: (size // cfg.vae.factor) ** 2 for size in options.sizes}
    print("| step | " + " | ".join(f"{size} px, {tokens[size]} tokens [ms]" for size in options.sizes) + " | growth with pixels |")
    print("|--" * (len(options.sizes) + 2) + "|")
    for name in at[first]:
        ms = [1000 * statistics.median(seconds[name, size]) for size in options.sizes]
        growth = math.log(ms[-1] / ms[0]) / math.log((last / first) ** 2)
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in ms) + f" | {growth:.2f} |")


if __name__ == "__main__":
    main()
