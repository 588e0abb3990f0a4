"""Write files whole or not at all: into a hidden file beside the path, which takes its name when it is complete."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HALF_WRITTEN = re.compile(r"\..+\.partial|\.[0-9a-f]{64}\.\d+\.b2nd")
"""Names of files that are being written: by `replacing`, and by a store of arrays."""


def is_of_disk(error: BaseException) -> bool:
    """Whether an error means that nothing more can be written here: a full disk, a quota, a read-only file system."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden path to write to; its file replaces `path` when the block ends, and is removed if that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(folder: Path, *, besides: Collection[str] = ()) -> None:
    """Remove what a process that was killed left half written in a folder and below it.

    Only files with names that the writers of medvit give are removed, and nothing in folders named in `besides`. The
    caller sees to it that nobody writes there.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in besides]
        for name in filter(HALF_WRITTEN.fullmatch, names):
            (Path(place) / name).unlink(missing_ok=True)


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata=dict(metadata) if metadata else None)
        partial.chmod((path.parent.stat().st_mode & 0o666) | 0o600)  # safetensors makes it the owner's alone


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)
