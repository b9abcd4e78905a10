"""What the method has to beat at the same training time: networks in image space.

The U-Net is the one users know. The no-latent control is stage 3 without its latents: it shows what the latents add. The
other two baselines need no network: `copy` hands back the source, `ridge` is the mapper's closed-form start.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from .decoder import DecoderConfig, GuidedDecoder
from .layers import Guidance, only
from .vae import Decoder, VAEConfig


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
    """Slices of the given modalities -> (b, 1, H, W) of `target`.

    x: (b, m, H, W) in [-1, 1], one slot a modality; given: (b, m) bool, the slots to read; H and W multiples of 16.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        width = config.condition_width
        self.guidance = Guidance(config.modalities, width)
        self.mix = nn.Linear(width, width)
        self.unet = BasicUNet(spatial_dims=2, in_channels=config.modalities, out_channels=1, features=config.features)
        self.norms = []
        for parent in list(self.unet.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.InstanceNorm2d):
                    setattr(parent, name, ConditionedNorm(child, width))
                    self.norms.append(getattr(parent, name))

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        condition = F.silu(self.mix(F.silu(self.guidance(given, target))))
        for norm in self.norms:
            norm.condition = condition
        try:
            return self.unet(only(x, given, absent=-1.0)).float()
        finally:
            for norm in self.norms:                          # hold no tensor between calls
                norm.condition = None


@dataclass(frozen=True)
class ControlConfig:
    """Shape of the no-latent control: its widths at 1/2, 1/4, ... of the image's size."""

    widths: tuple[int, ...] = (64, 128, 256)
    condition_width: int = 128
    blocks: int = 1
    modalities: int = 4


class NoLatentControl(nn.Module):
    """Stage 3 with the mapped latent removed: the guided decoder reads the source slices and nothing else.

    x: (b, m, H, W) in [-1, 1], one slot a modality; given: (b, m) bool, the slots to read; H and W multiples of the factor
    -> (b, 1, H, W).
    """

    def __init__(self, config: ControlConfig):
        super().__init__()
        self.config = config
        self.factor = 2 ** len(config.widths)
        shape = VAEConfig(factor=self.factor, latent_channels=1, decoder_widths=config.widths, blocks=config.blocks)
        self.guided = GuidedDecoder(Decoder(shape), config.widths,
                                    DecoderConfig(config.condition_width, config.blocks, config.modalities, end_to_end=False))

    def forward(self, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        b, _, h, w = x.shape
        nothing = x.new_zeros(b, 1, h // self.factor, w // self.factor)
        return self.guided(nothing, self.air(x), x, given, target)[0]

    def fit_blend(self, x: Tensor, wanted: Tensor, mask: Tensor, given: Tensor, target: int) -> None:
        """Start at the best linear filter of the sources, as stage 3 does; shapes as `GuidedDecoder.fit_blend`."""
        self.guided.fit_blend(self.air(x), x, wanted, mask, given, target)

    def air(self, x: Tensor) -> Tensor:
        return torch.full_like(x[:, :1], -1.0)


BASELINES = {"unet": (ConditionedUNet, UNetConfig), "control": (NoLatentControl, ControlConfig)}


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model, to be shown beside its results."""
    return sum(p.numel() for p in model.parameters())
