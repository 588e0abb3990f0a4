"""Hardware of this machine: numeric precision, memory allocation, threads and devices."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
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
    """Let this process reuse freed memory instead of returning it to the system.

    Up to `kept_bytes` of freed memory are kept; all of it if unset. Return whether the system supports this.

    A training step frees and reallocates gigabytes, and an ingest allocates one array per slice. By default glibc
    returns large blocks to the system, which must then find and zero each page again: this takes a fifth of the time
    of a training step (DINOv2, ViT-S) and up to a sixth of that of an ingest on a virtual machine. Only glibc has this
    setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    options = {M_MMAP_THRESHOLD: LARGEST_KEPT_BLOCK, M_TRIM_THRESHOLD: kept_bytes}
    if kept_bytes is None:
        options = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return all(mallopt(option, value) == 1 for option, value in options.items())


COLLECTION_THRESHOLDS = 50_000, 20, 20
"""Thresholds of `gc.set_threshold`: number of new objects between two garbage collections of the youngest generation,
then numbers of collections of one generation between two of the next older generation.
"""


@contextmanager
def few_collections() -> Iterator[None]:
    """Return a context in which the garbage collector runs less often.

    While hundreds of thousands of objects are created and kept, such as file headers, the collector would scan them
    repeatedly. These objects have no reference cycles, and the scans take a third of the time.
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
    """Return a context in which new processes use one compute thread each, since many of them run in parallel.

    Thread-count variables that the user has set are kept.
    """
    added = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def one_blas_thread() -> AbstractContextManager[object]:
    """Return a context in which numpy's linear algebra uses only the calling thread.

    For small matrices, several threads take 1.5 times as long as one. Waiting threads also keep the other cores busy,
    so an ingest uses twice the processor time. If the cores are occupied by other work, several threads take ten times
    as long.
    """
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


@cache
def _libraries() -> ThreadpoolController:
    """Return the libraries with thread pools, as loaded when this function is first called."""
    import numpy  # noqa: F401 -- it brings its own
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type in which a device multiplies faster than in 32 bits; None if it has no such type.

    On a CPU this is bfloat16 if AVX512-BF16, AMX or Arm BF16 instructions are available; otherwise bfloat16 is
    emulated and slow. On a GPU it is bfloat16 if supported, else float16.
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities()
    computes = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return torch.bfloat16 if computes else None


CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, of cgroups 2 and 1."""


def memory_bytes(device: torch.device) -> int:
    """Return the memory of a GPU, or of this machine for a CPU; a limit of the container counts as its memory."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = [path.read_text(encoding="utf-8").strip() for path in CGROUP_LIMITS if path.is_file()]
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([own, *(int(limit) for limit in limits if limit.isdecimal())])


Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> torch.device:
    """Return the torch device for an option value; `auto` is the GPU if there is one, else the CPU.

    Raises:
        ConfigError: If a GPU is requested but not available.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch finds no GPU here; give device=auto or device=cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
