"""One visible training loop for every network of the kit, and the batches it is fed."""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.slices import SliceSet
from ..errors import VaeliteError
from ..models.adversarial import Adversary
from ..models.layers import subset
from ..scale import agreed, average_gradients, averaged, from_first, is_first, start_alike
from .resume import Resume


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast one network trains. All values are our choice."""

    steps: int = 1000
    processor_seconds: float = 0.0                           # if above 0: train until these are spent, whatever the steps
    batch: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05                                     # fraction of the training with a rising rate
    ema_decay: float = 0.99                                  # the kept weights are a running mean of the last ~100 steps
    bf16: bool = True                                        # compute in bfloat16 where the processor can: half the time


@dataclass(frozen=True)
class FitResult:
    """What a training leaves beside the weights: one record a step, and what it took."""

    history: list[dict[str, float]]                          # of each step: seconds and processor_seconds so far, the losses
    steps: int
    bf16: bool
    before: tuple[float, float] = (0.0, 0.0)                 # seconds and processor seconds until it was stopped and resumed


def clocks(device: str) -> tuple[float, float]:
    """Now, in seconds and in processor seconds: those of a CPU are the process's own, all its threads together, so that other
    programs do not spend a training's budget; those of a GPU are seconds."""
    now = time.perf_counter()
    return now, time.process_time() if device == "cpu" else now


def fit(model: nn.Module, batch_loss: Callable[[], dict[str, Tensor]], config: FitConfig,
        on_step: Callable[[str, int, float, dict[str, float]], None] | None = None,
        name: str = "model", resume: Resume | None = None, adversary: Adversary | None = None) -> FitResult:
    """Train the parameters of `model` that require gradients; leave the running mean of the weights in it.

    Several processes (see `scale`) take every step together; the first alone calls on_step and saves the state.

    batch_loss: draws a batch and returns named scalars, means over this process's share, of which "loss" is minimised.
    on_step: called as (name, step, fraction done, values) after every step.
    resume: where to save the state now and then, and to go on from if it holds one.
    adversary: what `batch_loss` asks for its opinion, if anything; it learns after every step.
    Raises VaeliteError at the first loss that is not a number; the weights then are the last good running mean.
    """
    start_alike(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=config.weight_decay,
                                  fused=True)               # on a CPU five times as fast as one operation after another
    mean = [p.detach().clone() for p in parameters]
    device = parameters[0].device.type
    bf16 = config.bf16 and has_bf16(device)
    optimisers = [optimiser, *([adversary.optimiser] if adversary else [])]
    step, history = resume.load(optimisers, mean) if resume else (0, [])
    if not agreed(step):
        raise VaeliteError(f"{resume.path} is not the same file for all processes. Put the run where every node sees it.")

    def spent() -> tuple[float, float]:
        return from_first(tuple(then + now - begun for then, now, begun in zip(before, clocks(device), start)))

    def done() -> float:
        return used / config.processor_seconds if config.processor_seconds > 0 else step / config.steps

    before = (history[-1]["seconds"], history[-1]["processor_seconds"]) if history else (0.0, 0.0)
    start = clocks(device)
    elapsed, used = before
    fraction = done()
    model.train()
    while fraction < 1:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate_factor(fraction, config.warmup)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            values = batch_loss()
        loss = values["loss"]
        values = dict(zip(values, averaged(list(values.values()))))  # before it is judged: all processes stop, or none
        if not torch.isfinite(values["loss"]):
            copy_into(parameters, mean)
            raise VaeliteError(f"The loss of '{name}' is {values['loss'].item()} at step {step}. Lower its learning_rate "
                               f"(now {config.learning_rate}) and look at the intensities of the training cases.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if adversary:
            values |= adversary.step()
        step += 1
        decay = min(config.ema_decay, step / (step + 9))     # early steps are forgotten quickly
        torch._foreach_lerp_(mean, [p.detach() for p in parameters], 1 - decay)
        elapsed, used = spent()                              # the first process's clock: all stop at the same step
        fraction = done()
        history.append({"step": step, "seconds": elapsed, "processor_seconds": used}
                       | {k: float(v.detach()) for k, v in values.items()})
        if on_step is not None and is_first():
            on_step(name, step, min(fraction, 1.0), history[-1])
        if resume and fraction < 1 and is_first() and resume.is_due():
            resume.save(optimisers, mean, step, history)
    copy_into(parameters, mean)
    model.eval()
    return FitResult(history, step, bf16, before)


def has_bf16(device: str) -> bool:
    """Whether the processor computes in bfloat16 itself; a CPU that only imitates it would be slower, not faster."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def rate_factor(fraction: float, warmup: float) -> float:
    """Learning rate as a share of its peak: linear rise, then half a cosine down to 1 %."""
    if fraction < warmup:
        return max(fraction / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


@torch.no_grad()
def copy_into(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Overwrite the parameters in place."""
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)


