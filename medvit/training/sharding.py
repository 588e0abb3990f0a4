"""Weights sharded over processes by FSDP2 (Zhao et al., VLDB 2023).

Transformer blocks and the heads of self-distillation, which have nearly all weights, are sharded with their gradients
and optimizer averages, and gathered when they run. All other weights are replicated in every process, their gradients
averaged as in DDP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from medvit.distributed import part

UNIT = re.compile(r"(^|\.)(blocks|reading)\.\d+$|(^|\.)(student\.|teacher_)heads\.\w+$")
"""Names of modules to shard. All other modules only call the forward pass of these modules, and do not access their
weights.
"""

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""Names under which torch stores the FSDP2 hooks of forward passes and loading; it has no public way to remove them."""


def sharded_strategy(num_processes: int) -> ModelParallelStrategy:
    """Return the Lightning strategy for FSDP2; the state to resume from is one file, as for one process."""
    return ModelParallelStrategy(
        data_parallel_size=num_processes, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the blocks and heads of a module, in place; every process must have equal weights before the call."""
    for name, unit in list(module.named_modules()):
        if UNIT.search(name):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Return whether weights of a module are sharded."""
    return any(isinstance(weight, DTensor) for weight in module.parameters())


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors, gathered from the shards of all processes; all processes must call this."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in state.items()}


def average_replicated(module: nn.Module) -> None:
    """Average the gradients of replicated weights over processes, in one message."""
    gradients = [w.grad for w in module.parameters() if w.grad is not None and not isinstance(w, DTensor)]
    if not gradients:
        return
    joint = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joint)
    parts = (joint / distributed.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))


def gradient_norm(weights: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of the gradients of weights over all processes."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    shared = [part(gradient).float().square().sum() for gradient in gradients if isinstance(gradient, DTensor)]
    own = [gradient.float().square().sum() for gradient in gradients if not isinstance(gradient, DTensor)]
    zero = torch.zeros((), device=part(gradients[0]).device) if gradients else torch.zeros(())
    total = torch.stack([zero, *shared]).sum()
    distributed.all_reduce(total)
    return torch.stack([total, *own]).sum().sqrt()


def clip(weights: Iterable[nn.Parameter], largest: float) -> None:
    """Scale the gradients of weights, some of them sharded, so that their norm is at most `largest`."""
    weights = list(weights)
    factor = (largest / (gradient_norm(weights) + 1e-6)).clamp(max=1.0)  # as in torch's clip_grad_norm_
    for weight in weights:
        if weight.grad is not None:
            part(weight.grad).mul_(factor)


def gather(module: nn.Module) -> None:
    """Gather whole weights in place of shards, so that one process can continue alone; all processes must call this."""
    for unit in [unit for unit in module.modules() if isinstance(unit, FSDPModule)]:
        for owner in unit.modules():
            for name, weight in list(owner.named_parameters(recurse=False)):
                if isinstance(weight, DTensor):
                    full = weight.detach().full_tensor()  # type: ignore[attr-defined]
                    setattr(owner, name, nn.Parameter(full, requires_grad=weight.requires_grad))
            for hooks in HOOKS:
                getattr(owner, hooks).clear()
