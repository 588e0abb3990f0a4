"""Section of a data card on eye images: laterality, quality of photographs, and en-face projections of OCT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.attributes import LATERALITY, MODALITIES, QUALITY, stratum
from medvit.dataset.manifest import Manifest
from medvit.dataset.thumbnails import SHOWN_PERCENTILES, montage, resized, showable, thumbnail
from medvit.document import Block, Picture, Section, Table
from medvit.patients import PatientCount
from medvit.records import Row, splits_of

SHOWN_VOLUMES = 6


def sections(manifest: Manifest) -> Iterator[Section]:
    """Yield the section if there are eye images."""
    rows = [row for row in manifest if row.modality in MODALITIES]
    if not rows:
        return
    blocks: list[Block] = [_table("eye", rows, [row.attributes.get(LATERALITY, "not stated") for row in rows])]
    if any(QUALITY in row.attributes for row in rows):
        blocks += [_table("quality", rows, [stratum(row) for row in rows])]
        blocks += ["Quality is the worst of sharpness, exposure and field of view: good from 0.8, poor below 0.5."]
    volumes = [row for row in showable(manifest, rows) if row.kind == "volume"]
    if volumes:
        blocks.append([_picture(manifest, volumes)])
    yield Section("Eyes", blocks)


def en_face(manifest: Manifest, row: Row) -> Float[Array, "h w"]:
    """Return the mean of a volume over depth, scaled from 0 to 1, with S at the top and R at the left.

    Depth is the front-to-back axis, the second one of (R, A, S). The result has the aspect ratio of the eye.
    """
    pixels = manifest.store.get(row.sha256)[0]
    seen = pixels.mean(axis=1)[::-1, ::-1].T
    along, _, between = row.spacing_mm or (1.0, 1.0, 1.0)
    low, high = np.percentile(seen, SHOWN_PERCENTILES)
    return resized(np.clip((seen - low) / (high - low or 1.0), 0.0, 1.0), height_to_width=between / along)


def _table(title: str, rows: Sequence[Row], names: Sequence[str]) -> Table:
    counts = Counter(zip(names, (row.split for row in rows), strict=True))
    patients = {
        name: PatientCount.of(row for row, own in zip(rows, names, strict=True) if own == name).cell
        for name in set(names)
    }
    splits = splits_of(rows)
    lines = [[name, patients[name], *(counts[name, split] for split in splits)] for name in sorted(patients)]
    return Table([title, "patients", *(f"images, {split}" for split in splits)], lines)


def _picture(manifest: Manifest, volumes: Sequence[Row]) -> Picture:
    shown = volumes[:: max(1, len(volumes) // SHOWN_VOLUMES)][:SHOWN_VOLUMES]
    titles = [row.attributes.get(LATERALITY, "") for row in shown]
    scans = list(zip(titles, (thumbnail(manifest, row) for row in shown), strict=True))
    fronts = list(zip(titles, (en_face(manifest, row) for row in shown), strict=True))
    caption = "Middle B-scans, and the same volumes from the front (mean over depth)"
    return Picture.of("en-face", caption, montage([("B-scans", scans), ("en face", fronts)]))
