"""The tokenizers that others have published (kl-f16, kl-f8), from a weights file you have.

Architecture and names of the weights are those of Rombach et al. 2022 (latent diffusion), which MAR (Li et al. 2024) uses as
well: "kl-16" has five levels and 16 channels. They were trained on photographs with three channels: a slice is shown three
times, and the mean of the three drawn ones is taken (our choice). They can reconstruct; stages 2 and 3 need our own VAE.
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import VaeliteError
from .vae import DiagonalGaussian

# multipliers of 128 channels, latent channels, attention at the coarsest level (beside the middle)
LAYOUTS = {"kl-f16": ((1, 1, 2, 2, 4), 16, True), "kl-f8": ((1, 2, 4, 4), 4, False)}


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.conv1 = norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = norm(after), nn.Conv2d(after, after, 3, padding=1)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attend(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x))


class Resample(nn.Module):
    """Half the size (stride 2, padded at the end) or twice (nearest neighbour), then a convolution."""

    def __init__(self, width: int, down: bool):
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=0 if down else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    def __init__(self, before: int, after: int, blocks: int, attention: bool):
        super().__init__()
        self.block = nn.ModuleList(Residual(before if i == 0 else after, after) for i in range(blocks))
        self.attn = nn.ModuleList(Attend(after) for _ in range(blocks if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            x = self.attn[i](x) if len(self.attn) else x
        return x


class Middle(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = Residual(width, width), Attend(width), Residual(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class PublishedEncoder(nn.Module):
    def __init__(self, widths: list[int], latent_channels: int, attention: bool):
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Level(widths[max(i - 1, 0)], w, 2, attention and i == last) for i, w in enumerate(widths))
        for level, width in zip(self.down[:-1], widths):
            level.downsample = Resample(width, down=True)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            h = level.downsample(h) if hasattr(level, "downsample") else h
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class PublishedDecoder(nn.Module):
    def __init__(self, widths: list[int], latent_channels: int, attention: bool):
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(Level(widths[min(i + 1, last)], w, 3, attention and i == last) for i, w in enumerate(widths))
        for level, width in zip(self.up[1:], widths[1:]):
            level.upsample = Resample(width, down=False)
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            h = level.upsample(h) if hasattr(level, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))


class PublishedVAE(nn.Module):
    """Slices (b, 1, H, W) in [-1, 1]; latents (b, k, H/f, W/f). `layout`: a key of LAYOUTS."""

    def __init__(self, layout: str = "kl-f16", base: int = 128):
        super().__init__()
        multipliers, k, attention = LAYOUTS[layout]
        widths = [base * m for m in multipliers]
        self.encoder, self.decoder = PublishedEncoder(widths, k, attention), PublishedDecoder(widths, k, attention)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(2 * k, 2 * k, 1), nn.Conv2d(k, k, 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        mean, logvar = self.quant_conv(self.encoder(x.expand(-1, 3, -1, -1))).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z)).mean(1, keepdim=True)


def convert_checkpoint(source: Path, target: Path) -> None:
    """A published .ckpt or .pth (pickle) -> the weights alone, as safetensors, which cannot run code.

    Raises VaeliteError if the file holds anything but weights, or no tokenizer's.
    """
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:                               # unpickling fails in as many ways as there are files
        raise VaeliteError(f"{source} cannot be read as a file of weights alone ({str(error).splitlines()[0]}).") from error
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else {}
    weights = {name: value.contiguous() for name, value in content.items()
               if isinstance(value, Tensor) and name.split(".")[0] in ("encoder", "decoder", "quant_conv", "post_quant_conv")}
    if not weights:
        raise VaeliteError(f"{source} holds no tokenizer: no weight of it is called encoder or decoder. Is it the right file?")
    save_file(weights, target)


def load_published(path: Path, layout: str = "kl-f16", base: int = 128) -> PublishedVAE:
    """A published tokenizer from its safetensors file. Raises VaeliteError for a missing file and for other shapes."""
    if not Path(path).exists():
        raise VaeliteError(f"{path} does not exist. Published weights are not shipped: get kl-f16 or kl-f8 from its authors "
                           f"and turn it into safetensors with vaelite.models.published.convert_checkpoint.")
    with torch.device("meta"):
        vae = PublishedVAE(layout, base)
    try:
        vae.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise VaeliteError(f"{path} does not hold the weights of {layout}: {' '.join(str(error).split())[:200]}") from error
    return vae.eval().requires_grad_(False)
