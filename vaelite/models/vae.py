"""Stage 1: one variational autoencoder whose latent space all modalities share.

A slice goes through two paths that are added: a closed-form linear code (PCA of its f x f patches, whitened and frozen)
and small residual networks that start at zero. So training starts at the quality of PCA, not at noise (our choice).
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..scale import randn
from .layers import zero

MOST_LOGVAR = 2.0                                            # wider than the prior; without it exp(logvar) explodes now and then


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the tokenizer. `factor` 8 or 16 is the spatial compression; the paper's KL-16 is 16 with 16 channels."""

    factor: int = 8
    latent_channels: int = 16
    codebook: int = 0                                        # 0: a VAE (KL); else VQ, each latent one of so many vectors
    pca_start: bool = True                                   # a closed-form linear path; without it the nets start at noise
    attention: bool = False                                  # self-attention at the coarsest level
    encoder_widths: tuple[int, ...] = (64, 128)              # finest first; the last level is at 1/factor
    decoder_widths: tuple[int, ...] = (32, 64, 128)          # one more level: the decoder has to draw fine detail
    blocks: int = 1                                          # residual blocks a level


@dataclass(frozen=True)
class DiagonalGaussian:
    """The posterior q(z|x): independent normal latents. mean, logvar: (b, k, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """z = mean + sigma * noise (the reparameterisation trick): gradients reach mean and logvar."""
        noise = randn(self.mean.shape, generator).to(self.mean.device)    # same noise on any device
        return self.mean + (0.5 * self.logvar).exp() * noise


class ResBlock(nn.Module):
    """x + conv(silu(conv(norm(x)))). The last convolution starts at zero: a new block is the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


class Attention(nn.Module):
    """x + self-attention over all places, one head (as in Rombach et al. 2022, at the coarsest level). Starts silent."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three d) h w -> three b (h w) d", three=3)
        return x + self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b (h w) d -> b d h w", h=x.shape[2]))


def one_level(width: int, config: VAEConfig, coarsest: bool) -> nn.Sequential:
    """The residual blocks of one resolution, with attention at the end of the coarsest if the configuration asks for it."""
    attention = [Attention(width)] if coarsest and config.attention else []
    return nn.Sequential(*[ResBlock(width) for _ in range(config.blocks)], *attention)


class Codebook(nn.Module):
    """Vector quantisation (van den Oord et al. 2017): each latent vector becomes the nearest of n learnt ones."""

    def __init__(self, entries: int, channels: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(entries, channels))      # latents have about unit variance: so have these

    def forward(self, z: Tensor) -> Tensor:
        """z (b, k, h, w) -> the nearest vectors; the gradient passes to z as if nothing had happened."""
        return z + (self.lookup(self.indices(z)) - z).detach()

    def indices(self, z: Tensor) -> Tensor:
        """Which vector: (b, k, h, w) -> (b, h, w) int64."""
        flat = rearrange(z.detach().float(), "b k h w -> (b h w) k")
        return torch.cdist(flat, self.vectors).argmin(1).view(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        return rearrange(self.vectors[indices], "b h w k -> b k h w")

    def loss(self, z: Tensor, commitment: float = 0.25) -> Tensor:
        """Vectors move to the latents, and latents, `commitment` times as strongly, to their vectors."""
        nearest = self.lookup(self.indices(z))
        return (nearest - z.detach()).square().mean() + commitment * (nearest.detach() - z).square().mean()

    @torch.no_grad()
    def fit(self, z: Tensor, generator: torch.Generator, rounds: int = 10) -> Codebook:
        """Start at k-means of latents z (b, k, h, w): no vector begins where no latent is."""
        flat = rearrange(z, "b k h w -> (b h w) k")
        self.vectors.copy_(flat[torch.randint(len(flat), (len(self.vectors),), generator=generator).to(flat.device)])
        for _ in range(rounds):
            nearest = self.indices(z).flatten()
            count = torch.bincount(nearest, minlength=len(self.vectors))[:, None]
            total = torch.zeros_like(self.vectors).index_add_(0, nearest, flat)
            self.vectors.copy_(torch.where(count > 0, total / count.clamp_min(1), self.vectors))
        return self


class Encoder(nn.Module):
    """Slice (b, 1, H, W) -> residual of mean and logvar (b, 2k, H/f, W/f); zero at the start, logvar at -7."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.encoder_widths
        self.stem_factor = stem_factor(config.factor, widths)
        self.stem = nn.Conv2d(self.stem_factor**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(one_level(w, config, i == len(widths) - 1) for i, w in enumerate(widths))
        self.down = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in zip(widths[:-1], widths[1:]))
        self.head = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)
        if config.pca_start:
            zero(self.head)
        nn.init.constant_(self.head.bias[config.latent_channels:], -7.0)    # sigma 0.03: a nearly noise-free start

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(F.pixel_unshuffle(x, self.stem_factor))
        for i, level in enumerate(self.levels):
            if i > 0:
                h = self.down[i - 1](F.pixel_unshuffle(h, 2))
            h = level(h)
        return self.head(F.silu(h))


