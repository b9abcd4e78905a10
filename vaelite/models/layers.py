"""Pieces that several networks are built of."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with weights and bias at zero: what it feeds starts as if it were not there."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Guidance(nn.Module):
    """Which modalities are given and which is wanted -> one condition vector: given (b, m) bool, target (b,) -> (b, d)."""

    def __init__(self, modalities: int, width: int):
        super().__init__()
        self.given = nn.Linear(modalities, width, bias=False)    # the sum of one vector for each modality given
        self.target = nn.Embedding(modalities, width)
        nn.init.normal_(self.given.weight)

    def forward(self, given: Tensor, target: Tensor) -> Tensor:
        return self.given(given.to(self.given.weight.dtype)) + self.target(target)


def in_slot(x: Tensor, modality: Tensor, modalities: int = 4, absent: float = 0.0) -> tuple[Tensor, Tensor]:
    """One modality alone, as networks of several sources read it: its slot filled, the others `absent`.

    x: (b, ...), images (b, h, w) or latents (b, k, h, w); modality: (b,) numbers -> (b, m, ...), and given (b, m) bool.
    """
    given = F.one_hot(modality, modalities).bool()
    return only(x[:, None].expand(-1, modalities, *x.shape[1:]), given, absent), given


def only(x: Tensor, given: Tensor, absent: float = 0.0) -> Tensor:
    """The given slots of x (b, m, ...), the others set to `absent`, whatever they held; given: (b, m) bool."""
    return x.masked_fill(~given.view(*given.shape, *[1] * (x.dim() - 2)), absent)


def subset_number(given: Tensor) -> Tensor:
    """A number for each set of modalities, 0 for none to 2^m - 1 for all: (b, m) bool -> (b,)."""
    return (given * 2 ** torch.arange(given.shape[1], device=given.device)).sum(1)


def subset(number: int, modalities: int = 4) -> Tensor:
    """The inverse of `subset_number` for one set: (m,) bool."""
    return torch.tensor([bool(number >> m & 1) for m in range(modalities)])
