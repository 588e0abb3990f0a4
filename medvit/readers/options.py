"""Options for files that offer several answers, or none: pixel values and grids."""

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
"""Option that requests values other than those stored."""


class ValuesConfig(Config):
    """DICOM pixel values to read, if a file offers more than its stored values."""

    pet: Literal["stored", "SUVbw"] = "stored"
    """PET as stored, in the unit of the file, or as SUV by body weight where the file has all the needed elements."""
    radiographs: Literal["stored", "displayed"] = "stored"
    """CR, DX, MG and fluoroscopy as stored, or as displayed by their own VOI table or window, in 16 bits."""

    mapping: str | None = Field(default=None, min_length=1)
    """Label (0040,9210) of the real-world value mapping to use in place of the rescale, except for images covered by
    `pet` and `radiographs`. Unset: the only mapping of a file without a rescale.
    """

    @property
    def said(self) -> list[str]:
        """Return the options that are not at their default, as users set them."""
        return [f"values.{key}={value}" for key, value in self.model_dump(exclude_defaults=True).items()]

    @staticmethod
    def matter_for(item: Item) -> bool:
        """Return whether files of this kind may offer other values than those stored."""
        return item.reader == "dicom" and item.modality in ("PT", *RADIOGRAPHS)

    def of(self, item: Item) -> Item:
        """Return an item that requests the values set for its modality."""
        if item.modality == "PT" and self.pet != "stored":
            return replace(item, values=self.pet)
        if item.modality in RADIOGRAPHS and self.radiographs != "stored":
            return replace(item, values=self.radiographs)
        if self.mapping is not None and item.reader == "dicom":
            return replace(item, values="mapped", mapping=self.mapping)
        return item


class GridConfig(Config):
    """Geometry of files that define it twice or not at all."""

    nifti: NiftiForm | None = None
    """Form to use where the sform and qform of a NIfTI contradict each other. Unset: refuse such files."""
    assume: AnatomicalAxes | None = None
    """Anatomical axes of MetaImage and NRRD files that name none: LPS or RAS. Unset: refuse such files."""


class GeometryConfig(GridConfig):
    """Grids that are irregular, or defined twice or not at all; `geometry=resample` sets `irregular`."""

    irregular: Geometry = "refuse"
    """Images without a regular grid: refuse, resample (tilt and shear are undone), or keep DICOM slices as images."""

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
        """Return the config that a single word abbreviates."""
        return cls(irregular=given) if isinstance(given, str) else given
