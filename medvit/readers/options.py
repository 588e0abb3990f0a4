"""Which values of images are wanted, where a file offers more than those it stores."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from medvit.config import Config
from medvit.records import Item

RADIOGRAPHS = ("CR", "DX", "MG", "IO", "PX", "XA", "RF")
"""Modalities of projection X-ray (PS3.3 C.7.3.1.1.1)."""


class ValuesConfig(Config):
    """Values of DICOM images, where a file offers more than those it stores."""

    pet: Literal["stored", "SUVbw"] = "stored"
    """PET as stored, in the unit of the file, or as uptake by body weight where the file says all that needs."""
    radiographs: Literal["stored", "displayed"] = "stored"
    """CR, DX, MG and fluoroscopy as stored, or as their own VOI table or window displays them, in 16 bits."""

    def of(self, item: Item) -> Item:
        """An item that asks for the values wanted of its modality."""
        if item.modality == "PT":
            return replace(item, values=self.pet)
        return replace(item, values=self.radiographs) if item.modality in RADIOGRAPHS else item
