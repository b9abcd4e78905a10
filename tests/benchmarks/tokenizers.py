"""What do a few hundred numbers keep? Every tokenizer of the kit, trained for the same time on the same slices.

    python tests/benchmarks/tokenizers.py DATA [--seconds 60] [--size 64] [--seed 0] [--only NAME ...] [--out RESULT.json]

PSNR [dB] (range 2, one mean squared error a modality), SSIM (2-D) and KID of whole slices in [-1, 1] of the test patients. KID:
of the drawn slices to the true ones, x 1000, texture features, pairs of one patient left out (0: no difference).
The last rows: MONAI's AutoencoderKL of the KL-16 layout (32 base channels, see `step_time.py`), on the same slices with the same loss
and recipe, at our learning rate and at a third of it.
floats: numbers a slice; bits: for KL as float32, for VQ the indices alone; ms: to encode and decode a slice, 16 at once.
"beta": the laptop profile's tokenizer with another weight of the KL term (`loss.kl`). Lesson 01 reads the result.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch
from step_time import Monai
from torch import Tensor, nn

from vaelite.data.cases import Case, load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import load_slices
from vaelite.evaluation.distribution import kid, texture_extractor
from vaelite.models.losses import image_loss, kl_divergence, ssim_2d
from vaelite.models.vae import DiagonalGaussian
from vaelite.profiles import TOKENIZERS, Config, override, profile
from vaelite.runs import open_run
from vaelite.stages import reconstruction_psnr, split, stage_slices, train_vae
from vaelite.training.train import draw_slices, fit

BETAS = (0.0, 0.01, 1.0)                                     # beside the profiles' own
TRIED = {**TOKENIZERS, "KL-8, 16 channels, random start": {"vae.pca_start": False},
         **{f"KL-8, 16 channels, beta {beta:g}": {"loss.kl": beta} for beta in BETAS}}


class MonaiTokenizer(nn.Module):
    """MONAI's AutoencoderKL with the two calls that `quality` makes of a tokenizer."""

    def __init__(self):
        super().__init__()
        self.net = Monai().net

    def encode(self, x: Tensor) -> DiagonalGaussian:
        mean, deviation = self.net.encode(x)
        return DiagonalGaussian(mean, 2 * deviation.log())

    def decode(self, z: Tensor) -> Tensor:
        return self.net.decode(z)


def train_monai(cfg: Config, cases: list[Case]) -> tuple[MonaiTokenizer, int]:
    """MONAI's network in the place of ours in stage 1 -> (tokenizer, steps)."""
    torch.manual_seed(cfg.seed)
    network, slices, generator = MonaiTokenizer(), stage_slices(cfg, cases, "train"), torch.Generator().manual_seed(cfg.seed)

    def batch_loss() -> dict[str, Tensor]:
        x = draw_slices(slices, cfg.vae_fit.batch, generator, "cpu")
        posterior = network.encode(x)
        kl = kl_divergence(posterior.mean, posterior.logvar).mean() / posterior.mean[0].numel()
        return {"loss": image_loss(network.decode(posterior.sample(generator)), x, cfg.loss.ssim) + cfg.loss.kl * kl}

    return network, fit(network, batch_loss, cfg.vae_fit).steps


@torch.no_grad()
def quality(vae, slices) -> dict[str, dict[str, float]]:
    found = {}
    for name, psnr in reconstruction_psnr(vae, slices).items():
        m = MODALITIES.index(name)
        x = slices.x[slices.have[:, m], m][:, None].float()
        start = time.perf_counter()
        drawn = torch.cat([vae.decode(vae.encode(part).mean).clamp(-1, 1) for part in x.split(16)])
        ms = 1000 * (time.perf_counter() - start) / len(x)
        patients = slices.case[slices.have[:, m]].tolist()
        features = [texture_extractor()(part[:, 0]) for part in (drawn, x)]
        found[name] = {"psnr": psnr, "ssim": float(ssim_2d(drawn, x).mean()), "kid": kid(*features, patients, patients)[0], "ms": ms}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TRIED), choices=list(TRIED), help="of our tokenizers; MONAI's stays")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases, results = load_cases(options.data), []
    test, shared = load_slices(split(cases, "test"), options.size), {
        "data.size": options.size, "vae_fit.processor_seconds": options.seconds, "seed": options.seed}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            run = open_run(Path(folder) / "run")
            vae = train_vae(profile("laptop", **TRIED[name] | shared), cases, run, lambda *progress: None)
            record = run.stages["vae"]
        places = (options.size // vae.config.factor) ** 2
        bits = places * math.log2(vae.config.codebook) if vae.codebook else 32 * places * vae.config.latent_channels
        kl = [] if vae.codebook else record["metrics"]["kl_per_channel"]     # a codebook has no posterior to collapse
        results.append({"tokenizer": name, "floats": places * vae.config.latent_channels,
                        "indices": places if vae.codebook else None, "bits": round(bits),
                        "steps": record["steps"], "quality": quality(vae, test),
                        "nats_per_latent": statistics.mean(kl) if kl else None,
                        "collapsed_channels": sum(value < 0.01 for value in kl) if kl else None})
        print(row(results[-1]), flush=True)
    floats = 16 * (options.size // 16) ** 2
    cfg = profile("laptop", **shared)
    for rate in (cfg.vae_fit.learning_rate, cfg.vae_fit.learning_rate / 3):
        network, steps = train_monai(override(cfg, {"vae_fit.learning_rate": rate}), cases)
        results.append({"tokenizer": f"MONAI's KL-16, rate {rate:.1g}", "floats": floats, "indices": None, "bits": 32 * floats, "steps": steps,
                        "quality": quality(network, test), "nats_per_latent": None, "collapsed_channels": None})
        print(row(results[-1]), flush=True)
    if options.out:
        about = {"data": options.data.name, "test_patients": len(test.names), "size": options.size, "seconds": options.seconds, "seed": options.seed,
                 "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d")}
        options.out.write_text(json.dumps(about | {"tokenizers": results}, indent=1) + "\n")


def row(result: dict) -> str:
    cells = [f"{q['psnr']:.1f} / {q['ssim']:.3f} / {1000 * q['kid']:.1f}" for q in result["quality"].values()]
    numbers = [str(result[name]) for name in ("tokenizer", "floats", "bits", "steps")]
    return "| " + " | ".join([*numbers, f"{statistics.median(q['ms'] for q in result['quality'].values()):.1f}", *cells]) + " |"


if __name__ == "__main__":
    main()