class Decoder(nn.Module):
    """Latent (b, k, h, w) -> residual image (b, 1, h*f, w*f); zero at the start."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.decoder_widths
        self.stem_factor = stem_factor(config.factor, widths)
        self.stem = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.levels = nn.ModuleList(one_level(w, config, i == len(widths) - 1) for i, w in enumerate(widths))
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths[:-1], widths[1:]))
        self.head = nn.Conv2d(widths[0], self.stem_factor**2, 3, padding=1)
        if config.pca_start:
            zero(self.head)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z)
        for i in reversed(range(len(self.levels))):          # coarse to fine
            h = self.levels[i](h)
            if i > 0:
                h = F.pixel_shuffle(self.up[i - 1](h), 2)
        return F.pixel_shuffle(self.head(F.silu(h)), self.stem_factor).float()


class VAE(nn.Module):
    """The shared tokenizer: encode a slice to a posterior over latents, decode latents to a slice.

    Slices (b, 1, H, W) in [-1, 1]; latents (b, k, H/f, W/f), each of about unit variance. One set of weights for all
    modalities: the VAE is never told which one it sees.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        f, k = config.factor, config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.codebook = Codebook(config.codebook, k) if config.codebook else None
        self.register_buffer("patch_mean", torch.zeros(1, 1, f, f))
        self.register_buffer("components", torch.zeros(k, 1, f, f))         # orthonormal patches, largest variance first
        self.register_buffer("deviations", torch.ones(k))                   # standard deviation along each component

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        posterior = self.encode(x)
        return self.decode(posterior.mean if self.codebook else posterior.sample(generator)), posterior

    def encode(self, x: Tensor) -> DiagonalGaussian:
        mean, logvar = self.encoder(x).float().chunk(2, dim=1)
        return DiagonalGaussian(self.linear_encode(x) + mean, MOST_LOGVAR - F.softplus(MOST_LOGVAR - logvar))    # a bound with a gradient

    def decode(self, z: Tensor) -> Tensor:
        z = self.codebook(z) if self.codebook else z
        return self.linear_decode(z) + self.decoder(z)

    def linear_encode(self, x: Tensor) -> Tensor:
        """Project each f x f patch on the principal components and whiten: (b, 1, H, W) -> (b, k, H/f, W/f)."""
        kernel = self.components / self.deviations.view(-1, 1, 1, 1)
        with torch.autocast(x.device.type, enabled=False):   # the linear path carries the precision: keep it float32
            return F.conv2d(x.float(), kernel, -(kernel * self.patch_mean).sum((1, 2, 3)), stride=self.config.factor)

    def linear_decode(self, z: Tensor) -> Tensor:
        """Each latent times its component, plus the mean patch: the best linear reconstruction from k numbers."""
        kernel = self.components * self.deviations.view(-1, 1, 1, 1)
        with torch.autocast(z.device.type, enabled=False):
            patches = F.conv_transpose2d(z.float(), kernel, stride=self.config.factor)
        return patches + self.patch_mean.repeat(1, 1, z.shape[-2], z.shape[-1])

    @torch.no_grad()
    def fit_pca(self, x: Tensor) -> VAE:
        """Set the linear path to the principal components of the patches of x (b, 1, H, W). Closed form, < 1 s.

        Without `pca_start` the path stays closed: it draws nothing, and the networks have to learn everything.
        """
        if not self.config.pca_start:
            return self
        f, k = self.config.factor, self.config.latent_channels
        patches = rearrange(x.double(), "b 1 (h f) (w g) -> (b h w) (f g)", f=f, g=f)
        mean = patches.mean(0)
        covariance = (patches - mean).T @ (patches - mean) / len(patches)
        variance, vectors = torch.linalg.eigh(covariance)    # ascending
        variance, vectors = variance.flip(0)[:k], vectors.flip(1)[:, :k]
        signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.patch_mean.copy_(mean.view(1, 1, f, f))
        self.components.copy_(rearrange(vectors * signs, "(f g) k -> k 1 f g", f=f))    # fixed signs: same code anywhere
        self.deviations.copy_(variance.clamp_min(1e-8).sqrt())
        return self


def stem_factor(factor: int, widths: tuple[int, ...]) -> int:
    """Pixels folded into channels before the first level, so that the last level is at 1/factor."""
    stem = factor / 2 ** (len(widths) - 1)
    if stem < 1 or not math.log2(stem).is_integer():
        raise ValueError(f"factor {factor} cannot be reached with {len(widths)} levels {widths}; use a power of two "
                         f"and at most log2(factor) + 1 levels")
    return int(stem)
