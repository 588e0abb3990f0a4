"""Options of inference: model, source, series of a study, and the files to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from medvit.config import Config, Count, Positive
from medvit.files.limits import MAX_VOLUME_GIB
from medvit.hardware import Device, resolve_device
from medvit.inference.series_selection import SeriesChoice, check_rule
from medvit.inference.slide_job import SlideOptions
from medvit.models.image import AppliesTo
from medvit.readers.channels import ChannelsConfig
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GridConfig, ValuesConfig
from medvit.sources import Location, RetrieveConfig
from medvit.types import Orientation
from medvit.writers import writer

SETTINGS = ("stacks", "channels", "geometry", "values", "patch_size", "horizons")
"""Options on which a prediction depends, apart from its checkpoint and source."""


class SeriesRule(Config):
    """Series of a study to use, instead of the series that the checkpoint selects."""

    modality: str | None = None
    """DICOM modality of the series to use, such as CT or MR. Unset: the modality stored in the checkpoint."""
    description: str | None = None
    """Regex to search for in the SeriesDescription, ignoring case; `.*` accepts every series. Unset: the regex stored
    in the checkpoint.
    """

    orientation: Orientation | None = None
    """Direction of the planes of the series: sagittal, coronal or axial. Unset: as stored in the checkpoint."""
    spacing_mm: tuple[Positive, Positive] | None = None
    """Lowest and highest distance of neighboring slices, in mm. Unset: as stored in the checkpoint."""
    num_slices: tuple[Count, Count] | None = None
    """Lowest and highest number of slices. Unset: as stored in the checkpoint."""
    body_part: str | None = None
    """Regex to search for in BodyPartExamined, ignoring case. Unset: the regex stored in the checkpoint."""
    contrast: bool | None = None
    """Whether the header must state a contrast agent, or must not (false). Unset: as stored in the checkpoint."""

    def over(self, rule: AppliesTo) -> AppliesTo:
        """Return `rule`, the rule of the checkpoint, in which the options that are set here replace its values."""
        return check_rule(rule.model_copy(update=self.model_dump(exclude_none=True)))


class PredictionOptions(Config):
    """Options of inference, without those common to all stages."""

    checkpoint: tuple[Path, ...] = Field(min_length=1)
    """Folder of the model, made by finetune, or several folders, as in checkpoint=[a,b]. Several models must have been
    fine-tuned from one backbone. This backbone is loaded once, and images are encoded once for all models with the same
    adapter or without an adapter. Each model writes into a folder that is named after its checkpoint folder.
    """
    source: Location = Field(json_schema_extra={"private": True})
    """Images to read: a folder, file, archive or DICOMDIR, or a server. Servers are given as https://HOST/ROOT for
    DICOMweb and as pacs://AET@HOST:PORT for DICOM.
    """
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    output: Path
    """New folder for the predictions."""
    stacks: StacksConfig | None = None
    """Folders whose images form one volume each, such as B-scans of OCT. Unset: each image is a separate item."""
    channels: ChannelsConfig | None = None
    """Separate images, such as the sequences of an MR study, that form one image with named channels. Unset: as in the
    training dataset.
    """
    geometry: GridConfig = Field(default_factory=GridConfig)
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Maximum size in GiB of a decompressed image or volume, in any format. Larger ones are refused."""
    series: SeriesChoice = "best"
    """Choice among several matching series of a study. best: the series with the most slices; for whole slides, all
    series. all: all series. one: the only matching series; a study with several is refused.
    """
    values: ValuesConfig | None = None
    """Pixel values to read from DICOM files, for checkpoints that do not record the `values` of training. Unset: as
    recorded in the checkpoint or, if it records none, as stored in the files.
    """
    patch_size: Count | tuple[Count, ...] | None = None
    """Patch size, for a model that was trained with `backbone.patch_sizes`: large patches are faster,
    small patches resolve more detail. Unset: `backbone.patch_size` of the model.
    """
    reference: Path | None = None
    """Folder of embeddings of the training dataset, made by embed with the same checkpoint. The distance of each series
    from the training images is then written to `predictions.csv`, with a note in `status.csv` if it is larger than that
    of 95 % of the validation images. Unset: no distance is computed.
    """
    neighbors: int = Field(default=0, ge=0)
    """Number of nearest training images of other patients to list in `neighbors.csv` of each study, with their labels.
    They are found in `reference`. 0: none.
    """
    applies_to: SeriesRule = Field(default_factory=SeriesRule)
    """Series of a study to use. Unset options: as stored in the checkpoint."""
    horizons: tuple[Positive, ...] = ()
    """Times at which survival is predicted, in the unit of the label. Empty: the ends of the model's time intervals."""
    outputs: tuple[str, ...] | None = None
    """Output formats. For images and volumes: dicom_seg, nifti, png, preview and, only on request,
    dicom_seg_fractional, dicom_seg_labelmap and dicom_sr. For slides: dicom_ann, geojson, heatmap, preview. Unset: all
    others that apply. []: only tables of the results.
    """
    mc_dropout: Count | None = None
    """Number of additional passes with random dropout, such as 20, whose disagreement is written to `predictions.csv`.
    The prediction itself is unchanged. Refused for models without dropout. Unset: no additional passes.
    """
    operating_points: tuple[Path, ...] = ()
    """Report folders of evaluate with operating points, at most one for each model. The call at each point, positive or
    negative, is added to predictions.csv.
    """
    codes: dict[str, str] = Field(default_factory=dict)
    """Coded terms of the classes in DICOM SEG, as {CLASS: SCHEME:VALUE:MEANING}. The terms of classes that are not
    listed are looked up by their name.
    """
    series_number: Count | None = None
    """SeriesNumber of DICOM results, by which viewers sort the series of a study. Unset: the number of the source
    series plus 1000.
    """
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file from which pseudonyms are computed, created on first use. With the key file of ingest, a study gets the
    same pseudonym as in the dataset.
    """
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""
    tiles: SlideOptions = Field(default_factory=SlideOptions)

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Path) else value

    @field_validator("outputs")
    @classmethod
    def _are_writers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            writer(name)
        return value

    def settings(self) -> str:
        """Return the options on which a prediction depends, apart from its checkpoint and source, as text."""
        tree = self.tree()
        settings = {key: tree[key] for key in SETTINGS} | {"device": resolve_device(self.device).type}
        return json.dumps(settings | {"slide_mpp": self.tiles.slide_mpp}, sort_keys=True)
