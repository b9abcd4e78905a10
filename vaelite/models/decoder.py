"""Stage 3: drawing from mapped latents, guided by the source images.

A mapped latent is not a true one, and the detail that 8 x or 16 x compression lost is in the source slices. Again a linear
path in closed form carries most: a blend of the draft, what the latents decode to, and the source slices (least squares, one
3 x 3 filter each). From CBCT to CT it keeps much of the source, from MR to CT hardly any. A U-Net sees draft, sources and blend;
it scales the blend pixel by pixel, so that the noise of the source's air need not be drawn away, and adds to it. It starts
silent. Its stem folds 2 x 2 pixels into channels: the level at full size, dear and of little use, is gone, and a laptop takes
more steps. The paper fine-tunes the stage-1 decoder, an option here (`fine_tune`), as is finishing the mapper with it
(`end_to_end`). With the training time of a laptop neither gained what its steps cost (Ablations in tests/benchmarks/RESULTS.md):
there the draft is the latents' linear decode and the U-Net alone learns. All of it is our choice but the fine-tuning.
"""
from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Guidance, only, subset_number, zero
from .unet import ConditionedUNet, UNetConfig


@dataclass(frozen=True)
class GuidedConfig(UNetConfig):
    """The U-Net of stage 3 and of its control without latents, so that a comparison of the two shows what latents add.

    Our choice, on validation; what stem and widths are worth together: Ablations in tests/benchmarks/RESULTS.md."""

    features: tuple[int, ...] = (32, 32, 64, 64, 128, 32)
    stem: int = 2


@dataclass(frozen=True)
class DecoderConfig(GuidedConfig):
    """That U-Net, and what else learns with it."""

    fine_tune: bool = False                                  # a copy of the stage-1 decoder draws the draft, not its linear path
    end_to_end: bool = False                                 # a copy of the mapper learns from the image loss


class GuidedDecoder(nn.Module):
    """Mapped latent, its linear decode and the source slices -> target slice: a scaled linear blend plus what a U-Net adds.

    z: (b, k, h, w) mapped latents, as the mapper left them even if the tokenizer has a codebook (our choice); linear:
    (b, 1, H, W) their linear decode; x: (b, m, H, W) slices in [-1, 1], one slot a modality; given: (b, m) bool, the slots to
    read; target: (b,) modality numbers -> the slice, and ln of the scale b of its error e if that is Laplace,
    p(e) = exp(-|e| / b) / 2b: (b, 1, H, W) each.
    """

    def __init__(self, config: DecoderConfig, decoder: nn.Module | None = None, mapper: nn.Module | None = None):
        super().__init__()
        m = config.modalities
        self.config = config
        self.decoder = copy.deepcopy(decoder) if config.fine_tune else None    # starts as the stage-1 decoder, which stays
        self.mapper = copy.deepcopy(mapper) if config.end_to_end else None    # starts as stage 2 left it
        self.guidance = Guidance(m, config.condition_width)
        self.unet = ConditionedUNet(m + 2, 3, config)
        zero(self.unet.unet.final_conv)                      # silent at the start
        kernel = torch.zeros(m, 2**m, m + 1, 3, 3)
        kernel[:, :, -1, 1, 1] = 1                           # until it is fitted: the draft as it is
        self.register_buffer("blend_kernel", kernel)         # by target and set of sources
        self.register_buffer("log_error", torch.full(kernel.shape[:2], -3.0))    # ln of the blend's mean absolute error

    def forward(self, z: Tensor, linear: Tensor, x: Tensor, given: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        draft = self.draft(z, linear)
        blend = self.blend(draft, x, given, target)
        images = torch.cat([only(x, given, absent=-1.0), draft, blend], 1)
        gain, detail, scale = self.unet(images, self.guidance(given, target)).chunk(3, dim=1)
        drawn = (1 + gain) * (blend + 1) - 1 + detail        # air is -1
        return drawn, scale + self.log_error[target, subset_number(given)].view(-1, 1, 1, 1)

    def draft(self, z: Tensor, linear: Tensor) -> Tensor:
        """What the latents decode to: linearly, or with the fine-tuned decoder on top, (b, 1, H, W)."""
        return linear + self.decoder(z) if self.decoder else linear

    def blend(self, draft: Tensor, x: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The linear path: a 3 x 3 filter of each source slice and of the draft, (b, 1, H, W)."""
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
    """What the blend filters: given slices and draft, counted from air, so that air stays air: (b, m + 1, H, W)."""
    return torch.cat([only(x, given, absent=-1.0), draft], 1).float() + 1
