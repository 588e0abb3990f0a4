"""Runner of the golden outputs' commands in this process, with the output of each in a file of its own.

All stages share a process, since importing torch for each would take longer than most of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.golden.masks import MADE_IN
from benchmarks.golden.plan import COMMANDS, NUM_SHORTENED, SUBSETS
from medvit import phantoms
from pipelines.__main__ import INTERRUPTED, STAGES, main

KEY = "site.key"
KEYED = ("ingest", "predict", "audit")
"""Stages with the option `key`."""
INPUTS = "in"
SEED = 7
TIME_S = 1_577_880_000
"""Modification time of all source files: 2020-01-01 12:00 UTC."""


def run(folder: Path, data: Path) -> None:
    """Write the golden outputs of this checkout into a new folder."""
    configs = Path("configs").absolute()
    folder.mkdir(parents=True)
    os.chdir(folder)
    Path(MADE_IN).write_text(str(folder), encoding="utf-8")
    write_key(Path(KEY))
    for name, patterns in SUBSETS.items():
        copy_files(data, patterns, Path(INPUTS, name))
    draw_phantoms(Path("phantoms"))
    set_times(Path(INPUTS), Path("phantoms"))
    Path("configs").symlink_to(configs)
    for name in STAGES:
        run_command([name, "--help"], Path("logs", f"help-{name}.txt"))
    for number, line in enumerate(COMMANDS, 1):
        words = [*shlex.split(line), *shared_options(line)]
        run_command(words, Path("logs", f"{number:02d}-{words[0]}.txt"))
    Path("configs").unlink()
    shutil.rmtree(INPUTS)


def shared_options(line: str) -> Iterator[str]:
    """Yield the common options of every command: the key of pseudonyms, and tracking off unless requested."""
    if line.split()[0] in KEYED:
        yield f"key={KEY}"
    if "tracking." not in line:
        yield "tracking.enabled=false"


def run_command(words: list[str], log: Path) -> None:
    """Run one command line; write its output and exit status to `log`, and print its time."""
    started = time.monotonic()
    log.parent.mkdir(exist_ok=True)
    with printing_to(log):
        status = main(words)
        print(f"exit status {status}")
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    print(f"{time.monotonic() - started:6.1f} s  status {status}  {' '.join(words)[:110]}", flush=True)


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Redirect standard output and error of this process and its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for original, descriptor in zip(kept, (1, 2), strict=True):
            os.dup2(original, descriptor)
            os.close(original)


def write_key(path: Path) -> None:
    """Write a fixed key, so that pseudonyms are equal in every run."""
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)


def copy_files(data: Path, patterns: tuple[str, ...], target: Path) -> None:
    """Copy the files of a data folder that match patterns to `target`, under their paths without the first folder."""
    found = sorted(path for pattern in patterns for path in data.glob(pattern))
    if not found:
        raise FileNotFoundError(f"nothing in {data} matches {', '.join(patterns)}; give --data=...")
    for path in found:
        place = target / Path(*path.relative_to(data).parts[1:])
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                np.savez(place, **{name: array[:NUM_SHORTENED] for name, array in arrays.items()})
        else:
            shutil.copy2(path, place)


def set_times(*folders: Path) -> None:
    """Set the same modification time for all files, because updates use it to detect changed files."""
    for path in (path for folder in folders for path in folder.rglob("*")):
        os.utime(path, (TIME_S, TIME_S))


def draw_phantoms(folder: Path) -> None:
    """Draw a few phantoms of every kind."""
    phantoms.write_ct_pairs(folder / "ct", 4, seed=SEED)
    phantoms.write_ct_studies(folder / "ct" / "unlabeled", 3, seed=SEED + 1)
    phantoms.lose_slice(folder / "ct" / "unlabeled" / "study-002" / "abdomen")
    phantoms.write_radiographs(folder / "radiographs", 12, seed=SEED)
    phantoms.write_radiograph_studies(folder / "radiographs", 3, seed=SEED + 2)
    phantoms.write_fundus(folder / "eyes", 8, seed=SEED)
    phantoms.write_oct_studies(folder / "eyes", 2, seed=SEED)
    phantoms.write_oct_stacks(folder / "stacks", 2, seed=SEED)
    phantoms.write_slides(folder / "slides", 12, seed=SEED)
    phantoms.write_slide_studies(folder / "new-slides", 2, seed=SEED + 3)


if __name__ == "__main__":
    run(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
