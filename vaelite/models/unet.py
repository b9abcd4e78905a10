"""The image-space network of the kit: MONAI's BasicUNet, told at every level what is given and what is wanted.

Alone it is the baseline that most translators of the literature are; inside stage 3 it draws what the latents cannot hold.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """Features as MONAI orders them: five levels, each half the size of the one before, and the last of the way up. Our
    choice: on validation, tried once, twice as many did worse in the laptop's training time."""

    features: tuple[int, ...] = (16, 16, 32, 64, 128, 16)
    stem: int = 1                                            # stem x stem pixels are folded into channels before the first level
    condition_width: int = 128
    modalities: int = 4


class ConditionedNorm(nn.Module):
    """A normalisation followed by scale and shift from the current condition (FiLM, Perez et al. 2018).

    BasicUNet's forward takes one tensor, so the condition is set on these layers before each call.
    """

    def __init__(self, norm: nn.Module, condition_width: int):
        super().__init__()
        self.norm = norm
        self.film = nn.Linear(condition_width, 2 * norm.num_features)
        nn.init.normal_(self.film.weight, std=0.02)
        nn.init.zeros_(self.film.bias)
        self.condition: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.film(self.condition)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class ConditionedUNet(nn.Module):
    """Images (b, c, H, W), H and W multiples of 16 stem, and a condition (b, condition_width) -> (b, out, H, W)."""

    def __init__(self, channels: int, out: int, config: UNetConfig):
        super().__init__()
        self.mix = nn.Linear(config.condition_width, config.condition_width)
        self.stem = config.stem
        self.unet = BasicUNet(spatial_dims=2, in_channels=channels * config.stem**2, out_channels=out * config.stem**2,
                              features=config.features)
        self.norms = []
        for parent in list(self.unet.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(parent, name, ConditionedNorm(child, config.condition_width))
                    self.norms.append(getattr(parent, name))

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        mixed = F.silu(self.mix(F.silu(condition)))
        for norm in self.norms:
            norm.condition = mixed
        try:
            return F.pixel_shuffle(self.unet(F.pixel_unshuffle(images, self.stem)), self.stem).float()
        finally:
            for norm in self.norms:                          # hold no tensor between calls
                norm.condition = None
