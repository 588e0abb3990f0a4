"""Atomic writes: a hidden file next to the path is written, and renamed when it is complete."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HALF_WRITTEN = re.compile(r"\..+\.partial|\.[0-9a-f]{64}\.\d+\.b2nd")
"""Names of partial files, as written by `replacing` and by the pixel store."""
STALE_S = 24 * 3600.0
"""Age from which a partial file counts as a remnant of a killed process, in a folder that other processes write to."""


def is_of_disk(error: BaseException) -> bool:
    """Return whether an error means that the folder is not writable: full disk, quota, or read-only file system."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Return a context with a hidden path to write to.

    The temporary file replaces `path` at the end, or is removed on failure.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(folder: Path, *, besides: Collection[str] = ()) -> None:
    """Remove the partial files of killed processes from a folder and its subfolders.

    Only files named like medvit's partial files are removed. Folders whose names are in `besides` are skipped. The
    caller ensures that other processes do not write to the folder.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in besides]
        for name in filter(HALF_WRITTEN.fullmatch, names):
            (Path(place) / name).unlink(missing_ok=True)


def sweep_stale(folder: Path, names: re.Pattern[str]) -> None:
    """Remove partial files of killed processes from a folder to which other processes may be writing.

    `names` matches the names of partial files; files that changed within the last `STALE_S` seconds are kept.
    """
    for left in folder.iterdir():
        with suppress(OSError):
            if names.fullmatch(left.name) and time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata=dict(metadata) if metadata else None)
        partial.chmod((path.parent.stat().st_mode & 0o666) | 0o600)  # safetensors makes it readable only by its owner


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)
