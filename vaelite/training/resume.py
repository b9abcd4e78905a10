"""A training that was stopped goes on at the step where it was, bit for bit."""
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..runs import code_version, write_atomically

EVERY_S = 60.0                                               # between two saves; what a stop can cost at most


class Resume:
    """The state of one running training in one file: weights, their running mean, the optimisers, the random generators.

    facts: what the state belongs to (configuration, data, seed); a file of other facts or other code is not used.
    generators: those that draw the batches.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *generators: torch.Generator, every_s: float = EVERY_S):
        self.path, self.generators, self.every_s = path, generators, every_s
        self.facts = json.loads(json.dumps(facts | {"code_version": code_version()}))
        self.last, self.found = time.monotonic(), False

    def is_due(self) -> bool:
        return time.monotonic() - self.last >= self.every_s

    def save(self, optimisers: list[torch.optim.Optimizer], mean: list[Tensor], step: int,
             history: list[dict[str, float]]) -> None:
        """Write the state after `step` steps, whole or not at all. The weights are those the optimisers train."""
        tensors = {f"mean.{i}": m for i, m in enumerate(mean)}
        for k, optimiser in enumerate(optimisers):
            tensors |= {f"weights.{k}.{i}": p.detach() for i, p in enumerate(trained(optimiser))}
            for i, state in optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser.{k}.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors |= {f"generator.{i}": g.get_state() for i, g in enumerate((torch.default_generator, *self.generators))}
        content = save({name: t.cpu().contiguous().clone() for name, t in tensors.items()},
                       {"facts": json.dumps(self.facts), "step": str(step), "history": json.dumps(history)})
        write_atomically(self.path, lambda temporary: Path(temporary).write_bytes(content))
        self.last = time.monotonic()

    def load(self, optimisers: list[torch.optim.Optimizer], mean: list[Tensor],
             ) -> tuple[int, list[dict[str, float]]]:
        """Put the state back -> (step, history); (0, []) if there is none of these facts."""
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):
            return 0, []
        if json.loads(about["facts"]) != self.facts:
            return 0, []
        for i, average in enumerate(mean):
            average.copy_(tensors[f"mean.{i}"])
        for k, optimiser in enumerate(optimisers):
            state = optimiser.state_dict()
            for i, parameter in enumerate(trained(optimiser)):
                parameter.detach().copy_(tensors[f"weights.{k}.{i}"])
                prefix = f"optimiser.{k}.{i}."
                state["state"][i] = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            optimiser.load_state_dict(state)
        for i, generator in enumerate((torch.default_generator, *self.generators)):
            generator.set_state(tensors[f"generator.{i}"])
        self.found = True
        return int(about["step"]), json.loads(about["history"])

    def finish(self) -> None:
        """The training is over and its stage saved: nothing to resume."""
        self.path.unlink(missing_ok=True)


def trained(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]
