"""Write files whole or not at all: into a file beside it, which then takes its name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.partial")
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, partial)
    partial.chmod((path.parent.stat().st_mode & 0o666) | 0o600)  # safetensors makes it the owner's alone
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
