"""Options of `medvit explain`: the model, the images and the method."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medvit.config import Count
from medvit.errors import ConfigError
from medvit.explanations.explain import ExplanationOptions
from medvit.hardware import Device
from medvit.inference.slide_job import SlideOptions
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.wsi.locations import SlidesConfig


class ExplainedTilesConfig(SlideOptions, EmbeddingConfig):
    """Reading and embedding of slide tiles."""


class ExplainOptions(ExplanationOptions):
    """Options of explanations, without those common to all stages."""

    checkpoint: Path
    """Folder of the model, made by finetune."""
    dataset: Path | None = None
    """Dataset folder made by ingest, whose images are explained. Give either this option or `source`."""
    source: Path | None = None
    """File, or folder of one study, to explain. Give either this option or `dataset`."""
    output: Path
    """New folder for the maps."""
    method: str = "auto"
    """Method: attention, gradients, integrated_gradients, occlusion, prompt_cam or rollout. auto: the attention of the
    prompts of the classes or of the head, if there is any, else integrated_gradients. For models of slides: attention,
    input_x_gradient or occlusion. auto: attention, or occlusion if the head does not weight tiles.
    """
    split: Split = "test"
    """Split of the dataset whose images are explained."""
    images: tuple[str, ...] = ()
    """Identifiers (image_id) of images in the dataset. Empty: the first ones of the split, of different classes."""
    max_images: Count = 8
    """Maximum number of images to explain, if `images` is empty."""
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""

    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: ExplainedTilesConfig = Field(default_factory=ExplainedTilesConfig)

    def require_one_source(self) -> None:
        """Check that either a dataset or a source is given.

        Raises:
            ConfigError: If both or neither are given, or options of a dataset are given without one.
        """
        if (self.dataset is None) == (self.source is None):
            found = "both are given" if self.dataset else "neither is given"
            raise ConfigError(f"explain needs dataset=FOLDER or source=PATH; {found}")
        ignored = [key for key in ("split", "images", "max_images") if key in self.model_fields_set]
        if self.source is not None and ignored:
            raise ConfigError(f"{ignored[0]} is an option for a dataset, and source is given; remove {ignored[0]}")


def require_no_slide_options(options: ExplainOptions) -> None:
    """Check that no option for models of slides is set.

    Raises:
        ConfigError: If one is; the message names it.
    """
    for key in ("slides", "tiles"):
        if key in options.model_fields_set:
            raise ConfigError(
                f"{key} is an option for models of slides, and checkpoint is a model of images; remove it"
            )
