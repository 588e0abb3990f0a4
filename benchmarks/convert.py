"""Conversion of DICOM to the store, compared with dcm2niix, dicom2nifti and plain disk access on the same files."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.sources import Source, phantom_source, real_sources
from benchmarks.timing import alternate, print_table
from medvit import readers
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.store import Store
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig, map_items
from medvit.ingest.rows import rows
from medvit.ingest.scan import scan
from medvit.ingest.splits import SplitConfig, assign
from medvit.ingest.storing.images import ReadAndStore, store_images

MEDVIT, MEDVIT_2 = "medvit, 1 process", "medvit, 2 processes"
ALONE = "medvit, voxels alone"
TWO_AT_ONCE = "two at once, the machine's limit"
PLAIN, PACKED = "dcm2niix -z n (.nii)", "dcm2niix -z i (.nii.gz)"
DICOM2NIFTI, LIMIT = "dicom2nifti .nii.gz", "read files, write voxels"

Task = Callable[[Path], object]
"""Converter that writes into a folder."""


def run(folder: Path, repeats: int) -> None:
    """Print one table per source."""
    small = phantom_source(folder / "phantoms", num_series=16)
    large = phantom_source(folder / "hospital", num_series=12, shape=(512, 512, 60))
    for source in [*real_sources(), small, large]:
        stored = to_store(source.folder, folder / f"{source.folder.name}-stored", EngineConfig())
        _compare(source, stored, repeats, _other_tools(source.folder, packed=source is not large))


def to_store(source: Path, out: Path, engine: EngineConfig) -> Manifest:
    """Run the steps of `medvit ingest` without card and tracking: scan, read, store, manifest."""
    out.mkdir(exist_ok=True)
    pseudonyms = Pseudonyms(bytes(32), "bench")
    found = scan(source, engine=engine)
    candidates = assign(found.candidates, SplitConfig()).candidates
    function = ReadAndStore(out / "images", "")
    stored = store_images(candidates, function, folder=out, engine=engine, state=pseudonyms.state, stamps=found.stamps)
    manifest = Manifest(rows(candidates, stored.taken, pseudonyms, "bench"), Facts("bench"), out)
    manifest.write()
    return manifest


def _voxels_alone(source: Path, out: Path) -> None:
    """Convert DICOM to the store only, like other converters: no checks of image content, no manifest."""
    store = Store(out / "images")
    for candidate in scan(source, engine=EngineConfig()).candidates:
        store.put(readers.read(candidate.item).pixels)


def _two_at_once(source: Path, out: Path) -> None:
    """Run two independent ingests at once.

    Half of their time is a lower bound for the time of one ingest that uses two processes.
    """
    work, folders = partial(_one_of_two, source), [out / "0", out / "1"]
    for outcome in map_items(work, folders, config=EngineConfig(num_processes=2), title="two at once"):
        if outcome.error is not None:
            raise outcome.error


def _one_of_two(source: Path, out: Path) -> None:
    to_store(source, out, EngineConfig())


def _compare(source: Source, manifest: Manifest, repeats: int, others: dict[str, Task]) -> None:
    tasks: dict[str, Task] = {
        MEDVIT: lambda out: to_store(source.folder, out, EngineConfig()),
        MEDVIT_2: lambda out: to_store(source.folder, out, EngineConfig(num_processes=2)),
        ALONE: lambda out: _voxels_alone(source.folder, out),
        TWO_AT_ONCE: lambda out: _two_at_once(source.folder, out),
        LIMIT: lambda out: _copy(source.folder, arrays, out),
        **others,
    }
    arrays = [manifest.store.get(row.sha256).tobytes() for row in manifest]
    times = alternate(tasks, repeats=repeats)
    times[TWO_AT_ONCE] = times[TWO_AT_ONCE].halved
    own = times[MEDVIT].median
    lines = [
        (
            name,
            f"{1e3 * timing.median:.1f}",
            f"{1e3 * min(timing.seconds):.1f}",
            f"{len(manifest) / timing.median:.1f}",
            f"{source.num_bytes / timing.median / 2**20:.0f}",
            f"{timing.median / own:.2f}",
            "" if name in (MEDVIT_2, TWO_AT_ONCE) else f"{1e3 * timing.cpu_median:.0f}",
        )
        for name, timing in times.items()
    ]
    size = f"{source.num_bytes / 2**20:.1f} MiB in {source.num_files} files, {len(manifest)} images"
    print_table(f"{source.name}: {size}", ("", "ms", "least", "series/s", "MiB/s", "time / medvit's", "CPU ms"), lines)


def _other_tools(source: Path, *, packed: bool) -> dict[str, Task]:
    """Return tasks that convert a folder with the other tools that are installed.

    `packed` includes tasks that compress with gzip, which take a minute for a large folder.
    """
    tasks: dict[str, Task] = {
        PLAIN: lambda out: _dcm2niix(source, out, "n"),
        PACKED: lambda out: _dcm2niix(source, out, "i"),
        DICOM2NIFTI: lambda out: _dicom2nifti(source, out),
    }
    if not shutil.which("dcm2niix"):
        print("skipped: dcm2niix is not installed (a Debian package)")
        del tasks[PLAIN], tasks[PACKED]
    if not importlib.util.find_spec("dicom2nifti"):
        print("skipped: dicom2nifti is not installed (pip install 'medvit[bench]')")
        del tasks[DICOM2NIFTI]
    return tasks if packed else {name: task for name, task in tasks.items() if name == PLAIN}


def _dcm2niix(source: Path, out: Path, compression: str) -> None:
    # Without a sidecar (-b n), under names that cannot collide; -z i compresses in its own thread, never with pigz.
    command = ["dcm2niix", "-z", compression, "-b", "n", "-f", "%j_%s", "-o", str(out), str(source)]
    subprocess.run(command, check=False, capture_output=True)


def _dicom2nifti(source: Path, out: Path) -> None:
    import dicom2nifti

    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dicom2nifti.convert_directory(str(source), str(out), compression=True, reorient=False)
    logging.disable(logging.NOTSET)


def _copy(source: Path, arrays: list[bytes], out: Path) -> None:
    """Do the minimum that any converter must do: read every byte once and write every voxel once."""
    for path in source.rglob("*"):
        if path.is_file():
            path.read_bytes()
    for number, voxels in enumerate(arrays):
        (out / str(number)).write_bytes(voxels)
