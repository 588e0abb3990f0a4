"""Options for files that offer several kinds of pixel values or grids, or lack a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medvit.config import Config
from medvit.dicom.header import RADIOGRAPHS
from medvit.records import AnatomicalAxes, Item, NiftiForm, Values
from medvit.series.resampling import Geometry

OPTIONS: Mapping[Values, str] = {
    "displayed": "values.radiographs=displayed",
    "SUVbw": "values.pet=SUVbw",
    "mapped": "values.mapping",
}
"""Kind of pixel values other than the stored ones -> option that requests it."""


class ValuesConfig(Config):
    """Conversion of DICOM pixel values (SUV, display, real-world mapping)."""

    pet: Literal["stored", "SUVbw"] = "stored"
    """PET values. stored: unchanged, in the unit of the file. SUVbw: converted to SUV by body weight, if the file has
    the required elements.
    """
    radiographs: Literal["stored", "displayed"] = "stored"
    """Values of CR, DX, MG and fluoroscopy images. stored: unchanged. displayed: converted by the VOI table or window
    of the file, to 16 bits.
    """

    mapping: str | None = Field(default=None, min_length=1)
    """Label (0040,9210) of the real-world value mapping to use instead of the rescale. Images that `pet` or
    `radiographs` converts are not affected. Unset: a mapping is used only if the file has exactly one and lacks a
    rescale.
    """

    @property
    def set_options(self) -> list[str]:
        """Return the options that differ from their defaults, as a user would write them."""
        return [f"values.{key}={value}" for key, value in self.model_dump(exclude_defaults=True).items()]

    @staticmethod
    def matter_for(item: Item) -> bool:
        """Return whether the file of an item may offer pixel values other than the stored ones."""
        return any(part.reader == "dicom" and part.modality in ("PT", *RADIOGRAPHS) for part in item.parts)

    def of(self, item: Item) -> Item:
        """Return the item, marked to be read with the pixel values that these options select for its modality."""
        if item.channels:
            return replace(item, channels=tuple((name, self.of(part)) for name, part in item.channels))
        if item.modality == "PT" and self.pet != "stored":
            return replace(item, values=self.pet)
        if item.modality in RADIOGRAPHS and self.radiographs != "stored":
            return replace(item, values=self.radiographs)
        if self.mapping is not None and item.reader == "dicom":
            return replace(item, values="mapped", mapping=self.mapping)
        return item


class GridConfig(Config):
    """Geometry of files that state it inconsistently or not at all."""

    nifti: NiftiForm | None = None
    """Transform to use if the sform and qform of a NIfTI file contradict each other. Unset: such files are refused."""
    assume: AnatomicalAxes | None = None
    """Anatomical axes of MetaImage and NRRD files that do not state theirs. Unset: such files are refused."""


class GeometryConfig(GridConfig):
    """Handling of irregular grids, and of grids defined twice or not at all; `geometry=resample` sets `irregular`."""

    irregular: Geometry = "refuse"
    """Handling of volumes that are not a regular grid of voxels. refuse: exclude the volume. resample: interpolate it
    to a regular grid, which also corrects shear. slices: store each DICOM slice as a separate 2D image.
    """

    @model_validator(mode="before")
    @classmethod
    def _from_one_word(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"irregular": given}
        if isinstance(given, dict) and "name" in given:  # geometry=resample beside geometry.nifti=sform
            return {"irregular": given["name"], **{key: value for key, value in given.items() if key != "name"}}
        return given

    @classmethod
    def of(cls, given: Self | Geometry) -> Self:
        """Return a config unchanged; convert a single word, such as `resample`, to a config."""
        return cls(irregular=given) if isinstance(given, str) else given
