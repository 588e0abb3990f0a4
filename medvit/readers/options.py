"""What is wanted of images where files offer more than one answer, or none: values, and where voxels lie."""

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
"""The option that asks for values other than those stored."""


class ValuesConfig(Config):
    """Values of DICOM images, where a file offers more than those it stores."""

    pet: Literal["stored", "SUVbw"] = "stored"
    """PET as stored, in the unit of the file, or as uptake by body weight where the file says all that needs."""
    radiographs: Literal["stored", "displayed"] = "stored"
    """CR, DX, MG and fluoroscopy as stored, or as their own VOI table or window displays them, in 16 bits."""

    mapping: str | None = Field(default=None, min_length=1)
    """Label (0040,9210) of the real-world value mapping to take in place of the rescale, but of what `pet` and
    `radiographs` ask for. Unset: the only mapping of a file without a rescale."""

    @property
    def said(self) -> list[str]:
        """The options that are not at their default, as users set them."""
        return [f"values.{key}={value}" for key, value in self.model_dump(exclude_defaults=True).items()]

    def of(self, item: Item) -> Item:
        """An item that asks for the values wanted of its modality."""
        if item.modality == "PT" and self.pet != "stored":
            return replace(item, values=self.pet)
        if item.modality in RADIOGRAPHS and self.radiographs != "stored":
            return replace(item, values=self.radiographs)
        if self.mapping is not None and item.reader == "dicom":
            return replace(item, values="mapped", mapping=self.mapping)
        return item


class GridConfig(Config):
    """Where voxels lie, where a file says it in two ways or not at all."""

    nifti: NiftiForm | None = None
    """The form that decides where sform and qform of a NIfTI contradict each other; unset refuses such files."""
    assume: AnatomicalAxes | None = None
    """Anatomical axes of MetaImage and NRRD files that name none: LPS or RAS; unset refuses such files."""


class GeometryConfig(GridConfig):
    """Grids that are irregular, or that a file says in two ways or not at all; `geometry=resample` sets `irregular`."""

    irregular: Geometry = "refuse"
    """What makes no regular grid: refuse, resample to one (tilt and shear taken back), or keep DICOM slices as
    images."""

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
        """The config that one word is short for."""
        return cls(irregular=given) if isinstance(given, str) else given
