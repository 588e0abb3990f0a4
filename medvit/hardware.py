"""What this machine computes well, and which of several processes of one run this is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
"""Variables by which torchrun, Slurm and Lightning number the processes of a distributed run from 0."""


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
