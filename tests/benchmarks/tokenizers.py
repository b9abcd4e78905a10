"""What do a few hundred numbers keep? Every tokenizer of the kit, trained for the same time on the same slices.

    python tests/benchmarks/tokenizers.py DATA [--seconds 60] [--size 64] [--seed 0] [--out RESULT.json]

PSNR [dB] (range 2, one mean squared error a modality) and SSIM (2-D) of whole slices in [-1, 1] of the test patients.
floats: numbers a slice; bits: for KL as float32, for VQ the indices alone.
"""
from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch

from vaelite.cases import load_cases
from vaelite.intensity import MODALITIES
from vaelite.losses import ssim_2d
from vaelite.profiles import TOKENIZERS, profile
from vaelite.runs import open_run
from vaelite.slices import load_slices
from vaelite.stages import reconstruction_psnr, split, train_vae


@torch.no_grad()
def quality(vae, slices) -> dict[str, dict[str, float]]:
    found = {}
    for name, psnr in reconstruction_psnr(vae, slices).items():
        m = MODALITIES.index(name)
        x = slices.x[slices.have[:, m], m][:, None].float()
        drawn = torch.cat([vae.decode(vae.encode(part).mean).clamp(-1, 1) for part in x.split(16)])
        found[name] = {"psnr": psnr, "ssim": float(ssim_2d(drawn, x).mean())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases, results = load_cases(options.data), []
    test = load_slices(split(cases, "test"), options.size)
    for name, changes in [*TOKENIZERS.items(), ("KL-8, 16 channels, random start", {"vae.pca_start": False})]:
        knobs = changes | {"data.size": options.size, "vae_fit.processor_seconds": options.seconds, "seed": options.seed}
        with tempfile.TemporaryDirectory() as folder:
            run = open_run(Path(folder) / "run")
            vae = train_vae(profile("laptop", **knobs), cases, run, lambda *progress: None)
            record = run.stages["vae"]
        places = (options.size // vae.config.factor) ** 2
        bits = places * math.log2(vae.config.codebook) if vae.codebook else 32 * places * vae.config.latent_channels
        kl = [] if vae.codebook else record["metrics"]["kl_per_channel"]     # a codebook has no posterior to collapse
        results.append({"tokenizer": name, "floats": places * vae.config.latent_channels, "bits": round(bits),
                        "steps": record["steps"], "quality": quality(vae, test),
                        "collapsed_channels": sum(value < 0.01 for value in kl) if kl else None})
        print(row(results[-1]), flush=True)
    if options.out:
        about = {"data": options.data.name, "size": options.size, "seconds": options.seconds, "seed": options.seed,
                 "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
        options.out.write_text(json.dumps(about | {"tokenizers": results}, indent=1) + "\n")


def row(result: dict) -> str:
    cells = [f"{q['psnr']:.1f} / {q['ssim']:.3f}" for q in result["quality"].values()]
    return "| " + " | ".join([result["tokenizer"], str(result["floats"]), str(result["bits"]), str(result["steps"]), *cells]) + " |"


if __name__ == "__main__":
    main()
