"""Prediction of a batch compared with a plain loop over MONAI: studies a minute, peak memory and equality of masks.

Both use the same network, windows and overlap, loaded once, on the same number of threads. medvit reads DICOM studies;
it writes NIfTI only, or all of its default outputs. The plain loop (`benchmarks.plain_prediction`) reads and writes
NIfTI, one volume after the other, in fp32, whereas medvit computes in bfloat16 where the processor is fast in it. Each
program runs in a process of its own; its first studies, by which it loads libraries, are not counted.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array
from scipy import stats
from scipy.ndimage import zoom

from benchmarks.timing import print_table
from medvit import hardware
from medvit.deidentification.pseudonyms import SiteNames
from medvit.geometry import rescaled
from medvit.inference.series_selection import choose, studies
from medvit.models.image import AppliesTo
from medvit.phantoms import CT_CLASSES, ct, write_ct_pairs, write_ct_studies
from medvit.phantoms.dicom import PhantomPatient, write_ct_series
from medvit.readers import find, read
from pipelines.finetune import finetune
from pipelines.ingest import ingest

THREADS, MAX_REPEATS = 2, 3
NUM_SMALL, NUM_LARGE = 60, 2
LARGE_SHAPE, LARGE_SPACING_MM = (512, 512, 300), (4.0, 4.0, 4.0)
"""Voxels of a CT of a hospital's size, and the spacing at which its model computes."""
NUM_TRAINING, STEPS = 16, 120
POLL_S = 0.1
"""Seconds between two measurements of memory."""
PLAIN, ALL = "MONAI, plain loop", "dicom_seg,nifti,preview"
CONTENDERS: Mapping[str, Sequence[str]] = {
    PLAIN: ("benchmarks.plain_prediction",),
    "medvit, NIfTI, 1 process": ("benchmarks.race_contender", "1", "nifti"),
    "medvit, NIfTI, 2 processes": ("benchmarks.race_contender", "2", "nifti"),
    "medvit, all outputs, 1 process": ("benchmarks.race_contender", "1", ALL),
    "medvit, all outputs, 2 processes": ("benchmarks.race_contender", "2", ALL),
}
FIRST, COUNTED = "first", "counted"
"""Folders of the studies that are not counted, one for each process, and of the others."""


@dataclass
class Raced:
    """Measurements of one program: seconds and processor seconds a study of each repeat, and its peak memory."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    least_dice: float = math.nan
    """Lowest Dice score of a class in a study, compared with the mask of the plain loop."""


def run(folder: Path, repeats: int, model: Path | None = None) -> None:
    """Print the race on small CT phantoms, with at most `MAX_REPEATS` repeats."""
    write_ct_studies(folder / "studies" / FIRST, THREADS, seed=6)
    write_ct_studies(folder / "studies" / COUNTED, NUM_SMALL, seed=7)
    title = f"prediction of {NUM_SMALL} small CT phantoms, " + " x ".join(map(str, ct.SHAPE))
    _race(title, folder, model or _model(folder, None), min(repeats, MAX_REPEATS))


def run_large(folder: Path, repeats: int, model: Path | None = None) -> None:
    """Print the race on CT phantoms of a hospital's size, with at most `MAX_REPEATS` repeats."""
    for number in range(NUM_LARGE + THREADS):
        _write_large(folder / "studies" / (FIRST if number < THREADS else COUNTED) / f"study-{number}", number)
    title = f"prediction of {NUM_LARGE} CT phantoms, " + " x ".join(map(str, LARGE_SHAPE))
    _race(title, folder, model or _model(folder, LARGE_SPACING_MM), min(repeats, MAX_REPEATS))


