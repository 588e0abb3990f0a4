"""What ingest looks for in images beyond their pixels, and what it does with what it finds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medvit.config import Config
from medvit.ingest import Candidate, Taken, duplicates
from medvit.ingest.quality import flags
from medvit.readers.acquisition import attributes
from medvit.samples import Image, Item, Refusal
from medvit.similarity import perceptual_hash


class CurationConfig(Config):
    """What is recorded of images, and which are left out."""

    duplicates: Literal["keep", "drop"] = "keep"
    """Images with identical pixels: keep all, or drop those of less protected splits and true copies, and list them."""
    attributes: bool = True
    """Whether scanner, technique, age in years (89 and above as one) and sex of DICOM images are recorded."""


@dataclass(frozen=True)
class Curated:
    """What stays of candidates and of what was stored of them, and what is left out."""

    candidates: tuple[Candidate, ...]
    taken: Mapping[str, Taken]
    refusals: tuple[Refusal, ...]


def examined(image: Image, item: Item) -> dict[str, Any]:
    """The fields of `Taken` that come from a look at an image: flags, hashes and attributes."""
    known = image if image.modality else replace(image, modality=item.modality)
    return {
        "flags": flags(known),
        "perceptual_hash": perceptual_hash(image.pixels),
        "file_sha256": _file_hash(item),
        "attributes": dict(attributes(item)),
    }


def _file_hash(item: Item) -> str | None:
    if item.reader == "dicom" or item.index is not None or len(item.files) != 1:
        return None
    with item.files[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def curate(candidates: Sequence[Candidate], taken: Mapping[str, Taken], config: CurationConfig) -> Curated:
    """Tells of images with identical pixels, and leaves out what `config` says."""
    groups = duplicates.copies(candidates, taken)
    duplicates.tell(groups, stay=config.duplicates == "keep")
    dropped = duplicates.left_out(groups, taken) if config.duplicates == "drop" else {}
    stay = {key: found for key, found in taken.items() if key not in dropped}
    if not config.attributes:
        stay = {key: replace(found, attributes={}) for key, found in stay.items()}
    return Curated(tuple(c for c in candidates if c.key not in dropped), stay, tuple(dropped.values()))
