"""An option of stage 2: a mapper that says how sure it is, and draws whole latents instead of averaging them.

In the manner of MAR (Li et al. 2024, "Autoregressive image generation without vector quantization"): in training some of the
target's true latents are shown, and the transformer predicts the hidden ones; in use it draws a few, shows them to itself
and draws the next. MAR's head is a diffusion; an independent Laplace density for each channel is our choice.
"""
from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import VaeliteError
from .layers import zero
from .losses import laplace_nll
from .mapper import LatentMapper, MapperConfig

UNSEEN = 0.5                                                 # share of the training in which no target token is shown; our choice
SCALE_WEIGHT = 1e-2                                          # the scale learns beside the location, not in its place; our choice


class MaskedMapper(LatentMapper):
    """A LatentMapper that may also see some tokens of the target; called like one it sees none and returns the most likely.

    What is shown, predicted and drawn is the rest: what the ridge leaves over of the normalised latents (our choice).
    """

    def __init__(self, config: MapperConfig):
        super().__init__(config)
        m, k, d = config.modalities, config.latent_channels, config.width
        self.embed = nn.Linear(m * k + k + 1, d)             # sources, the shown rest, and whether it is shown
        self.head = zero(nn.Linear(d, 2 * k))                # of each channel the location and ln of the scale

    def density(self, sources: Tensor, rest: Tensor, visible: Tensor, given: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Laplace location and ln of its scale [SD of a latent] of every token's rest, if the visible ones are known.

        sources: (b, m k, h, w) normalised; rest: (b, k, h, w), read where visible: (b, 1, h, w) bool -> (b, k, h, w) each.
        """
        tokens = torch.cat([sources, rest.masked_fill(~visible, 0.0), visible], 1)
        return super().transform(tokens, given, target).chunk(2, 1)

    def transform(self, sources: Tensor, given: Tensor, target: Tensor) -> Tensor:
        nothing = sources.new_zeros(len(sources), self.config.latent_channels, *sources.shape[-2:])
        return self.density(sources, nothing, nothing[:, :1].bool(), given, target)[0]

    def loss(self, z: Tensor, given: Tensor, target: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Mean absolute error of the hidden tokens [SD of a latent] and, weighted, the likelihood of their scale.

        The minimum is that of the Laplace likelihood: its best location is the median whatever the scale, its best scale the
        mean error. Minimised as one, it weighs every error by 1 / scale, and the location of all but the surest tokens learns
        slowly (Seitzer et al. 2022).
        """
        sources = self.normalise(z, given)
        rest = (wanted - self.latent_mean) / self.latent_deviation - self.ridge(sources, given, target)
        order = random_order(rest, generator)
        progress, seeing = torch.rand(2, len(rest), 1, 1, 1, generator=generator)
        visible = shown(order, progress * (seeing > UNSEEN)) & (order > 0)       # the last one stays hidden, to be learnt
        visible = visible.to(rest.device)
        location, log_scale = self.density(sources, rest, visible, given, target)
        hidden = ~visible.expand_as(rest)
        error = (rest - location)[hidden]
        return error.abs().mean() + SCALE_WEIGHT * laplace_nll(error.detach(), log_scale[hidden])

    @torch.no_grad()
    def sample(self, z: Tensor, given: Tensor, target: Tensor, rounds: int = 8,
               generator: torch.Generator | None = None) -> Tensor:
        """Draw raw latents (b, k, h, w): in each round some tokens, in random order, given those drawn in earlier rounds.

        One round draws every token for itself. The arguments are those of `forward`. Raises VaeliteError without a round.
        """
        if rounds < 1:
            raise VaeliteError(f"A sample takes at least one round, not {rounds}. Set rounds to 1 or more.")
        sources = self.normalise(z, given)
        start = self.ridge(sources, given, target)
        drawn, order = torch.zeros_like(start), random_order(start, generator)
        before = torch.zeros_like(order, dtype=torch.bool)
        for number in range(1, rounds + 1):
            now = shown(order, torch.tensor(number / rounds))
            location, log_scale = self.density(sources, drawn, before.to(drawn.device), given, target)
            noise = torch.empty(2, *drawn.shape).exponential_(generator=generator).to(drawn.device)
            token = location + log_scale.exp() * (noise[0] - noise[1])           # two exponentials differ by a Laplace
            drawn = torch.where((now & ~before).to(drawn.device), token, drawn)
            before = now
        return (start + drawn) * self.latent_deviation + self.latent_mean


def random_order(latents: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random order of the tokens of each slice: (b, k, h, w) -> (b, 1, h, w), numbers from the last to be shown, 0, up."""
    b, _, h, w = latents.shape
    return rearrange(torch.rand(b, h * w, generator=generator).argsort(1), "b (h w) -> b 1 h w", h=h)


def shown(order: Tensor, progress: Tensor) -> Tensor:
    """Which tokens are visible after a share 0..1 of the rounds: few at first, many at last.

    The hidden share falls as a cosine, as in the decoding of MAR and before it of MaskGIT (Chang et al. 2022). Training draws
    from the same cosine, so it meets what decoding meets (MAR: a truncated normal).
    """
    return order >= (order[0].numel() * torch.cos(progress * math.pi / 2)).floor()
