"""Distributed training: rank of a process, and sums, maxima and gathers over all processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Environment variables by which torchrun, Slurm and Lightning number the processes of a distributed run from 0."""


def leads() -> bool:
    """Return whether this process is rank 0, or the only process of the run. Only rank 0 writes files."""
    return not any(int(os.environ.get(name) or 0) for name in RANKS)


def num_processes() -> int:
    """Return the number of processes that train together."""
    group = _group()
    return group.get_world_size() if group else 1


def summed(values: Tensor) -> Tensor:
    """Return the elementwise sum over all processes, without a gradient."""
    values = values.detach().clone()
    if group := _group():
        group.all_reduce(values)
    return values


def highest(value: Tensor) -> Tensor:
    """Return the elementwise maximum over all processes, without a gradient."""
    value = value.detach().clone()
    if group := _group():
        group.all_reduce(value, op=group.ReduceOp.MAX)
    return value


def summed_with_gradient(values: Tensor) -> Tensor:
    """Return the elementwise sum over all processes; the gradient flows back to the values of each process."""
    if not _group():
        return values
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(values)
    return total


def gathered_with_gradient(rows: Tensor) -> Tensor:
    """Return the rows (N, D) of all processes, stacked to (N * processes, D); gradients flow back to every process."""
    if not _group():
        return rows
    joint = rows.new_zeros(num_processes(), *rows.shape)
    joint[process()] = rows
    return summed_with_gradient(joint).flatten(0, 1)


def process() -> int:
    """Return the rank of this process."""
    group = _group()
    return group.get_rank() if group else 0


def part(tensor: Tensor) -> Tensor:
    """Return the shard of a tensor that this process stores; an unsharded tensor is returned unchanged."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _group() -> Any:
    """Return `torch.distributed` if several processes run together, else None.

    It is imported lazily, because a stage may not need torch.
    """
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None


def exactly(device: torch.device) -> torch.autocast:
    """Return a context that disables 16-bit computation.

    Some losses need this, because they are differences of nearly equal numbers.
    """
    import torch

    return torch.autocast(device.type, enabled=False)
