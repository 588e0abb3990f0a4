"""Small plots of a data card: classes by split, sizes, spacings, intensities."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.document import Outside, Picture
from medvit.patients import assumed_patients
from medvit.records import splits_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "card"
COLORS = ("#3b6ea5", "#c8793a", "#5d9a6b", "#8d6bab", "#b05468", "#7a7a7a")
SIZE_INCHES, DPI = (4.2, 2.8), 110
MAX_RATIO_ON_A_LINEAR_AXIS = 100.0
MAX_CLASSES = 20
NUM_BINS = 40


@dataclass(frozen=True)
class Intensities:
    """Percentiles (1st, 50th and 99th) of the intensities of N sampled images of one modality, (N, 3), in `unit`."""

    modality: str
    unit: str
    percentiles: Float[Array, "n 3"]

    @property
    def name(self) -> str:
        """Modality (`unknown` if not stated) and unit."""
        return f"{self.modality or 'unknown'}{f' ({self.unit})' if self.unit else ''}"


def draw(manifest: Manifest, intensities: Sequence[Intensities]) -> list[Picture]:
    """Return all applicable plots."""
    plots: dict[str, tuple[str, Callable[[Axes], None]]] = {
        f"classes-{number}" if number else "classes": (
            Outside(f"Images by class of {key} and split"),
            lambda axes, key=key: _classes(axes, manifest, key),  # type: ignore[misc]
        )
        for number, key in enumerate(manifest.facts.classes)
        if len(manifest.facts.classes[key]) <= MAX_CLASSES
    }
    plots["sizes"] = "Images by size along each axis", lambda axes: _sizes(axes, manifest)
    if any(row.spacing_mm for row in manifest):
        plots["spacings"] = "Images by spacing along each axis", lambda axes: _spacings(axes, manifest)
    if intensities:
        plots["intensities"] = "Intensities of the sampled images", lambda axes: _intensities(axes, intensities)
    if any("age_years" in row.attributes for row in manifest):
        plots["ages"] = "Patients by age and split", lambda axes: _ages(axes, manifest)
    return [Picture.of(name, caption, _figure(plot)) for name, (caption, plot) in plots.items()]


def _figure(plot: Callable[[Axes], None]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    plot(axes)
    figure.legend(loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


def _classes(axes: Axes, manifest: Manifest, key: str) -> None:
    names = manifest.facts.classes[key]
    left = np.zeros(len(names))
    for split, color in zip(splits_of(manifest), COLORS, strict=False):
        counts = Counter(row.labels.get(key) for row in manifest if row.split == split)
        widths = np.array([counts[name] for name in names])
        axes.barh(range(len(names)), widths, left=left, color=color, label=split)
        left += widths
    axes.set_yticks(range(len(names)), [name if len(name) <= 18 else f"{name[:17]}…" for name in names])
    axes.invert_yaxis()
    axes.set_title(f"{key}: images by class and split", fontsize=9)


def _sizes(axes: Axes, manifest: Manifest) -> None:
    axes.set_title("Size, in pixels along each axis", fontsize=9)
    sizes = axis_sizes(manifest)
    every = np.concatenate(list(sizes.values()))
    step = max(1, int(np.ptp(every)) // NUM_BINS)
    _histograms(axes, sizes, np.arange(every.min() - 0.5, every.max() + step + 0.5, step))


def _spacings(axes: Axes, manifest: Manifest) -> None:
    axes.set_title("Spacing along each axis, in mm", fontsize=9)
    spacings = np.array([row.spacing_mm for row in manifest if row.spacing_mm])
    margin = 0.02 * float(np.ptp(spacings)) or 0.1 * float(spacings.max())
    edges = np.linspace(max(0.0, spacings.min() - margin), spacings.max() + margin, NUM_BINS + 1)
    _histograms(axes, {axis: spacings[:, index] for index, axis in enumerate("IJK")}, edges)


def _ages(axes: Axes, manifest: Manifest) -> None:
    axes.set_title("Age, in years (89 stands for older, too)", fontsize=9)
    known = {(row.patient_id, row.attributes["age_years"]): row for row in manifest if "age_years" in row.attributes}
    by_split = {
        split: np.array([float(age) for (_, age), row in known.items() if row.split == split])
        for split in splits_of(manifest)
    }
    _histograms(axes, {split: ages for split, ages in by_split.items() if len(ages)}, np.arange(0, 95, 5.0))
    axes.set_ylabel("patients, some assumed" if assumed_patients(manifest) else "patients", fontsize=8)


def axis_sizes(manifest: Manifest) -> dict[str, Float[Array, "n"]]:
    """Return, for each axis name, the size of every image along that axis; images without the axis are skipped."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for row in manifest:
        for axis, size in zip("IJK" if len(row.shape) == 4 else ("rows", "columns"), row.shape[1:], strict=True):
            sizes[axis].append(size)
    return {axis: np.array(values, dtype=np.float64) for axis, values in sizes.items()}


def _histograms(axes: Axes, values: dict[str, Float[Array, "n"]], edges: Float[Array, "b"]) -> None:
    # Thinner lines on top, so that equal distributions show through one another.
    for (axis, found), color, width in zip(values.items(), COLORS, (5.0, 3.0, 1.5, 1.5, 1.5), strict=False):
        axes.hist(found, edges.tolist(), histtype="step", linewidth=width, color=color, label=axis)
    axes.set_ylabel("images", fontsize=8)


def _intensities(axes: Axes, intensities: Sequence[Intensities]) -> None:
    start = 0
    for group, color in zip(intensities, COLORS * len(intensities), strict=False):
        low, middle, high = group.percentiles[np.lexsort(group.percentiles.T)].T
        positions = np.arange(start, start + len(low))
        axes.vlines(positions, low, high, color=color, alpha=0.5, linewidth=1)
        axes.plot(positions, middle, ".", color=color, markersize=3, label=group.name)
        start += len(low) + 2
    highs = np.concatenate([np.abs(group.percentiles[:, 2]) for group in intensities])
    if highs.max() > MAX_RATIO_ON_A_LINEAR_AXIS * max(float(np.median(highs)), 1e-9) or (
        highs.min() > 0 and highs.max() > MAX_RATIO_ON_A_LINEAR_AXIS * highs.min()
    ):
        axes.set_yscale("symlog", linthresh=max(1.0, float(np.median(highs)) / 100))
    axes.set_xticks([])
    axes.set_xlabel("sampled images", fontsize=8)
    axes.set_title("Intensity: 1st to 99th percentile, median as dot", fontsize=9)
