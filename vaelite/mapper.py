"""Stage 2: a bidirectional transformer that maps the latents of one modality to those of another.

One model serves every direction: a source and a target embedding modulate each block (adaLN-Zero). It learns what the
closed-form ridge regression of each direction leaves over, so it starts at the ridge, not at noise (our choice).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .layers import zero


@dataclass(frozen=True)
class MapperConfig:
    """Shape of the latent mapper; all values are our choice (the paper publishes none)."""

    latent_channels: int = 16
    width: int = 96
    depth: int = 3
    heads: int = 4
    neighbourhood: int = 3                                   # ridge: each latent from this many by this many sources
    modalities: int = 4


class Block(nn.Module):
    """Self-attention without a mask, depthwise 3 x 3, MLP; each branch scaled, shifted and gated by the condition.

    The gates start at zero (adaLN-Zero, Peebles and Xie 2023): a new block is the identity.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 7 * width))
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(width // heads)         # QK-norm: attention logits stay bounded
        self.key_norm = nn.RMSNorm(width // heads)
        self.attention_out = nn.Linear(width, width)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, condition: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: (b, n, d) tokens of a grid h x w; condition: (b, d) -> (b, n, d)."""
        modulation = self.modulation(F.silu(condition))[:, None].chunk(7, dim=-1)
        scale1, shift1, gate1, gate_local, scale2, shift2, gate2 = modulation
        x = x + gate1 * self.attend(self.norm1(x) * (1 + scale1) + shift1)
        image = rearrange(x, "b (h w) d -> b d h w", h=grid[0], w=grid[1])
        x = x + gate_local * rearrange(self.local(image), "b d h w -> b (h w) d")
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def attend(self, x: Tensor) -> Tensor:
        """Every token reads every token, before and behind it: bidirectional."""
        q, k, v = rearrange(self.qkv(x), "b n (three a d) -> three b a n d", three=3, a=self.heads)
        q, k = self.query_norm(q.float()), self.key_norm(k.float())    # norms carry the precision: keep them float32
        return self.attention_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b a n d -> b n (a d)"))


class LatentMapper(nn.Module):
    """Latents of `source` -> latents of `target`, all directions in one model.

    z: (b, k, h, w) raw VAE latents; source, target: (b,) modality numbers -> (b, k, h, w) raw latents.
    """

    def __init__(self, config: MapperConfig):
        super().__init__()
        self.config = config
        m, k, d = config.modalities, config.latent_channels, config.width
        self.source_embedding = nn.Embedding(m, d)
        self.target_embedding = nn.Embedding(m, d)
        self.embed = nn.Linear(k, d)
        self.blocks = nn.ModuleList(Block(d, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)
        self.head = zero(nn.Linear(d, k))
        # latents are normalised inside, so that no caller can forget it; one ridge kernel a direction
        self.register_buffer("latent_mean", torch.zeros(k, 1, 1))
        self.register_buffer("latent_deviation", torch.ones(k, 1, 1))
        self.register_buffer("ridge_kernel", torch.zeros(m, m, k, k, config.neighbourhood, config.neighbourhood))
        self.register_buffer("ridge_bias", torch.zeros(m, m, k))

    def forward(self, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        z = (z - self.latent_mean) / self.latent_deviation
        mapped = self.ridge(z, source, target) + self.transform(z, source, target)
        return mapped * self.latent_deviation + self.latent_mean

    def transform(self, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The transformer: normalised latents to the correction of the ridge; zero before training."""
        h, w = z.shape[-2:]
        condition = self.source_embedding(source) + self.target_embedding(target)
        tokens = self.embed(rearrange(z, "b k h w -> b (h w) k"))             # one token per latent pixel
        tokens = tokens + position_code(h, w, self.config.width, z.device)
        for block in self.blocks:
            tokens = block(tokens, condition, (h, w))
        return rearrange(self.head(self.norm(tokens)).float(), "b (h w) k -> b k h w", h=h)

    def ridge(self, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The linear start: each target latent from the source's latents around it, one kernel a direction."""
        out = torch.empty_like(z, dtype=torch.float32)
        with torch.autocast(z.device.type, enabled=False):
            for s, t in torch.stack([source, target], 1).unique(dim=0).tolist():
                rows = (source == s) & (target == t)
                out[rows] = F.conv2d(z[rows].float(), self.ridge_kernel[s, t], self.ridge_bias[s, t], padding="same")
        return out

    def ridge_latents(self, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """The ridge alone, raw latents to raw latents: the baseline that the transformer has to beat."""
        mapped = self.ridge((z - self.latent_mean) / self.latent_deviation, source, target)
        return mapped * self.latent_deviation + self.latent_mean

    @torch.no_grad()
    def fit_ridge(self, latents: Tensor, have: Tensor, penalty: float = 1e-2) -> LatentMapper:
        """Set normalisation and the ridge of every direction whose pairs exist. Closed form, seconds.

        latents: (n, m, k, h, w) raw, absent modalities anything; have: (n, m) bool.
        """
        m, k, size = self.config.modalities, self.config.latent_channels, self.config.neighbourhood
        present = latents[have].float()                      # (p, k, h, w)
        self.latent_mean.copy_(present.mean((0, 2, 3)).view(k, 1, 1))
        self.latent_deviation.copy_(present.std((0, 2, 3)).clamp_min(1e-6).view(k, 1, 1))
        for s in range(m):
            for t in range(m):
                rows = have[:, s] & have[:, t]
                if s == t or not rows.any():
                    continue
                x = (latents[rows, s].float() - self.latent_mean) / self.latent_deviation
                y = (latents[rows, t].float() - self.latent_mean) / self.latent_deviation
                patches = F.unfold(x, size, padding=size // 2)               # b (k size size) n
                weights = ridge_regression(rearrange(patches, "b f n -> (b n) f"),
                                           rearrange(y, "b k h w -> (b h w) k"), penalty)
                self.ridge_kernel[s, t] = rearrange(weights[:-1], "(i a b) o -> o i a b", a=size, b=size)
                self.ridge_bias[s, t] = weights[-1]
        return self


def ridge_regression(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Least squares with a penalty: argmin |[x 1] w - y|^2 + penalty * mean(diag) * |w|^2.

    x: (n, f), y: (n, o) -> (f + 1, o), the last row the intercept. penalty 0 is ordinary least squares.
    """
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
    gram = x.T @ x
    gram = gram + penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, x.T @ y.double()).to(y.dtype)


def position_code(h: int, w: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sines and cosines of row and column, (h*w, width): any grid size, no learned table (Vaswani et al. 2017)."""
    frequency = 1 / 10_000 ** (torch.arange(width // 4, device=device) / (width // 4))

    def code(n: int) -> Tensor:
        angle = torch.arange(n, device=device)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], 1)

    rows = repeat(code(h), "h d -> (h w) d", w=w)
    return torch.cat([rows, repeat(code(w), "w d -> (h w) d", h=h)], 1)
