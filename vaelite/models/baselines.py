"""What the method has to beat at the same training time: networks in image space.

The U-Net is the one users know. The no-latent control is stage 3 without its latents: it shows what the latents add. The
other two baselines need no network: `copy` hands back the source, `ridge` is the mapper's closed-form start.
"""
from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from .decoder import DecoderConfig, GuidedDecoder
from .layers import Guidance, only
from .unet import ConditionedUNet, UNetConfig


class UNet(nn.Module):
    """Slices of the given modalities -> (b, 1, H, W) of `target`.

    x: (b, m, H, W) in [-1, 1], one slot a modality; given: (b, m) bool, the slots to read; H and W multiples of 16 stem.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.guidance = Guidance(config.modalities, config.condition_width)
        self.unet = ConditionedUNet(config.modalities, 1, config)

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        return self.unet(only(x, given, absent=-1.0), self.guidance(given, target))


class NoLatentControl(nn.Module):
    """Stage 3 with the mapped latent removed: U-Net, blend and scale of the source slices and nothing else.

    Arguments as `UNet` -> (b, 1, H, W).
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.guided = GuidedDecoder(DecoderConfig(**asdict(config)))

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        air = torch.full_like(x[:, :1], -1.0)
        return self.guided(air, air, x, given, target)[0]    # a draft of air: it tells nothing

    def fit_blend(self, x: Tensor, wanted: Tensor, mask: Tensor, given: Tensor, target: int) -> None:
        """Start at the best linear filter of the sources, as stage 3 does; shapes as `GuidedDecoder.fit_blend`."""
        self.guided.fit_blend(torch.full_like(x[:, :1], -1.0), x, wanted, mask, given, target)


BASELINES = {"unet": UNet, "control": NoLatentControl}


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model, to be shown beside its results."""
    return sum(p.numel() for p in model.parameters())
