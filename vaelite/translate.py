"""A volume in, a volume out: the trained stages put together."""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .baselines import ConditionedUNet
from .decoder import GuidedDecoder
from .errors import VaeliteError
from .intensity import HU_MODALITIES, HU_WINDOW, MODALITIES, body_mask, from_unit, to_unit
from .mapper import LatentMapper
from .slices import fit_in_plane, unfit_in_plane
from .vae import VAE
from .volumes import Volume

DECODERS = ("mapped", "blended", "finetuned")                # what "vaelite" chooses from, per direction, on validation
METHODS = ("vaelite", "unet", "ridge", "copy", *DECODERS)
BATCH = 8                                                    # slices at a time: a quarter faster on a CPU than 16
MR_OUTPUT_RANGE = (0.0, 1000.0)                              # a translated MR has no unit; this range is our choice


@dataclass(frozen=True)
class Translator:
    """The three stages ready for use. `choice` says per direction ("CBCT>CT") which decoder validation preferred."""

    vae: VAE
    mapper: LatentMapper
    decoder: GuidedDecoder | None
    size: int
    modalities: tuple[str, ...]
    choice: dict[str, str] = field(default_factory=dict)
    unet: ConditionedUNet | None = None
    pairs: tuple[tuple[str, str], ...] | None = None         # the directions that had training pairs; None: all

    @torch.no_grad()
    def slices(self, x: Tensor, source: str, target: str, method: str = "vaelite", batch: int = BATCH) -> Tensor:
        """Translate slices x (n, 1, h, w) in [-1, 1] from `source` to `target` -> (n, 1, h, w) in [-1, 1].

        method: "vaelite" (the one of DECODERS that validation chose), "mapped" (stage-1 decoder), "blended" (the same
        with its linear part mixed with the source in closed form), "finetuned" (stage 3), "ridge" (the mapper's linear
        start, stage-1 decoder), "unet", "copy".
        """
        self.check(source, target, method)
        if method == "vaelite":
            method = self.choice[f"{source}>{target}"]
        device = self.vae.patch_mean.device
        parts = [self.one_batch(part.to(device).float(), source, target, method).cpu() for part in x.split(batch)]
        return torch.cat(parts).clamp(-1, 1)

    def one_batch(self, x: Tensor, source: str, target: str, method: str) -> Tensor:
        s = torch.full((len(x),), MODALITIES.index(source), device=x.device)
        t = torch.full((len(x),), MODALITIES.index(target), device=x.device)
        if method == "copy":
            return x
        if method == "unet":
            return self.unet(x, s, t)
        z = self.vae.encode(x).mean
        if method == "ridge":
            return self.vae.decode(self.mapper.ridge_latents(z, s, t))
        mapped = self.mapper(z, s, t)
        if method == "mapped":
            return self.vae.decode(mapped)
        draft = self.vae.linear_decode(mapped)
        if method == "blended":
            return self.decoder.blend(draft, x, s, t) + self.vae.decoder(mapped)
        return self.decoder(mapped, draft, x, s, t)

    def check(self, source: str, target: str, method: str = "vaelite") -> None:
        """Raise VaeliteError for a modality or a method this run does not have."""
        for modality in (source, target):
            if modality not in self.modalities:
                raise VaeliteError(f"This run was trained on {', '.join(self.modalities)}; it knows no '{modality}'.")
        if source == target:
            raise VaeliteError(f"Source and target are both {source}: nothing to translate.")
        if (source, target) not in self.directions():
            raise VaeliteError(f"This run was never trained from {source} to {target}: no patient had both.")
        missing = {"unet"} if self.unet is None else set()
        missing |= {"vaelite", "blended", "finetuned"} if self.decoder is None else set()
        if method not in METHODS or method in missing:
            available = [name for name in METHODS if name not in missing]
            raise VaeliteError(f"There is no method '{method}' in this run. Choose one of: {', '.join(available)}.")

    def directions(self) -> tuple[tuple[str, str], ...]:
        """The (source, target) pairs of this run, in the order of its modalities."""
        every = tuple((s, t) for s in self.modalities for t in self.modalities if s != t)
        return every if self.pairs is None else tuple(pair for pair in every if pair in self.pairs)

    def volume_unit(self, unit_zyx: np.ndarray, source: str, target: str, method: str = "vaelite") -> np.ndarray:
        """Translate a volume already in [-1, 1], on its own grid -> the same grid in [-1, 1]."""
        self.check(source, target, method)
        if method == "copy":
            return unit_zyx                                  # doing nothing means no resampling either
        fitted = torch.from_numpy(fit_in_plane(unit_zyx, self.size, fill=-1.0))[:, None]
        translated = self.slices(fitted, source, target, method)[:, 0].numpy()
        return unfit_in_plane(translated, unit_zyx.shape)

    @torch.no_grad()
    def reconstruct(self, unit_zyx: np.ndarray) -> np.ndarray:
        """A volume through the VAE and back, in [-1, 1] on its own grid: what the latents can hold."""
        fitted = torch.from_numpy(fit_in_plane(unit_zyx, self.size, fill=-1.0))[:, None]
        device = self.vae.patch_mean.device
        parts = [self.vae.decode(self.vae.encode(x.to(device)).mean).cpu() for x in fitted.split(BATCH)]
        return unfit_in_plane(torch.cat(parts)[:, 0].clamp(-1, 1).numpy(), unit_zyx.shape)


def translate(volume: Volume, source: str, target: str, translator: Translator, method: str = "vaelite",
              mask: np.ndarray | None = None) -> Volume:
    """Translate a whole volume; the result has the grid, affine and orientation of the input.

    volume: from `load_volume`; CT and CBCT in HU. mask: (z, y, x) bool body mask, estimated if not given (it sets the
    intensity scale of an MR source). A CT or CBCT result is in HU, an MR result in 0..1000 without a unit.
    Raises VaeliteError for a modality the run does not know.
    """
    translator.check(source, target, method)
    mask = body_mask(volume.data, source) if mask is None else mask
    unit, _ = to_unit(volume.data, source, mask)
    scale = HU_WINDOW if target in HU_MODALITIES else MR_OUTPUT_RANGE
    return volume.like(from_unit(translator.volume_unit(unit, source, target, method), target, scale))