def _write_large(folder: Path, number: int) -> None:
    phantom = ct.ct(np.random.default_rng([7, number]))
    factors = [new / old for new, old in zip(LARGE_SHAPE, phantom.hu.shape, strict=True)]
    hu = zoom(phantom.hu.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest").astype(np.int16)
    affine = rescaled(phantom.affine, phantom.hu.shape, LARGE_SHAPE)
    write_ct_series(folder, hu, affine, subject=PhantomPatient(7, number))


def _model(folder: Path, spacing_mm: tuple[float, float, float] | None) -> Path:
    """Return a small model after a short training, which makes its masks compact."""
    write_ct_pairs(folder / "pairs", NUM_TRAINING, seed=1)
    ingest(
        source=folder / "pairs",
        dataset=folder / "dataset",
        name="race",
        key=folder / "key",
        scanning={"modality": "CT"},
        labeling={"mask_classes": CT_CLASSES},
        tracking={"enabled": False},
    )
    intensity = {"method": "window", "window_center": 60, "window_width": 400}
    finetune(
        dataset=folder / "dataset",
        output=folder / "model",
        preprocess={"kind": "volume", "intensity": intensity, "spacing_mm": spacing_mm},
        backbone={"size": "micro", "patch_size": 8},
        peft="full",
        optim={"lr": 1e-3},
        crop=ct.SHAPE,
        loader={"batch_size": 2},
        trainer={"epochs": 1, "steps_per_epoch": STEPS},
        tracking={"enabled": False},
    )
    return folder / "model"


def _race(title: str, folder: Path, model: Path, repeats: int) -> None:
    for name in (FIRST, COUNTED):
        _write_volumes(folder / "studies" / name, folder / "volumes" / name, folder / "key")
    names = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "volumes" / COUNTED).iterdir())
    raced = {name: Raced() for name in CONTENDERS}
    for number in range(repeats):
        order = list(CONTENDERS) if number % 2 == 0 else list(CONTENDERS)[::-1]
        with TemporaryDirectory(dir=folder) as work:
            outputs = {name: Path(work) / str(index) for index, name in enumerate(CONTENDERS)}
            for name in order:
                source = folder / ("volumes" if name == PLAIN else "studies")
                arguments = map(str, (model, source, outputs[name], folder / "key"))
                printed, peak_mib = _run_alone([sys.executable, "-m", *CONTENDERS[name], *arguments])
                one = raced[name]
                one.seconds.append(printed["seconds"] / len(names))
                one.cpu_seconds.append(printed["cpu_seconds"] / len(names))
                one.peak_mib = max(one.peak_mib, peak_mib)
            for name in CONTENDERS:
                raced[name].least_dice = _least_dice(outputs[PLAIN] / COUNTED, outputs[name] / COUNTED, names)
    _print(title, raced)


def _write_volumes(source: Path, folder: Path, key: Path) -> None:
    """Write the volumes that medvit selects as NIfTI, named by the pseudonyms of their studies."""
    folder.mkdir(parents=True)
    rule = AppliesTo(kind="volume", modality="CT")
    for study in studies(find(sorted(source.rglob("*.dcm"))), source, SiteNames(key), rule).studies:
        image = read(choose(study, rule)[0])
        assert image.affine is not None
        hu = np.rint(image.intensities()[0]).astype(np.int16)
        nib.save(nib.Nifti1Image(hu, image.affine.matrix), folder / f"{study.name}.nii.gz")


def _run_alone(command: Sequence[str]) -> tuple[dict[str, float], float]:
    """Return what a process prints, and the peak memory of it and its children in MiB, without shared memory twice."""
    environment = {name: value for name, value in os.environ.items() if name not in hardware.THREADS}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    peak, is_over = [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(POLL_S):
            peak[0] = max(peak[0], sum(map(_memory_mib, _tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed, errors = process.communicate()
    is_over.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed:\n" + errors.decode()[-2000:])
    return json.loads(printed.splitlines()[-1]), peak[0]


def _tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has ended
        texts = []
    return [pid, *(one for child in " ".join(texts).split() for one in _tree(int(child)))]


def _memory_mib(pid: int) -> float:
    """Return the proportional set size of a process (proc_pid_smaps(5)); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _least_dice(expected: Path, found: Path, names: Sequence[str]) -> float:
    return min(dice for name in names for dice in _dices(_mask(expected / name), _mask(found / name)))


def _mask(folder: Path) -> UInt8[Array, "i j k"]:
    return np.asarray(nib.load(folder / "mask.nii.gz").dataobj).astype(np.uint8)


def _dices(expected: UInt8[Array, "i j k"], found: UInt8[Array, "i j k"]) -> list[float]:
    pairs = [(expected == label, found == label) for label in range(1, len(CT_CLASSES))]
    return [2.0 * float((a & b).sum()) / float(a.sum() + b.sum()) if (a | b).any() else 1.0 for a, b in pairs]


def _print(title: str, raced: Mapping[str, Raced]) -> None:
    lines = [
        (
            name,
            f"{60 / statistics.median(one.seconds):.1f}",
            _ratio(raced[PLAIN].seconds, one.seconds),
            "" if name.endswith("processes") else f"{1e3 * statistics.median(one.cpu_seconds):.0f}",
            f"{one.peak_mib:.0f}",
            f"{one.least_dice:.4f}",
        )
        for name, one in raced.items()
    ]
    columns = ("", "studies/min", "ratio [95 %]", "CPU ms a study", "peak MiB", "least Dice")
    print_table(title, columns, lines)


def _ratio(plain: Sequence[float], own: Sequence[float]) -> str:
    """Return the geometric mean of the ratios of the repeats, with a t-interval of their logarithms."""
    logs = [math.log(a / b) for a, b in zip(plain, own, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) < 2 or plain is own:
        return f"{math.exp(mean):.2f}"
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.2f} [{math.exp(mean - half):.2f}, {math.exp(mean + half):.2f}]"
