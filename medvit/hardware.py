"""What this machine computes well."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


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
