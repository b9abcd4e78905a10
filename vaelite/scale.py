"""One training on several devices and nodes: every process computes its share of each batch, and all take the same step.

Each process draws the same whole batch from the same seed and keeps its rows; the gradients' mean over the processes is the
gradient of the whole batch. So N processes do what one would do, up to rounding (data parallelism). Lightning Fabric starts
the processes and joins them; a process that is alone needs neither it nor any message, and everything here hands back what
it was given.
"""
from __future__ import annotations

import atexit
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import VaeliteError


def launch(devices: int = 1, nodes: int = 1, device: str = "cpu") -> None:
    """Start this program `devices` times on this node, and join the other nodes; nothing to do if there are as many already.

    device: "cuda", one GPU a process, or "cpu". With several nodes each runs the same command, under srun, under
    `torchrun ... -m -- vaelite ...`, or with MASTER_ADDR, MASTER_PORT and NODE_RANK set; all nodes see the same run folder.
    Only the first process prints.
    Raises VaeliteError without Lightning Fabric or with fewer GPUs than `devices`.
    """
    if devices < 1 or nodes < 1:
        raise VaeliteError(f"Training needs at least one device and one node, not --devices {devices} --nodes {nodes}.")
    if devices * nodes == processes():
        return
    if device == "cuda" and devices > torch.cuda.device_count():
        raise VaeliteError(f"This machine has {torch.cuda.device_count()} GPUs, not {devices}. Lower --devices.")
    if device not in ("cpu", "cuda"):
        raise VaeliteError(f"Several devices are counted from the first: device must be 'cuda' or 'cpu', not '{device}'.")
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise VaeliteError('Several devices need Lightning Fabric: pip install "vaelite[scale]".') from error
    Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy="ddp").launch()
    atexit.register(leave)
    if not is_first():
        sys.stdout = open(os.devnull, "w")


def leave() -> None:
    """Part from the other processes. Before Python ends, not after: a thread of gloo that still holds a tensor then aborts it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return rank() == 0


def share(batch: Tensor) -> Tensor:
    """The rows of this process, (b / processes, ...), of the whole batch (b, ...). Raises VaeliteError if b does not divide."""
    if len(batch) % processes():
        raise VaeliteError(f"A batch of {len(batch)} has no equal shares for {processes()} processes. Choose a multiple, "
                           f"e.g. --set vae_fit.batch={processes() * (len(batch) // processes() + 1)}, or other --devices.")
    return batch.chunk(processes())[rank()]


def randn(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Normal noise for the rows of this process, drawn for the whole batch: each row gets the noise it would get alone."""
    return share(torch.randn(shape[0] * processes(), *shape[1:], generator=generator))


def averaged(tensors: list[Tensor]) -> list[Tensor]:
    """Each tensor's mean over the processes; one message for all of them."""
    if processes() == 1:
        return tensors
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    parts = (flat / processes()).split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors)]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace the gradient of a share by that of the whole batch."""
    reached = [p for p in parameters if p.grad is not None]
    for parameter, gradient in zip(reached, averaged([p.grad for p in reached])):
        parameter.grad = gradient


def from_first(value: Any) -> Any:
    """What the first process has for `value`; the others wait for it."""
    if processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def agreed(value: Any) -> bool:
    """Whether all processes have the same value; all learn it, so that all stop, or none."""
    if processes() == 1:
        return True
    values = [None] * processes()
    dist.all_gather_object(values, value)
    return all(other == value for other in values)


def start_alike(model: nn.Module) -> None:
    """Weights and buffers of the first process for all: other processors may have rounded theirs otherwise."""
    if processes() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)
