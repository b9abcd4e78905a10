"""Stage 3: the decoder, fine-tuned on mapped latents and guided by the source images.

A mapped latent is not a true one: the stage-1 decoder draws its errors faithfully. Here a copy of that decoder learns
to draw the target from mapped latents, with the source slices at hand for the detail that 8 x or 16 x compression lost.
Again a linear path in closed form carries most: a blend of the mapped latent's linear decode and the source slices (least
squares, one 3 x 3 filter each). From CBCT to CT it keeps much of the source, from MR to CT hardly any. A gain map scales this
blend pixel by pixel, so that the noise of the source's air need not be drawn away. Every added network starts silent, so
fine-tuning starts at this blend plus the stage-1 decoder's detail. A copy of the mapper goes on learning with it, from the
image loss (end to end); the encoder never does.
All this is our choice; the paper says only that the decoder is fine-tuned.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Guidance, only, subset_number, zero


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the guide. Its widths are the decoder's own, so that features can be added level by level."""

    condition_width: int = 128
    blocks: int = 1
    modalities: int = 4
    end_to_end: bool = True                                  # the mapper too learns from the image loss


class ConditionedBlock(nn.Module):
    """Residual block whose normalised input is scaled and shifted by the condition (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, condition_width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.film = nn.Linear(condition_width, 2 * width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return x + self.conv2(F.silu(self.conv1(self.norm(x) * (1 + scale) + shift)))


class SourceGuide(nn.Module):
    """Images (b, c, H, W) and a condition (b, d) -> one feature map for each level of the decoder, finest first, and a
    gain map (b, 1, H, W)."""

    def __init__(self, channels: int, widths: tuple[int, ...], stem_factor: int, config: DecoderConfig):
        super().__init__()
        self.stem_factor = stem_factor
        self.stem = nn.Conv2d(channels * stem_factor**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            nn.ModuleList(ConditionedBlock(w, config.condition_width) for _ in range(config.blocks)) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in zip(widths[:-1], widths[1:]))
        self.skips = nn.ModuleList(nn.Conv2d(w, w, 1) for w in widths)
        self.gain = zero(nn.Conv2d(widths[0], stem_factor**2, 1))
        for skip in self.skips:
            zero(skip)                                       # silent at the start

    def forward(self, images: Tensor, condition: Tensor) -> tuple[list[Tensor], Tensor]:
        h = self.stem(F.pixel_unshuffle(images, self.stem_factor))
        features = []
        for i, level in enumerate(self.levels):
            if i > 0:
                h = self.down[i - 1](F.pixel_unshuffle(h, 2))
            for block in level:
                h = block(h, condition)
            features.append(h)
        gain = 1 + F.pixel_shuffle(self.gain(F.silu(features[0])), self.stem_factor).float()    # bfloat16 has no 1.003
        return [skip(h) for skip, h in zip(self.skips, features)], gain


class GuidedDecoder(nn.Module):
    """Mapped latent, its linear decode and the source slices -> target slice: a scaled linear blend plus the decoder's detail.

    z: (b, k, h, w) mapped latents; draft: (b, 1, H, W) their linear decode; x: (b, m, H, W) slices in [-1, 1], one slot a
    modality; given: (b, m) bool, the slots to read; target: (b,) modality numbers -> the slice, and ln of the scale b of its
    error e if that is Laplace, p(e) = exp(-|e| / b) / 2b: (b, 1, H, W) each.
    """

    def __init__(self, decoder: nn.Module, widths: tuple[int, ...], config: DecoderConfig, mapper: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.decoder = copy.deepcopy(decoder)                # starts as the stage-1 decoder, which stays as it is
        self.mapper = copy.deepcopy(mapper) if config.end_to_end else None    # starts as stage 2 left it
        self.guidance = Guidance(config.modalities, config.condition_width)
        self.guide = SourceGuide(config.modalities + 1, widths, decoder.stem_factor, config)
        kernel = torch.zeros(config.modalities, 2**config.modalities, config.modalities + 1, 3, 3)
        kernel[:, :, -1, 1, 1] = 1                           # until it is fitted: the linear decode as it is
        self.register_buffer("blend_kernel", kernel)         # by target and set of sources
        self.register_buffer("log_error", torch.full(kernel.shape[:2], -3.0))    # ln of the blend's mean absolute error
        self.scale = zero(nn.Conv2d(widths[0], decoder.stem_factor**2, 1))

    def forward(self, z: Tensor, draft: Tensor, x: Tensor, given: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.cat([only(x, given, absent=-1.0), draft], 1)
        skips, gain = self.guide(images, F.silu(self.guidance(given, target)))
        features = self.decoder.features(z, skips)
        drawn = gain * (self.blend(draft, x, given, target) + 1) - 1 + self.decoder.draw(features)    # air is -1
        # detached: how sure the network is must not change what it draws
        correction = F.pixel_shuffle(self.scale(features.detach()), self.decoder.stem_factor).float()
        return drawn, correction + self.log_error[target, subset_number(given)].view(-1, 1, 1, 1)

    def blend(self, draft: Tensor, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The linear path: a 3 x 3 filter of each source slice and of the linear decode."""
        kernels = self.blend_kernel[target, subset_number(given)]            # b m+1 3 3
        with torch.autocast(x.device.type, enabled=False):   # it carries the precision: keep it float32
            images = blend_images(draft, x, given).flatten(0, 1)[None]
            return F.conv2d(images, kernels, padding=1, groups=len(x))[0][:, None] - 1

    @torch.no_grad()
    def fit_blend(self, draft: Tensor, x: Tensor, wanted: Tensor, mask: Tensor, given: Tensor, target: int) -> None:
        """Set the filters of one set of sources by least squares inside the body, and the scale of the error they leave.

        draft, wanted: (b, 1, H, W); x: (b, m, H, W); mask: (b, H, W) bool; given: (m,) bool.
        """
        neighbours = F.unfold(blend_images(draft, x, given.expand(len(x), -1)), 3, padding=1).transpose(1, 2)   # b (H W) f
        inside = mask.flatten(1)
        a, y = neighbours[inside].double(), (wanted + 1).flatten(1)[inside].double()
        gram = a.T @ a + 1e-6 * len(a) * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        kernel, task = torch.linalg.solve(gram, a.T @ y), (target, subset_number(given[None])[0])
        self.blend_kernel[task] = kernel.float().view(-1, 3, 3)
        self.log_error[task] = (a @ kernel - y).abs().mean().clamp_min(1e-4).log()


def blend_images(draft: Tensor, x: Tensor, given: Tensor) -> Tensor:
    """What the blend filters: given slices and linear decode, counted from air, so that air stays air: (b, m + 1, H, W)."""
    return torch.cat([only(x, given, absent=-1.0), draft], 1).float() + 1
