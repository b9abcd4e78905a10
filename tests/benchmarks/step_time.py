"""One training step of our tokenizer against the libraries' AutoencoderKL: ratios of time and of memory in one run.

    python tests/benchmarks/step_time.py [--sizes 64 128 256] [--batch 4] [--rounds 7]

All in the KL-16 layout (16 x, 16 channels), 32 base channels, one step of AdamW on L1. The networks take turns, so that a
busy machine slows all of them alike; the ratio is that of the medians. Memory: what the peak of a fresh process grows by.
diffusers is compared if it is installed; vaelite does not need it.
"""
from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from vaelite.models.vae import VAE
from vaelite.profiles import TOKENIZERS, profile
from vaelite.training.train import has_bf16


class Monai(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = AutoencoderKL(spatial_dims=2, in_channels=1, out_channels=1, channels=(32, 32, 64, 64, 128), num_res_blocks=2,
                                 latent_channels=16, norm_num_groups=16, attention_levels=(False, False, False, False, True))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


class Diffusers(nn.Module):
    def __init__(self):
        super().__init__()
        from diffusers import AutoencoderKL as Published

        self.net = Published(in_channels=1, out_channels=1, block_out_channels=(32, 32, 64, 64, 128), layers_per_block=2,
                             latent_channels=16, norm_num_groups=16, down_block_types=("DownEncoderBlock2D",) * 5,
                             up_block_types=("UpDecoderBlock2D",) * 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).sample


class Ours(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = VAE(profile("laptop", **TOKENIZERS["KL-16"]).vae)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


BF16 = ", bfloat16"                                           # vaelite computes in it, as the kit trains; the others' default is float32
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vaelite": Ours, "monai": Monai, f"monai{BF16}": Monai, "diffusers": Diffusers, f"diffusers{BF16}": Diffusers}


def stepper(name: str, size: int, batch: int) -> Callable[[], None]:
    """A function that makes one training step."""
    torch.manual_seed(0)
    network, x = NETWORKS[name](), torch.rand(batch, 1, size, size) * 2 - 1
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16("cpu") and (name == "vaelite" or name.endswith(BF16))):
            loss = (network(x) - x).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def seconds_of(steppers: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(rounds + 1):
        for name, step in steppers.items():
            start = time.perf_counter()
            step()
            if number > 0:                                   # the first step also allocates
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in found.items()}


def peak_mib(name: str, size: int, batch: int) -> float:
    """What the peak memory of a fresh process grows by in three steps [MiB]."""
    command = [sys.executable, __file__, "--memory", name, "--sizes", str(size), "--batch", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def own_peak_mib() -> float:
    """Peak resident memory of this process [MiB] (Linux; getrusage would count the parent's as well)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        before = own_peak_mib()
        step = stepper(options.memory, options.sizes[0], options.batch)
        for _ in range(3):
            step()
        print(own_peak_mib() - before)
        return
    names = list(NETWORKS)
    if find_spec("diffusers") is None:
        print("diffusers is not installed: left out")
        names = [name for name in names if not name.startswith("diffusers")]
    print("| size | network | step [ms] | time / monai | memory [MiB] | memory / monai |\n|--|--|--|--|--|--|")
    for size in options.sizes:
        seconds = seconds_of({name: stepper(name, size, options.batch) for name in names}, options.rounds)
        memory = {name: peak_mib(name, size, options.batch) for name in names}
        for name in names:
            ratios = seconds[name] / seconds["monai"], memory[name] / memory["monai"]
            print(f"| {size} | {name} | {1000 * seconds[name]:.0f} | {ratios[0]:.2f} | {memory[name]:.0f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
