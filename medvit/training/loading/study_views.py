"""Views from two images of one study (VET-DINO, 2025), such as a frontal and a lateral radiograph."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from medvit.dataset.samples import Samples, TileSamples
from medvit.errors import ConfigError
from medvit.records import Row
from medvit.seeds import mixed_seed
from medvit.transforms.views import ImageViews, MakeViews, MultiCropConfig
from medvit.types import Sample


class ViewsOfStudy:
    """Transform from a sample and a seed to views; if configured, some local crops are from another image of the study.

    If a study has only one image, all views are of that image.
    """

    def __init__(self, make: MakeViews, samples: Samples) -> None:
        self.make, self.samples = make, samples
        self.is_across = isinstance(make.config, MultiCropConfig) and make.config.across_study
        self.by_study: dict[tuple[str, str], list[int]] = defaultdict(list)
        if self.is_across and isinstance(samples, TileSamples):
            raise ConfigError(
                "objective.views.across_study requires several images of a study, and is not supported for tiles of "
                "slides"
            )
        for index, row in enumerate(samples.manifest):
            self.by_study[row.patient_id, row.study_id].append(index)

    def __call__(self, sample: Sample, seed: int) -> ImageViews:
        """Return the views."""
        other = self.partner(sample.row, seed) if self.is_across else None
        return self.make(sample, seed, None if other is None else self.samples[other])

    def partner(self, row: Row, seed: int) -> int | None:
        """Return the index of another image of the same study; None if the study has only one image."""
        rows = self.samples.manifest.rows
        study = self.by_study[row.patient_id, row.study_id]
        others = [index for index in study if rows[index].image_id != row.image_id]
        if not others:
            return None
        return others[int(np.random.default_rng(mixed_seed(seed, 4)).integers(len(others)))]
