"""Storage of tile embeddings: `FOLDER/KEY/SLIDE.npy`, float16 (N, D), written once and shared between runs.

`KEY` is the hash of everything that an embedding depends on: weights, preprocessing, and choice of tokens. Files are
plain arrays, since floats hardly compress; any program can open them, and medvit reads only the requested rows.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float16
from numpy import ndarray as Array

from medvit.errors import DataError, OutputError
from medvit.files.atomic import sweep_stale, write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger("medvit")

FOLDER = "embeddings"
"""Folder of embeddings in a dataset."""
FACTS = "embeddings.json"
PARTIAL = re.compile(r"\..+\.npy\.\d+\.partial")
DTYPE = np.dtype("<f2")


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of the tiles of one slide, in the order of its tile grid; `take` reads some of them onto `device`."""

    path: Path
    num_tiles: int
    width: int
    offset: int
    """Position of the first row in the file, in bytes."""
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return self.num_tiles

    def to(self, device: torch.device | str) -> Embeddings:
        """Return the same embeddings with another target device."""
        return replace(self, device=device)

    def take(self, indices: Tensor) -> Float[Tensor, "m d"]:
        """Return rows (M, D) as float32, in the order of the indices, without reading other rows.

        Raises:
            DataError: If the file is shorter than expected.
        """
        import torch

        wanted = indices.cpu().numpy()
        ordered, places = np.unique(wanted, return_inverse=True)
        runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
        with self.path.open("rb") as file:
            rows = np.concatenate([self._run(file, int(run[0]), len(run)) for run in runs])
        return torch.from_numpy(rows[places].astype(np.float32)).to(self.device)

    def _run(self, file: IO[bytes], first: int, count: int) -> Float16[Array, "m d"]:
        size = self.width * DTYPE.itemsize
        found = os.pread(file.fileno(), count * size, self.offset + first * size)
        if len(found) != count * size:
            raise DataError(f"{self.path} is truncated; remove the file, and the next run writes it again")
        return np.frombuffer(found, DTYPE).reshape(count, self.width)


class EmbeddingStore:
    """Folder of embeddings that were computed in the same way.

    `facts` describe everything that the embeddings depend on; `key` is the hash of these facts.
    """

    def __init__(self, folder: Path, key: str, facts: Mapping[str, object]) -> None:
        self.folder, self.facts = folder / key, facts

    def get(self, slide: str, num_tiles: int) -> Embeddings | None:
        """Return the stored embeddings of a slide, given its name and number of tiles; None if missing or damaged."""
        path = self.path(slide)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                offset = file.tell()
        except (ValueError, OSError):
            shape, dtype, offset = (), DTYPE, 0
        whole = len(shape) == 2 and path.stat().st_size == offset + int(np.prod(shape)) * dtype.itemsize
        if not whole or dtype != DTYPE or shape[0] != num_tiles:
            log.warning("%s is damaged; the embeddings are computed again", path)
            return None
        return Embeddings(path, num_tiles, shape[1], offset)

    @contextmanager
    def writing(self, slide: str, num_tiles: int, width: int) -> Iterator[Writer]:
        """Return a context that writes the embeddings of a slide in parts; the file appears when it is complete.

        Raises:
            OutputError: If the file cannot be written.
        """
        path = self.path(slide)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        header = {"descr": DTYPE.str, "fortran_order": False, "shape": (num_tiles, width)}
        try:
            self._make()
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                writer = Writer(file, width)
                yield writer
            assert writer.num_written == num_tiles, "expected as many embeddings as the slide has tiles"
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot write embeddings: {error.strerror}") from error
        finally:
            with suppress(OSError):  # if nothing could be written there is nothing to remove
                partial.unlink(missing_ok=True)

    def path(self, slide: str) -> Path:
        """Return the path of the embeddings of a slide."""
        return self.folder / f"{slide}.npy"

    def _make(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_stale(self.folder, PARTIAL)
        if not (self.folder / FACTS).is_file():
            write_text(self.folder / FACTS, json.dumps(self.facts, indent=2, sort_keys=True) + "\n")


class Writer:
    """Writer that appends rows to the file of a slide."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self._file, self.width, self.num_written = file, width, 0

    def append(self, rows: Float[Array, "m d"]) -> None:
        """Add the embeddings of the next tiles."""
        assert rows.shape[1] == self.width
        self._file.write(np.ascontiguousarray(rows, DTYPE).tobytes())
        self.num_written += len(rows)
