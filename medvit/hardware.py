"""What this machine computes well, how memory is asked of it, and which of several processes of one run this is."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Variables by which torchrun, Slurm and Lightning number the processes of a distributed run from 0."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt` (malloc.h)."""
REUSED_BYTES, KEPT_BYTES = 32 * 2**20, 128 * 2**20
"""Blocks up to the first, which is the most glibc allows, are used again; up to the second is kept for that."""


@cache
def reuse_memory() -> None:
    """Lets this process use the memory of freed arrays again, for who makes many, instead of giving it back each time.

    Memory from the system comes filled with zeros, page by page, which on a virtual machine took up to a sixth of the
    time of an ingest. Only glibc is told so; elsewhere nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, REUSED_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def leads() -> bool:
    """Whether this process is the only one of a run, or the first of several: the one that writes."""
    return not any(int(os.environ.get(name) or 0) for name in RANKS)


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that a device multiplies in faster than in 32 bits; none where it has none.

    On a CPU that is bfloat16 with AVX512-BF16, AMX or Arm's BF16; elsewhere it is emulated and slow. On a GPU it is
    bfloat16 where supported, else float16.
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    capabilities = torch.cpu.get_capabilities()
    computes = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return torch.bfloat16 if computes else None
