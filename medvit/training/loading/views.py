"""View loader of pretraining: views of images of one kind, or of two kinds in alternating batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from medvit.backbones import Backbone
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples, samples_of
from medvit.dataset.slices import SliceRow
from medvit.errors import DataError
from medvit.objectives import Twin
from medvit.records import Kind
from medvit.training.loading.epochs import LoaderConfig, TwoKinds, epoch_loader
from medvit.training.loading.study_views import ViewsOfStudy
from medvit.training.resume import Position
from medvit.training.task import LARGEST_VIEW, choose_preprocess, crop_size, require_fitting, require_whole_patches
from medvit.transforms.preprocess import Preprocess
from medvit.transforms.views import ImageViews, MakeViews, ViewsConfig, collate_views
from medvit.types import Sample
from medvit.wsi.locations import SlidesConfig


@dataclass(frozen=True)
class ViewStream:
    """Training images of one kind, their preprocessing, and their crops."""

    samples: Samples
    preprocess: Preprocess
    views: ViewsConfig
    """Crop options with all sizes set."""
    key: str = "views"
    """Name of the option group of the objective that `views` come from: `views` or `other_views`."""

    @classmethod
    def of(
        cls,
        samples: Samples,
        preprocess: Preprocess,
        backbone: Backbone,
        asked: ViewsConfig,
        *,
        key: str = "views",
    ) -> ViewStream:
        """Return training images with options of crops that fit the images and the backbone.

        `asked` are the options that the user has set; `key` is their name in messages.

        Raises:
            ConfigError: If crop options do not have as many axes as the backbone, or one of its patch sizes does not
                fit them.
        """
        own = {name.replace(".views.", f".{key}."): size for name, size in asked.sizes.items()}
        require_fitting(
            backbone.ndim, sizes=own, axes={f"objective.{key}.augment.flipped_axes": asked.augment.flipped_axes}
        )
        size = crop_size(samples.examples, preprocess, backbone.crop_multiple, LARGEST_VIEW)
        fitted = asked.fitted(size, backbone.crop_multiple)
        crops = {name: size for name, size in fitted.sizes.items() if not name.endswith("region")}
        require_whole_patches(backbone, {name.replace(".views.", f".{key}."): size for name, size in crops.items()})
        return cls(samples, preprocess, fitted, key)

    @classmethod
    def of_twin(cls, manifest: Manifest, given: Preprocess | None, twin: Twin) -> ViewStream:
        """Return the training images for the backbone of the other dimensionality.

        `given` is their preprocessing; if it is unset, one is chosen for the images.

        Raises:
            DataError: If there are no such images.
        """
        kind = "image" if twin.backbone.ndim == 2 else "volume"
        others = manifest.filter(lambda row: row.kind == kind)
        if not any(row.split == "train" for row in others):
            raise DataError(
                f"{manifest.folder} has no {kind} to train on; this objective trains on images and volumes: "
                "ingest both into one dataset, or choose another objective"
            )
        chosen = given or choose_preprocess(others).model_copy(update={"channels": twin.backbone.channels})
        samples = samples_of(manifest, chosen, SlidesConfig())
        return cls.of(samples, chosen, twin.backbone, twin.views, key="other_views")

    @property
    def sizes(self) -> dict[str, list[int]]:
        """Return the sizes of crops, keyed by option name."""
        return {key.rpartition(".")[2]: list(size) for key, size in self.views.sizes.items()}

    @property
    def make(self) -> ViewsOfStudy:
        """Transform that makes views from a sample and a seed."""
        return ViewsOfStudy(MakeViews(self.views, self.preprocess.intensity, key=self.key), self.samples)


class ByKind:
    """Transform from a sample and a seed to views, with separate settings for each of two kinds of images."""

    def __init__(self, streams: Sequence[ViewStream]) -> None:
        self.makers: dict[Kind, ViewsOfStudy] = {stream.preprocess.kind: stream.make for stream in streams}

    def __call__(self, sample: Sample, seed: int) -> ImageViews:
        """Return the views."""
        return self.makers[sample.row.kind](sample, seed)


def feed(
    config: LoaderConfig, streams: Sequence[ViewStream], *, num_batches: int, seed: int, start: Position
) -> DataLoader[Any]:
    """Return a loader of views. If there are two streams of images, their batches alternate."""
    samples = [stream.samples for stream in streams]
    is_one = len(streams) == 1
    return epoch_loader(
        config,
        samples[0] if is_one else TwoKinds(*samples),
        ByKind(streams),
        collate_views,
        num_batches=num_batches,
        seed=seed,
        start=start,
        num_first=None if is_one else len(samples[0]),
        patients=_patients_of_slices(samples[0]) if is_one else None,
    )


def _patients_of_slices(samples: Samples) -> list[str] | None:
    """Return the patient of each sample if some samples are slices of volumes, else None.

    The patients are needed to keep neighboring slices out of the same batch.
    """
    rows = samples.manifest.rows
    return [row.patient_id for row in rows] if any(isinstance(row, SliceRow) for row in rows) else None
