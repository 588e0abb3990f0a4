"""One study from its files to its results: choose the series, read, predict, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import DataError
from medvit.inference.series_selection import DICOM, SeriesChoice, choose, num_fitting
from medvit.models.image import AppliesTo
from medvit.readers import read
from medvit.readers.options import ValuesConfig
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import Finding, Maker, Result, Study
from medvit.writers.dicom_seg import present_labels, write_seg
from medvit.writers.nifti import in_source_order, write_nifti, write_png
from medvit.writers.optional import write_optional
from medvit.writers.preview import write_preview
from medvit.writers.source_instances import read_sources

DUPLICATE = "duplicate"
"""Code of a refused second copy, which is no loss."""
MASK, SEG, PREVIEW = "mask", "segmentation", "preview"


@dataclass(frozen=True)
class StudyJob:
    """Does one study after the other with one model; call it with a study and the folder for its objects."""

    predict: Callable[[Image], Prediction]
    applies_to: AppliesTo
    names: SiteNames
    maker: Maker
    series: SeriesChoice = "best"
    codes: Mapping[str, str] = field(default_factory=dict)
    values: ValuesConfig = field(default_factory=ValuesConfig)

    def __call__(self, study: Study, folder: Path) -> Result:
        """What came of the study.

        Raises:
            NoSeriesError: If the model was made for none of its series.
            DataError: If the series cannot be read or is not what the model takes.
        """
        items = choose(study, self.applies_to, self.series)
        outputs: list[str] = []
        findings: list[Finding] = []
        notes = [*notes_on_patients(study), *_notes_on(study, num_fitting(study, self.applies_to) - len(items))]
        for item in items:
            name = self._name(study, item, findings)
            image = self._read(item)
            prediction = self.predict(image)
            suffix = f"-{name}" if len(items) > 1 else ""
            findings += findings_of(prediction, image, name)
            notes += self._write(item, image, prediction, folder, suffix)
            outputs += sorted(path.name for path in folder.iterdir() if path.name not in outputs)
        return Result("done", reason="; ".join(notes), outputs=tuple(outputs), findings=tuple(findings))

    def _read(self, item: Item) -> Image:
        """The image in the values that the model was trained on, without a label map that is stored beside it."""
        image = read(self.values.of(replace(item, mask=None)))
        if image.fallback:
            raise DataError(
                f"the model was trained on {image.fallback}, and the files do not say all that these values need; "
                "predict on series that do"
            )
        return image

    def _name(self, study: Study, item: Item, earlier: Sequence[Finding]) -> str:
        """The pseudonym of the series, with a number where it has more images than one."""
        name = self.names.series(study.series_key(item))
        taken = {finding.series for finding in earlier if finding.series.startswith(name)}
        return f"{name}-{len(taken) + 1}" if taken else name

    def _write(self, item: Item, image: Image, prediction: Prediction, folder: Path, suffix: str) -> list[str]:
        mask = prediction.mask
        if mask is not None and mask.ndim == 3 and prediction.affine is not None:
            write_nifti(folder / f"{MASK}{suffix}.nii.gz", *in_source_order(prediction, item))
        elif mask is not None and mask.ndim == 2:
            write_png(folder / f"{MASK}{suffix}.png", mask)
        preview, seg = folder / f"{PREVIEW}{suffix}.png", folder / f"{SEG}{suffix}.dcm"
        notes = write_optional("preview", preview, lambda: write_preview(preview, image, prediction))
        if mask is None:
            return notes
        if not present_labels(mask):
            return [*notes, "the mask is empty, so there is no DICOM segmentation"]
        if item.reader == DICOM:
            notes += write_optional("DICOM segmentation", seg, lambda: self._write_seg(item, prediction, seg))
        return notes

    def _write_seg(self, item: Item, prediction: Prediction, path: Path) -> list[str]:
        sources = read_sources(item)
        write_seg(path, prediction, sources, maker=self.maker, codes=self.codes)
        missing = ", ".join(sources.made_up)
        notes = [f"the source has no UID of its {missing}: the segmentation has a derived one"] if missing else []
        return [*sources.notes, *notes]


def findings_of(prediction: Prediction, image: Image, series: str) -> list[Finding]:
    """A line for every class: its probability, or how much of it there is; the background is left out."""
    if prediction.probabilities is not None:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        return [Finding(series, name, probability=float(value)) for name, value in pairs]
    assert prediction.mask is not None
    counts = np.bincount(prediction.mask.ravel(), minlength=len(prediction.classes))
    voxel_ml = prediction.affine.voxel_ml if prediction.affine is not None and image.kind == "volume" else None
    return [
        Finding(series, name, volume_ml=None if voxel_ml is None else int(count) * voxel_ml, num_voxels=int(count))
        for name, count in list(zip(prediction.classes, counts, strict=True))[1:]
    ]


def notes_on_patients(study: Study) -> list[str]:
    """A note where other patients have the same StudyInstanceUID."""
    return [f"{study.num_others} other patients have the same StudyInstanceUID"] if study.num_others else []


def _notes_on(study: Study, num_left: int) -> list[str]:
    notes = []
    if num_left > 0:
        notes.append(f"{num_left + 1} series fit the model, the largest was taken")
    refused = [refusal for refusal in study.refusals if refusal.code != DUPLICATE]
    if refused:  # perhaps the outermost slices of the very series: the grid does not show that they are missing
        notes.append(
            f"{sum(len(r.files) for r in refused)} files that may belong to it are left out: {refused[0].reason}"
        )
    if study.num_unreadable:
        notes.append(f"{study.num_unreadable} files beside the images cannot be read")
    return notes
