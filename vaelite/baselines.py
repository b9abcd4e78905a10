"""What the method has to beat at the same training time: one modality-conditioned U-Net in image space.

The other two baselines need no network: `copy` hands back the source, `ridge` is the mapper's closed-form start.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """MONAI BasicUNet with the modality condition on every normalisation; features as MONAI orders them."""

    features: tuple[int, ...] = (32, 32, 64, 128, 256, 32)
    condition_width: int = 128
    modalities: int = 4


class ConditionedNorm(nn.Module):
    """A normalisation followed by scale and shift from the current condition (FiLM).

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
    """x (b, 1, H, W) in [-1, 1] of `source` -> (b, 1, H, W) of `target`; H and W multiples of 16."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        width = config.condition_width
        self.source_embedding = nn.Embedding(config.modalities, width)
        self.target_embedding = nn.Embedding(config.modalities, width)
        self.mix = nn.Linear(width, width)
        self.unet = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=config.features)
        self.norms = []
        for parent in list(self.unet.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(parent, name, ConditionedNorm(child, width))
                    self.norms.append(getattr(parent, name))

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        condition = F.silu(self.mix(F.silu(self.source_embedding(source) + self.target_embedding(target))))
        for norm in self.norms:
            norm.condition = condition
        try:
            return self.unet(x).float()
        finally:
            for norm in self.norms:                          # hold no tensor between calls
                norm.condition = None


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model, to be shown beside its results."""
    return sum(p.numel() for p in model.parameters())
