"""Stage 2: a bidirectional transformer that maps the latents of the modalities at hand to those of another.

One model serves every direction and every fusion: which modalities are given and which is wanted modulates each block
(adaLN-Zero). It learns what a closed-form ridge regression leaves over (one for each set of sources and each target), so
it starts at the ridge, not at noise (our choice).
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .layers import Guidance, only, subset, subset_number, zero


@dataclass(frozen=True)
class MapperConfig:
    """Shape of the latent mapper; all values are our choice (the paper publishes none)."""

    latent_channels: int = 16
    width: int = 96
    depth: int = 3
    heads: int = 4
    neighbourhood: int = 3                                   # ridge: each latent from this many by this many sources
    modalities: int = 4
    masked: bool = False                                     # learn with part of the target shown, and draw: see masked.py


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
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

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
        q, k, v = self.queries_keys_values(self.qkv(x))
        with torch.autocast("cpu", enabled=False):           # on a CPU its gradient in bfloat16 takes many times as long
            attended = F.scaled_dot_product_attention(q, k, v.float() if v.device.type == "cpu" else v)
        return self.attention_out(rearrange(attended, "b a n d -> b n (a d)"))

    def queries_keys_values(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=self.heads)
        return self.query_norm(q.float()), self.key_norm(k.float()), v           # norms carry the precision: float32

    def weights(self, qkv: Tensor) -> Tensor:
        """How much of what each token reads comes from where: (b, heads, n, n), rows read and sum to 1."""
        q, k, _ = self.queries_keys_values(qkv)
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


class LatentMapper(nn.Module):
    """Latents of the given modalities -> latents of `target`, all directions and fusions in one model.

    z: (b, m, k, h, w) raw VAE latents, one slot a modality; given: (b, m) bool, the slots to read (the others may hold
    anything); target: (b,) modality numbers -> (b, k, h, w) raw latents.
    """

    def __init__(self, config: MapperConfig):
        super().__init__()
        self.config = config
        m, k, d, n = config.modalities, config.latent_channels, config.width, config.neighbourhood
        self.guidance = Guidance(m, d)
        self.embed = nn.Linear(m * k, d)
        self.blocks = nn.ModuleList(Block(d, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)
        self.head = zero(nn.Linear(d, k))
        # latents are normalised inside, so that no caller can forget it
        self.register_buffer("latent_mean", torch.zeros(k, 1, 1))
        self.register_buffer("latent_deviation", torch.ones(k, 1, 1))
        self.register_buffer("ridge_kernel", torch.zeros(m, 2**m, k, m * k, n, n))    # by target and set of sources
        self.register_buffer("ridge_bias", torch.zeros(m, 2**m, k))

    def forward(self, z: Tensor, given: Tensor, target: Tensor) -> Tensor:
        sources = self.normalise(z, given)
        mapped = self.ridge(sources, given, target) + self.transform(sources, given, target)
        return mapped * self.latent_deviation + self.latent_mean

    def loss(self, z: Tensor, given: Tensor, target: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Mean absolute error [SD of a latent]; wanted: (b, k, h, w) raw. The generator is for mappers that learn by chance."""
        return ((self(z, given, target) - wanted) / self.latent_deviation).abs().mean()

    def normalise(self, z: Tensor, given: Tensor) -> Tensor:
        """Raw latents (b, m, k, h, w) -> of mean 0 and deviation 1, absent modalities 0: (b, m k, h, w)."""
        return rearrange(only((z.float() - self.latent_mean) / self.latent_deviation, given), "b m k h w -> b (m k) h w")

    def transform(self, sources: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The transformer: normalised latents (b, m k, h, w) to the correction of the ridge; zero before training."""
        h, w = sources.shape[-2:]
        condition = self.guidance(given, target)
        tokens = self.embed(rearrange(sources, "b c h w -> b (h w) c"))       # one token per latent pixel
        tokens = tokens + position_code(h, w, self.config.width, sources.device)
        for block in self.blocks:
            tokens = block(tokens, condition, (h, w))
        return rearrange(self.head(self.norm(tokens)).float(), "b (h w) k -> b k h w", h=h)

    def ridge(self, sources: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The linear start: each target latent from the latents of all sources around it."""
        out = sources.new_empty(len(sources), self.config.latent_channels, *sources.shape[-2:])
        with torch.autocast(sources.device.type, enabled=False):
            for t, number in torch.stack([target, subset_number(given)], 1).unique(dim=0).tolist():
                rows = (target == t) & (subset_number(given) == number)
                out[rows] = F.conv2d(sources[rows], self.ridge_kernel[t, number], self.ridge_bias[t, number], padding="same")
        return out

    def ridge_latents(self, z: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The ridge alone, raw latents to raw latents: the baseline that the transformer has to beat."""
        return self.ridge(self.normalise(z, given), given, target) * self.latent_deviation + self.latent_mean

    @torch.no_grad()
    def attention_maps(self, z: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """Which places each place reads, in every block: (depth, b, heads, n, n), n = h w, row by row. Arguments as `forward`.

        Tokens hold all sources of a place, so the maps tell places apart, not modalities. Training never computes them.
        """
        maps = []
        hooks = [block.qkv.register_forward_hook(lambda _layer, _input, qkv, block=block: maps.append(block.weights(qkv)))
                 for block in self.blocks]
        try:
            self(z, given, target)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(maps)

    @torch.no_grad()
    def fit_ridge(self, latents: Tensor, have: Tensor, penalty: float = 1e-2) -> LatentMapper:
        """Set normalisation and the ridge of every set of sources and target that some slice has. Closed form, seconds.

        latents: (n, m, k, h, w) raw, absent modalities anything; have: (n, m) bool.
        One Gram matrix of all patches of all modalities holds every regression: each is a choice of its rows and columns.
        """
        m, k, size = self.config.modalities, self.config.latent_channels, self.config.neighbourhood
        present = latents[have].float()                      # (p, k, h, w)
        self.latent_mean.copy_(present.mean((0, 2, 3)).view(k, 1, 1))
        self.latent_deviation.copy_(present.std((0, 2, 3)).clamp_min(1e-6).view(k, 1, 1))
        patterns, pattern_of = have.unique(dim=0, return_inverse=True)
        grams = [self.gram(latents[pattern_of == i], have[pattern_of == i]) for i in range(len(patterns))]
        modality_of = torch.arange(m, device=latents.device).repeat_interleave(k * size**2)    # of each feature
        for t in range(m):
            centres = t * k * size**2 + torch.arange(k, device=latents.device) * size**2 + size**2 // 2
            for number in range(1, 2**m):
                sources = subset(number, m).to(have.device)
                useful = [gram for gram, pattern in zip(grams, patterns) if pattern[t] and pattern[sources].all()]
                if sources[t] or not useful:
                    continue
                gram = torch.stack(useful).sum(0)
                features = torch.cat([sources[modality_of].nonzero()[:, 0], centres.new_tensor([len(gram) - 1])])
                weights = solve_ridge(gram[features[:, None], features], gram[features[:, None], centres], penalty).float()
                self.ridge_kernel[t, number] = 0
                self.ridge_kernel[t, number][:, sources.repeat_interleave(k)] = rearrange(
                    weights[:-1], "(c a b) o -> o c a b", a=size, b=size)
                self.ridge_bias[t, number] = weights[-1]
        return self

    def gram(self, latents: Tensor, have: Tensor, batch: int = 32) -> Tensor:
        """Sum over all places of x x^T, x = (size x size patches of all modalities, 1): (f + 1, f + 1), float64."""
        total = 0
        for z, given in zip(latents.split(batch), have.split(batch)):
            patches = F.unfold(self.normalise(z, given), self.config.neighbourhood, padding=self.config.neighbourhood // 2)
            x = F.pad(rearrange(patches, "b f n -> (b n) f").double(), (0, 1), value=1.0)
            total = total + x.T @ x
        return total


def ridge_regression(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Least squares with a penalty: argmin |[x 1] w - y|^2 + penalty * mean(diag) * |w|^2.

    x: (n, f), y: (n, o) -> (f + 1, o), the last row the intercept. penalty 0 is ordinary least squares.
    """
    x = F.pad(x, (0, 1), value=1.0).double()
    return solve_ridge(x.T @ x, x.T @ y.double(), penalty).to(y.dtype)


def solve_ridge(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """The same from x^T x (f, f) and x^T y (f, o), which add up over data that never meet in memory -> (f, o)."""
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + penalty * gram.diagonal().mean() * eye, cross)


def position_code(h: int, w: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sines and cosines of row and column, (h*w, width): any grid size, no learned table (Vaswani et al. 2017)."""
    frequency = 1 / 10_000 ** (torch.arange(width // 4, device=device) / (width // 4))

    def code(n: int) -> Tensor:
        angle = torch.arange(n, device=device)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], 1)

    rows = repeat(code(h), "h d -> (h w) d", w=w)
    return torch.cat([rows, repeat(code(w), "w d -> (h w) d", h=h)], 1)
