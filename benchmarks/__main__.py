"""Command line of the benchmarks: runs those that are named, or by default all but the ones that run on request."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from benchmarks import (
    convert,
    crops,
    embedding,
    gpu,
    headers,
    lightly,
    pretraining,
    race,
    stack,
    tiles,
    tracker,
    updates,
)

LARGE_SERIES = 2000
ON_REQUEST = ("stack", "race_large", "tracker")
"""Benchmarks that run only if they are named, in addition to large, duplicates and guard."""
LIGHTLY = Path(".venv-lightly")
BENCHMARKS: dict[str, Callable[..., object]] = {
    "convert": convert.run,
    "headers": headers.run,
    "crops": crops.run,
    "updates": updates.run,
    "tiles": tiles.run,
    "embedding": embedding.run,
    "stack": stack.run,
    "tracker": tracker.run,
    "gpu": gpu.run,
    "race": race.run,
    "race_large": race.run_large,
    "pretraining": partial(pretraining.run, environment=LIGHTLY),
}


def main() -> None:
    """Run `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, "large", "duplicates", "guard", []], help="which")
    parser.add_argument("--repeats", type=int, default=5, help="counted repeats of each task (default 5)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="of duplicates and guard: real data")
    parser.add_argument("--model", type=Path, help="of race and race_large: checkpoint of CT (default: trained first)")
    text = f"first install lightly-train (AGPL) into {LIGHTLY}, to be measured by `pretraining`"
    parser.add_argument("--with-lightly", action="store_true", help=text)
    arguments = parser.parse_args()
    if arguments.names in (["duplicates"], ["guard"]):
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="medvit-bench-") as folder:
            import_module(f"benchmarks.{arguments.names[0]}").run(arguments.data, Path(folder))
        return
    if arguments.with_lightly:
        lightly.install(LIGHTLY)
    print(f"medvit benchmarks on {platform.processor() or platform.machine()}, {os.cpu_count()} cores; ", end="")
    print("medians of alternating repeats, after imports and one uncounted repeat; compare ratios, not times")
    for name in arguments.names or [name for name in BENCHMARKS if name not in ON_REQUEST]:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="medvit-bench-") as folder:
            if name == "large":
                headers.run_large(Path(folder), LARGE_SERIES)
            else:
                options = {"model": arguments.model} if arguments.model and name.startswith("race") else {}
                BENCHMARKS[name](Path(folder), arguments.repeats, **options)


if __name__ == "__main__":
    main()