class PrintProgress:
    """Progress as plain lines, one at most every `every_s` seconds: readable in a terminal, a notebook and a log."""

    def __init__(self, every_s: float = 10.0):
        self.every_s = every_s
        self.last = -math.inf

    def __call__(self, name: str, step: int, fraction: float, values: dict[str, float]) -> None:
        now = time.monotonic()
        if fraction < 1 and now - self.last < self.every_s:
            return
        self.last = -math.inf if fraction >= 1 else now      # the next training starts with a line of its own
        left = values["seconds"] * (1 / fraction - 1)
        print(f"{name:>8}  step {step:6d}  {100 * fraction:3.0f} %  loss {values['loss']:.4f}  "
              f"{values['seconds']:5.0f} s, {left:4.0f} s left", flush=True, file=sys.stdout)


def draw_slices(slices: SliceSet, batch: int, generator: torch.Generator, device: str) -> Tensor:
    """A batch of single-modality slices (b, 1, h, w) in [-1, 1], each mirrored left-right with probability 1/2."""
    index = slices.have.nonzero()                            # (slice, modality) that exist
    chosen = index[torch.randint(len(index), (batch,), generator=generator)]
    x = slices.x[chosen[:, 0], chosen[:, 1]][:, None].float()
    mirror = torch.rand(batch, generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], x.flip(-1), x).to(device)


def tasks(have: Tensor) -> list[tuple[int, int]]:
    """All (number of a set of sources, target) that at least one slice has, single sources first. have: (n, m) bool."""
    m = have.shape[1]
    patterns = have.unique(dim=0)
    found = [(number, t) for number in range(1, 2**m) for t in range(m) if not subset(number, m)[t]
             and bool(patterns[:, subset(number, m) | F.one_hot(torch.tensor(t), m).bool()].all(1).any())]
    return sorted(found, key=lambda task: int(subset(task[0], m).sum()))


def directions(have: Tensor) -> list[tuple[int, int]]:
    """All (source, target) modality numbers for which at least one slice has both. have: (n, m) bool."""
    m = have.shape[1]
    return [(s, t) for s in range(m) for t in range(m) if s != t and bool((have[:, s] & have[:, t]).any())]


def draw_pairs(have: Tensor, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Row, source and target numbers (b,) of a batch: every direction equally often, rows that have both."""
    available = directions(have)
    if not available:
        raise VaeliteError("No training patient has two modalities, so there is nothing to translate. Add paired cases.")
    chosen = torch.randint(len(available), (batch,), generator=generator)
    source, target = torch.tensor(available)[chosen].unbind(1)
    both = have[:, source] & have[:, target]                 # (n, b)
    rows = torch.multinomial(both.T.float(), 1, generator=generator)[:, 0]
    return rows, source, target


def draw_tasks(have: Tensor, batch: int, generator: torch.Generator, fused: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (b,), given modalities (b, m) bool and targets (b,): pairs as above; a share `fused` of them gets further
    modalities of its slice as sources, one to all of them equally often, so that one network learns every subset."""
    rows, source, target = draw_pairs(have, batch, generator)
    pair = F.one_hot(source, have.shape[1]).bool() | F.one_hot(target, have.shape[1]).bool()
    further = have[rows] & ~pair
    number = (1 + torch.rand(batch, generator=generator) * further.sum(1)).long()
    number = number * (torch.rand(batch, generator=generator) < fused)
    place = torch.rand(further.shape, generator=generator).masked_fill(~further, 2.0).argsort(1).argsort(1)    # in a random order
    more = further & (place < number[:, None])
    return rows, F.one_hot(source, have.shape[1]).bool() | more, target
