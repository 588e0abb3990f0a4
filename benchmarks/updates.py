"""Time of a first ingest of an archive, and of an update without a change or after a change of one series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.sources import phantom_source
from benchmarks.timing import alternate, print_table
from pipelines.ingest import ingest


def run(folder: Path, repeats: int) -> None:
    """Print times of the whole stage, including card and plots."""
    source = phantom_source(folder / "source", num_series=16, shape=(512, 512, 40))
    options: dict[str, Any] = {
        "source": source.folder,
        "name": "bench",
        "key": folder / "key",
        "tracking": {"enabled": False},
    }

    def make(dataset: Path, **more: Any) -> None:
        ingest(dataset=dataset, **options, **more)

    make(folder / "earlier")
    times = alternate(
        {"first time": make, "unchanged": lambda dataset: make(dataset, update=folder / "earlier")}, repeats=repeats
    )
    first = times["first time"].median
    lines = [(name, f"{one.median:.2f}", f"{one.median / first:.3f}") for name, one in times.items()]
    title = f"medvit ingest, {source.num_files} files, {source.num_bytes / 2**20:.0f} MiB"
    print_table(title, ("", "s", "of the first"), lines)
