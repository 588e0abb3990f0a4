"""From a manifest to samples: load, preprocess once, keep in memory while there is room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.manifest import Manifest
from medvit.samples import Batch, Image, Row, Sample
from medvit.slices import stored_mask, stored_pixels
from medvit.transforms.preprocess import Preprocess

CACHE_BYTES = 6 * 2**30
"""Preprocessed samples kept in memory at most, by all processes of a loader together."""


def load(manifest: Manifest, row: Row) -> Image:
    """The image of a row, with its mask where it has one; pixels in their stored type.

    Raises:
        DataError: If the store has lost it.
    """
    store = manifest.store
    return Image(
        pixels=stored_pixels(store, row),
        kind=row.kind,
        modality=row.modality,
        affine=None if row.affine is None else Affine(np.array(row.affine).reshape(4, 4)),
        mpp=row.mpp,
        slope=row.slope,
        intercept=row.intercept,
        unit=row.unit,
        mask=stored_mask(store, row),
        row=row,
    )


class Samples(Dataset[Sample]):
    """Preprocessed images of a manifest. With `classes`, the target is the index of `row.labels[label]` in them.

    Raises:
        DataError: If a row has no label, or one that is not among the classes.
    """

    def __init__(
        self, manifest: Manifest, preprocess: Preprocess, *, label: str = "", classes: Sequence[str] = ()
    ) -> None:
        self.manifest, self.preprocess = manifest, preprocess
        self.label, self.classes = label, tuple(classes)
        self._cache: dict[int, Sample] = {}
        self._cached_bytes = 0
        if self.classes:
            self.class_indices = [self._class_index(row) for row in manifest]

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample:
        if index in self._cache:
            return self._cache[index]
        row = self.manifest.rows[index]
        prepared = self.preprocess(load(self.manifest, row))
        target = torch.tensor(self.class_indices[index]) if self.classes else prepared.mask
        sample = Sample(prepared.pixels, row, target, prepared.affine)
        size = sample.pixels.nbytes + (0 if target is None else target.nbytes)
        worker = get_worker_info()  # each process of a loader has a memory of its own
        if self._cached_bytes + size <= CACHE_BYTES // (worker.num_workers if worker else 1):
            self._cache[index] = sample
            self._cached_bytes += size
        return sample

    def _class_index(self, row: Row) -> int:
        found = row.labels.get(self.label)
        if found is None:
            known = ", ".join(sorted(row.labels)) or "none"
            raise DataError(f"{row} has no label {self.label!r} (it has {known}); give label=... or filter the dataset")
        if found not in self.classes:
            raise DataError(f"{row} has {self.label} = {found!r}; expected one of {', '.join(self.classes)}")
        return self.classes.index(found)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples of one shape."""
    targets = [sample.target for sample in samples if sample.target is not None]
    return Batch(
        pixels=torch.stack([sample.pixels for sample in samples]),
        targets=torch.stack(targets) if targets else None,
        rows=tuple(sample.row for sample in samples),
    )
