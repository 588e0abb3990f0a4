"""Hardware of this machine: numeric precision, memory allocation, threads and devices."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from threadpoolctl import ThreadpoolController

from typing import TYPE_CHECKING, Literal

from medvit.errors import ConfigError

if TYPE_CHECKING:
    import torch


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""
LARGEST_KEPT_BLOCK = 2**25
"""Largest M_MMAP_THRESHOLD that glibc accepts."""


@cache
def keep_freed_memory(kept_bytes: int | None = None) -> bool:
    """Keep freed memory for the next arrays of this process, up to a size or all; return whether that is supported.

    A training step frees and reallocates gigabytes, an ingest one array per slice. By default glibc returns large
    blocks to the system, which must then find and zero each page again: a fifth of the time of a training step (DINOv2,
    ViT-S) and up to a sixth of that of an ingest on a virtual machine. Only glibc has this setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    options = {M_MMAP_THRESHOLD: LARGEST_KEPT_BLOCK, M_TRIM_THRESHOLD: kept_bytes}
    if kept_bytes is None:
        options = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return all(mallopt(option, value) == 1 for option, value in options.items())


COLLECTION_THRESHOLDS = 50_000, 20, 20
"""Thresholds of `gc.set_threshold`: new objects between two garbage collections of the youngest generation, and so on.
"""


@contextmanager
def few_collections() -> Iterator[None]:
    """Context in which the garbage collector runs less often.

    If hundreds of thousands of objects without cycles are kept, such as headers of files, it would search them again
    and again: a third of the time to make them.
    """
    before = gc.get_threshold()
    if before[0]:  # 0 disables collection
        gc.set_threshold(*COLLECTION_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that set the number of threads of numeric libraries."""


@contextmanager
def one_thread_for_children() -> Iterator[None]:
    """Context in which new processes compute in one thread each, as many of them run side by side.

    Variables set by the user are kept.
    """
    added = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def one_blas_thread() -> AbstractContextManager[object]:
    """Context in which numpy's linear algebra uses only the calling thread.

    Small matrices take half as long again in several threads, which keep the cores busy waiting: an ingest used twice
    the processor time. While other work occupies the cores, they take ten times as long.
    """
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


@cache
def _libraries() -> ThreadpoolController:
    """Return the libraries with thread pools, those that are loaded at the first call."""
    import numpy  # noqa: F401 -- it brings its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a device multiplies faster than in 32 bits; None if there is none.

    On a CPU that is bfloat16 with AVX512-BF16, AMX or Arm's BF16; elsewhere it is emulated and slow. On a GPU it is
    bfloat16 where supported, else float16.
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities()
    computes = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return torch.bfloat16 if computes else None


Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> torch.device:
    """Return the device of `auto` on this machine: the GPU if there is one.

    Raises:
        ConfigError: If a GPU is requested and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; give device=auto or device=cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
