"""Runs the benchmarks: all but the large archive, or those that are named."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

from benchmarks import convert, crops, embedding, headers, tiles, updates

LARGE_SERIES = 2000
BENCHMARKS = {
    "convert": convert.run,
    "headers": headers.run,
    "crops": crops.run,
    "updates": updates.run,
    "tiles": tiles.run,
    "embedding": embedding.run,
}


def main() -> None:
    """The command `python -m benchmarks`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, "large", []], help="which; none runs all but large")
    parser.add_argument("--repeats", type=int, default=5, help="counted repeats of each task (default 5)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    arguments = parser.parse_args()
    print(f"medvit benchmarks on {platform.processor() or platform.machine()}, {os.cpu_count()} cores; ", end="")
    print("medians of alternating repeats after imports and one uncounted round; ratios count, not times")
    for name in arguments.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="medvit-bench-") as folder:
            if name == "large":
                headers.run_large(Path(folder), LARGE_SERIES)
            else:
                BENCHMARKS[name](Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
