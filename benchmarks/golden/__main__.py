"""Golden outputs: the outputs of all stages before and after a change of the code, and their comparison.

    python -m benchmarks.golden make FOLDER [--data ../shared/data]
    python -m benchmarks.golden compare FOLDER_A FOLDER_B

`make` runs the code of the current checkout on one thread with fixed seeds and a fixed key. `compare` prints the
differences between two folders; its exit status is 1 if there are any. Differences that also occur between two runs of
the same code are masked (`masks`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from benchmarks.golden.content import content
from benchmarks.golden.masks import MADE_IN, Names

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS")
SHOWN_PER_FILE, SHOWN_CHARACTERS = 5, 120


def make(folder: Path, data: Path) -> int:
    """Write the outputs of this checkout into a new folder; return the exit status of the process.

    The outputs are written by a separate process, because libraries read the number of threads when they are loaded.
    """
    if folder.exists():
        print(f"{folder} exists already; give another folder or remove it", file=sys.stderr)
        return 2
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": "", "TZ": "UTC"}
    command = [sys.executable, "-m", "benchmarks.golden.run", str(folder.absolute()), str(data.absolute())]
    return subprocess.run(command, env=environment, check=False).returncode


def differences(a: Path, b: Path) -> Iterator[str]:
    """Yield a line for every difference between two folders of outputs."""
    names_a, names_b = Names.of_folder(a), Names.of_folder(b)
    files_a, files_b = files(a, names_a), files(b, names_b)
    for name in sorted(files_a.keys() | files_b.keys()):
        if name not in files_a or name not in files_b:
            yield f"{name}: only in {b if name not in files_a else a}"
            continue
        raw_a, raw_b = files_a[name].read_bytes(), files_b[name].read_bytes()
        if raw_a == raw_b:
            continue
        lines = list(changes(content(name, raw_a, names_a), content(name, raw_b, names_b)))
        yield from (f"{name}: {line}" for line in lines[:SHOWN_PER_FILE])
        if len(lines) > SHOWN_PER_FILE:
            yield f"{name}: and {len(lines) - SHOWN_PER_FILE} more"


def files(folder: Path, names: Names) -> dict[str, Path]:
    """Return the files of a folder by their relative paths, with names of the run replaced."""
    found = (path for path in folder.rglob("*") if path.is_file() and path != folder / MADE_IN)
    return {names.replace(path.relative_to(folder).as_posix()): path for path in found}


def changes(a: Any, b: Any) -> Iterator[str]:
    """Yield a line for every place where two contents differ."""
    for place in [*a, *(place for place in b if place not in a)]:
        if place not in a or place not in b:
            yield f"{place}: {' | '.join(shown(one[place]) if place in one else 'missing' for one in (a, b))}"
        elif isinstance(a[place], Array) and isinstance(b[place], Array):
            yield from (f"{place}: {line}" for line in array_changes(a[place], b[place]))
        elif not same(a[place], b[place]):
            start = first_difference(a[place], b[place])
            yield f"{place}: {shown(a[place], start)} | {shown(b[place], start)}"


def same(a: Any, b: Any) -> bool:
    """Return whether two values are equal in type and value; NaN equals NaN."""
    return type(a) is type(b) and (a == b or repr(a) == repr(b))


def array_changes(a: Array, b: Array) -> Iterator[str]:
    """Yield a line if two arrays are not equal bit for bit."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        yield f"{a.dtype} {a.shape} | {b.dtype} {b.shape}"
    elif a.tobytes() != b.tobytes():
        bits_a, bits_b = (np.frombuffer(array.tobytes(), f"V{array.itemsize}") for array in (a, b))
        (places,) = np.nonzero(bits_a != bits_b)
        where = tuple(int(index) for index in np.unravel_index(places[0], a.shape))
        yield f"{len(places)} of {a.size} values differ, first at {where}: {a[where]} | {b[where]}"


def first_difference(a: Any, b: Any) -> int:
    """Return the index of the first difference of two texts or bytes; 0 for other values."""
    if not (isinstance(a, str | bytes) and type(a) is type(b)):
        return 0
    return next((at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))


def shown(value: Any, start: int = 0) -> str:
    """Return a value as text for one line; of a long text, only the part around `start`."""
    if isinstance(value, str | bytes) and len(value) > SHOWN_CHARACTERS:
        before = max(0, start - SHOWN_CHARACTERS // 4)
        return f"{len(value)} long, from {before}: {value[before : before + SHOWN_CHARACTERS]!r}"
    text = repr(value)
    return text if len(text) <= 2 * SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def compare(a: Path, b: Path) -> int:
    """Print the differences between two folders of outputs; return 1 if there are any, else 0."""
    for folder in (a, b):
        if not folder.is_dir():
            print(f"no folder at {folder}; make one with `python -m benchmarks.golden make {folder}`", file=sys.stderr)
            return 2
    num_lines = 0
    for line in differences(a, b):
        print(line)
        num_lines += 1
    print(f"{num_lines} differences" if num_lines else "equal")
    return int(num_lines > 0)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="run the code of this checkout and write its outputs")
    making.add_argument("folder", type=Path, help="new folder")
    making.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of real data")
    comparing = commands.add_parser("compare", help="compare the outputs of two states of the code")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    given = parser.parse_args(arguments)
    return make(given.folder, given.data) if given.command == "make" else compare(given.a, given.b)


if __name__ == "__main__":
    sys.exit(main())
