"""Assembly of a fine-tuning on slides: backbone, head and labeled slides, before their tiles are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.hardware import resolve_device
from medvit.heads import HeadConfig
from medvit.models.slide import SlideModelConfig
from medvit.models.tile_embedder import EmbeddedSlide, Embedder
from medvit.training.assembly import PositiveOf
from medvit.training.ensembles.folds import members_of
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.initialization import InitialModel
from medvit.training.slide_heads import SlideTraining, bag_head, common_tiles, labeled_slides, warn_of_pixels

SEEDS = 5
"""Default number of heads without folds."""


@dataclass(frozen=True)
class AssembledSlides:
    """Components of training on slides before their tiles are embedded, which takes long."""

    start: InitialModel
    embedder: Embedder
    head: HeadConfig
    slides: Manifest
    positive: str

    def training(self, config: FinetuningOptions, slides: Sequence[EmbeddedSlide], *, seed: int) -> SlideTraining:
        """Return the training of the heads on embedded slides.

        Raises:
            DataError: If the tiles of the slides differ in size or scale.
        """
        members = members_of(config.folds, config.num_members(seeds=SEEDS), seed)
        model = SlideModelConfig(
            backbone=self.start.config,
            head=self.head,
            members=len(members),
            features=self.embedder.features,
            tiles=common_tiles(slides, config.slides.skip_tiles),
            classes=self.slides.facts.classes[config.label],
            label=config.label,
            positive=self.positive,
        )
        options = (config.bags, members, config.optim.over({}), config.loader.over({}), config.trainer.over({}))
        return SlideTraining(model, slides, *options, config.balance, config.smoothing, seed)


def assemble_slides(
    config: FinetuningOptions,
    manifest: Manifest,
    pretrained: Checkpoint | None,
    positive_of: PositiveOf,
    *,
    failures: list[str],
) -> AssembledSlides:
    """Return backbone, head and labeled slides, after all checks that are possible before tiles are embedded.

    Raises:
        ConfigError: If the head does not accept bags, several devices are requested, or the backbone is randomly
            initialized.
        DataError: If there are fewer than two classes, or a split is empty.
    """
    warn_of_pixels(**config.set_for_pixels)
    manifest = manifest.without_flags(config.skip_flags)
    start = config.start(manifest, pretrained)
    if not start.is_trained:
        raise ConfigError(
            "tiles of slides are embedded by a frozen backbone, but this backbone has random weights; give "
            "checkpoint=FOLDER of a pretrained backbone, or backbone.weights"
        )
    embedder = Embedder(start.backbone, start.preprocess, config.bags.features, resolve_device("auto"))
    head = bag_head(config.head, config.trainer)
    slides = labeled_slides(manifest, config.label, failures, folds=config.folds)
    positive = positive_of(slides.facts, slides.facts.classes[config.label])
    return AssembledSlides(start, embedder, head, slides, positive)
