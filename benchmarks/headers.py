"""Headers scanned per second, memory of a scan, and cost of updating from an unchanged archive."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.timing import alternate, print_table
from medvit.engine import EngineConfig
from medvit.ingest.scan import scan
from medvit.phantoms.large_archive import write_archive

NUM_SLICES = 50
BOUND_MIB = 1024

SCAN = """
import resource, sys, time
from pathlib import Path
from medvit.engine import EngineConfig
from medvit.ingest.scan import scan

started = time.perf_counter()
found = scan(Path(sys.argv[1]), engine=EngineConfig(num_processes=int(sys.argv[2])))
seconds = time.perf_counter() - started
import multiprocessing
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for child in multiprocessing.active_children():
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    own += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(len(found.candidates), len(found.files), seconds, own / 1024)
"""


def run(folder: Path, repeats: int) -> None:
    """Print headers per second on a small archive, compared with pydicom."""
    archive = folder / "archive"
    write_archive(archive, num_series=40, num_slices=NUM_SLICES)
    files = sorted(archive.rglob("*.dcm"))
    times = alternate(
        {
            "medvit, 1 process: sniff, header, checks, series": lambda _: scan(archive),
            "medvit, 2 processes": lambda _: scan(archive, engine=EngineConfig(num_processes=2)),
            "pydicom.dcmread, no pixels": lambda _: _read_all(files),
        },
        repeats=repeats,
    )
    own = next(iter(times.values())).median
    lines = [(name, f"{len(files) / one.median:.0f}", f"{one.median / own:.2f}") for name, one in times.items()]
    print_table(f"headers of {len(files)} instances", ("", "headers/s", "time / medvit's"), lines)


def run_large(folder: Path, num_series: int) -> None:
    """Print time and peak memory of scanning and grouping a large archive, including child processes."""
    archive = folder / "large"
    started = time.perf_counter()
    write_archive(archive, num_series=num_series, num_slices=NUM_SLICES)
    print(f"\nwrote {num_series * NUM_SLICES} instances in {time.perf_counter() - started:.0f} s")
    for num_processes in (1, 2):
        command = [sys.executable, "-c", SCAN, str(archive), str(num_processes)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        mebibytes = float(shown[3])
        verdict = "below" if mebibytes < BOUND_MIB else "ABOVE"
        print(
            f"  {num_processes} process{'es' if num_processes > 1 else ''}: {shown[0]} volumes of {shown[1]} files in "
            f"{float(shown[2]):.1f} s, peak {mebibytes:.0f} MiB with children, {verdict} {BOUND_MIB} MiB"
        )


def _read_all(files: list[Path]) -> None:
    import pydicom

    for file in files:
        pydicom.dcmread(file, stop_before_pixels=True)
