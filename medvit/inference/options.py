"""Options of inference: model, source, series of a study, and the files to write."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from medvit.config import Config, Positive
from medvit.files.limits import MAX_VOLUME_GIB
from medvit.hardware import Device
from medvit.inference.series_selection import SeriesChoice, check_rule
from medvit.inference.slide_job import SlideOptions
from medvit.models.image import AppliesTo
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GridConfig, ValuesConfig
from medvit.sources import Location, RetrieveConfig
from medvit.writers import writer


class SeriesRule(Config):
    """Overrides for the rule by which the checkpoint chooses a series."""

    modality: str | None = None
    """DICOM modality such as CT or MR. Unset: that of the checkpoint."""
    description: str | None = None
    """Regex searched for in SeriesDescription, ignoring case. Unset: that of the checkpoint; `.*` any."""

    def over(self, rule: AppliesTo) -> AppliesTo:
        """Return the rule of the checkpoint with these overrides."""
        return check_rule(rule.model_copy(update=self.model_dump(exclude_none=True)))


class PredictionOptions(Config):
    """Options of inference, without those common to all stages."""

    checkpoint: Path
    """Folder of a fine-tuned model."""
    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR; or https://HOST/ROOT for DICOMweb, pacs://AET@HOST:PORT for DICOM."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    output: Path
    """New folder for the predictions."""
    stacks: StacksConfig | None = None
    """Folders of pictures that are one volume each, such as B-scans of OCT. Unset: each picture is an image."""
    geometry: GridConfig = Field(default_factory=GridConfig)
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Largest image or array, of any format, to decompress into memory; larger ones are refused."""
    series: SeriesChoice = "best"
    """Choice among several series that fit: best uses the one with most slices (for slides, every one), all uses every
    one, one refuses the study.
    """
    values: ValuesConfig | None = None
    """Pixel values to read from DICOM files, for checkpoints of versions that did not record those of training. Unset:
    as in training, or as stored if that is unknown.
    """
    applies_to: SeriesRule = Field(default_factory=SeriesRule)
    """Series to use, if not by the rule of the checkpoint."""
    outputs: tuple[str, ...] | None = None
    """Files to write, by their writers: dicom_seg, nifti, png and preview; for slides dicom_ann, geojson, heatmap and
    preview. Unset: all that apply. [] writes only the tables.
    """
    codes: dict[str, str] = Field(default_factory=dict)
    """Coded terms of classes in DICOM SEG: class name -> SCHEME:VALUE:MEANING; others are looked up by name."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, created on first use; with the key of ingest, a study has the same pseudonym."""
    device: Device = "auto"
    """Device: auto uses the GPU if there is one."""
    tiles: SlideOptions = Field(default_factory=SlideOptions)

    @field_validator("outputs")
    @classmethod
    def _are_writers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            writer(name)
        return value
