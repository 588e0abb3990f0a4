"""Memory of a training: activations stored for the backward pass, and the number of images that fit on the device."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvit.backbones import Backbone
from medvit.errors import ConfigError
from medvit.hardware import memory_bytes, resolve_device
from medvit.models.image import Model
from medvit.training.trainer import TrainerOptions, resolve_precision

USABLE = {"cuda": 0.8, "cpu": 0.5}
"""Share of the memory that a training may use; a CPU shares it with the loader and other programs."""
OVERHEAD = 2.0
"""Ratio of the peak memory of an image to its stored activations: gradients and temporary arrays need as much again."""
TRAINED_BYTES, FROZEN_BYTES = 16, 4
"""Bytes per weight: 4 for float32; trained weights also need the gradient and the two moving averages of AdamW."""
BATCHES = (2, 3)
"""Sizes of the two batches whose memory is measured; the difference is that of one image. Batch norm needs two."""
GIB = 2**30


@dataclass(frozen=True)
class DeviceMemory:
    """Memory in bytes that a training may use, that its weights need, and that each image needs."""

    usable_bytes: int
    fixed_bytes: int
    image_bytes: int

    @property
    def num_images(self) -> int:
        """Number of images that fit into the memory at once."""
        return max(0, self.usable_bytes - self.fixed_bytes) // self.image_bytes

    def __str__(self) -> str:
        return f"an image needs {self.image_bytes / GIB:.2g} of {self.usable_bytes / GIB:.3g} GiB of memory"


@dataclass
class StoredBytes:
    """Bytes that autograd stores for the backward pass."""

    num_bytes: int = 0


@contextlib.contextmanager
def stored_for_backward(module: torch.nn.Module) -> Iterator[StoredBytes]:
    """Return a context that sums the bytes that autograd stores for the backward pass, except weights."""
    own = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    seen: set[int] = set()
    stored = StoredBytes()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own | seen:
            seen.add(storage.data_ptr())
            stored.num_bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield stored


def measure_memory(model: Model, crop: tuple[int, ...], trainer: TrainerOptions) -> DeviceMemory:
    """Return the memory that a training with these crops needs, from two forward passes on the device.

    Patch sizes and channels, which training draws at random, are those of the steps that need most.
    Neither weights, statistics of batch norms nor random numbers change.

    Raises:
        ConfigError: If `BATCHES` do not fit into the memory of the GPU.
    """
    device = _device()
    weights = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    fixed = sum(number * (TRAINED_BYTES if is_trained else FROZEN_BYTES) for number, is_trained in weights)
    try:
        few, more = (_stored_bytes(model.to(device), count, crop, trainer) for count in BATCHES)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"a batch of {BATCHES[1]} crops of {list(crop)} does not fit into the memory of the GPU; set a smaller "
            "crop, or loader.batch_size=1"
        ) from None
    finally:
        model.cpu()
    image = (more - few) // (BATCHES[1] - BATCHES[0])
    usable = int(USABLE[device.type] * memory_bytes(device))
    return DeviceMemory(usable, fixed, max(1, int(OVERHEAD * image)))


def _device() -> torch.device:
    """Return the device of this process; each process of a distributed run has its own."""
    device = resolve_device("auto")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0)) if device.type == "cuda" else device


def _stored_bytes(model: Model, count: int, crop: tuple[int, ...], trainer: TrainerOptions) -> int:
    device = next(model.parameters()).device
    pixels = torch.zeros(count, model.backbone.channels, *crop, device=device)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision(trainer.precision))
    half = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    with _unchanged(model), _costliest(model.backbone), half, stored_for_backward(model) as stored:
        model.train().at_levels(pixels)
    return stored.num_bytes


@contextlib.contextmanager
def _costliest(backbone: Backbone) -> Iterator[None]:
    """Return a context in which each step needs as much memory as any: with the smallest patches and all channels."""
    before = {"patch_sizes": backbone.patch_sizes, "channel_sampling": backbone.channel_sampling}
    backbone.patch_sizes, backbone.channel_sampling = tuple(sorted(backbone.patch_sizes, key=math.prod)[:1]), False
    try:
        yield
    finally:  # a batch may not fit
        for key, value in before.items():
            setattr(backbone, key, value)


@contextlib.contextmanager
def _unchanged(model: Model) -> Iterator[None]:
    """Return a context after which the buffers, the mode and the generators of random numbers are as before."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes: dict[Any, bool] = {module: module.training for module in model.modules()}
    with torch.random.fork_rng():
        yield
    with torch.no_grad():
        buffers: dict[str, Tensor] = dict(model.named_buffers())
        for name, value in before.items():
            buffers[name].copy_(value)
    for module, mode in modes.items():
        module.training = mode
