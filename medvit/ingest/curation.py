"""Checks of decoded images, and exclusion of images that fail them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medvit.attributes import MAPPING, OFFERED
from medvit.config import Config
from medvit.deidentification.vocabulary import clean
from medvit.dicom.acquisition import attributes
from medvit.ingest import duplicates, fundus_quality
from medvit.ingest.laterality import EyeConfig, eye_attributes
from medvit.ingest.quality_flags import flags
from medvit.leakage.perceptual_hash import hash_image
from medvit.measured import not_finite
from medvit.readers.channels import names_text
from medvit.records import CHANNELS, Candidate, Item, Refusal, Taken
from medvit.types import Image

MAPPING_TERMS = frozenset(("suv", "suvbw", "suvlbm", "suvbsa", "bqml", "r2", "b0", "b1", "fraction", "hz", "ppm"))
"""Quantity names in labels of real-world value mappings, in addition to the imaging vocabulary."""


class CurationConfig(Config):
    """Handling of duplicate images, and recording of image attributes."""

    duplicates: Literal["keep", "drop"] = "keep"
    """Handling of images with identical pixels. keep: keep all. drop: exclude copies and list them. If copies are in
    several splits, only those in test are kept, or those in val if none is in test. Within a split, one copy is kept
    for each different set of labels.
    """
    attributes: bool = True
    """Record scanner, technique, sex and age of DICOM images, a pseudonym of the institution, and the year of the study
    since the first study. Ages are recorded in years, and ages of 89 and above as one group.
    """


@dataclass(frozen=True)
class Curated:
    """Candidates and stored images after curation: those that are kept, and refusals of the others."""

    candidates: tuple[Candidate, ...]
    taken: Mapping[str, Taken]
    refusals: tuple[Refusal, ...]


def examined(image: Image, candidate: Candidate, eye: EyeConfig) -> dict[str, Any]:
    """Return the fields of `Taken` that are derived from a decoded image: flags, hashes, attributes.

    Raises:
        LateralityError: If the DICOM elements and the path of an eye image do not agree on one side.
    """
    item = candidate.item
    lost = not_finite(image.pixels)
    known = image if image.modality else replace(image, modality=item.modality)
    quality = fundus_quality.judge(known) if fundus_quality.is_judged(known) else fundus_quality.Quality(is_fundus=True)
    return {
        "flags": (*flags(known), *quality.flags),
        "perceptual_hash": hash_image(image.without_gaps().pixels),
        "file_sha256": _file_hash(item),
        "num_not_finite": None if lost is None else int(lost.sum()),
        "attributes": {
            **_shared_attributes(item),
            **({CHANNELS: names_text(image.channels)} if image.channels else {}),
            **({MAPPING: _label(image.mapping)} if image.mapping else {}),
            **({OFFERED: _labels(image.offered)} if image.offered else {}),
            **eye_attributes(candidate, known.modality, eye),
            **quality.attributes,
        },
    }


def _shared_attributes(item: Item) -> dict[str, str]:
    """Return the acquisition attributes of an image; of an image with named channels, those that all channels share."""
    first, *others = (attributes(part) for part in item.parts)
    return {key: text for key, text in first.items() if all(other.get(key) == text for other in others)}


def _label(text: str) -> str:
    """Return the label of a real-world value mapping without words that may name a person.

    The label is free text (VR LO). If no word is left, the result is `unnamed`.
    """
    return clean(text, allowed=MAPPING_TERMS) or "unnamed"


def _labels(offered: str) -> str:
    """Return the labels and units in the text `Image.offered`, without words of labels that may name a person."""
    pairs = [one.partition(" (") for one in offered.split(", ")]
    return ", ".join(f"{_label(label)}{opening}{unit}" for label, opening, unit in pairs)


def _file_hash(item: Item) -> str | None:
    if item.parts[0].reader == "dicom" or item.index is not None or len(item.files) != 1:
        return None
    with item.files[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def curate(
    candidates: Sequence[Candidate],
    taken: Mapping[str, Taken],
    config: CurationConfig,
    *,
    not_fundus: Literal["refuse", "flag"] = "refuse",
) -> Curated:
    """Report duplicates, and exclude images from the dataset.

    Duplicates are excluded if `config` requests it. Color photographs that do not show a fundus are excluded unless
    `not_fundus` is `flag`.
    """
    groups = duplicates.copies(candidates, taken)
    duplicates.tell(groups, stay=config.duplicates == "keep")
    dropped = duplicates.left_out(groups, taken) if config.duplicates == "drop" else {}
    if not_fundus == "refuse":
        dropped = {**dropped, **_no_fundus(candidates, taken)}
    stay = {key: found for key, found in taken.items() if key not in dropped}
    if not config.attributes:
        stay = {key: replace(found, attributes=_of_channels(found)) for key, found in stay.items()}
    return Curated(tuple(c for c in candidates if c.key not in dropped), stay, tuple(dropped.values()))


def _of_channels(taken: Taken) -> dict[str, str]:
    """Return the names of the channels, without which the pixels cannot be used."""
    return {key: text for key, text in taken.attributes.items() if key == CHANNELS}


def _no_fundus(candidates: Sequence[Candidate], taken: Mapping[str, Taken]) -> dict[str, Refusal]:
    reason = (
        "a color photograph of modality OP without a round field or the colors of a fundus; expected "
        "a fundus photograph: set its actual modality, or keep it with a flag by scanning.eye.not_fundus=flag"
    )
    found = (one for one in candidates if one.key in taken and "not_fundus" in (taken[one.key].flags or ()))
    return {one.key: one.refused("not_fundus", reason) for one in found}
