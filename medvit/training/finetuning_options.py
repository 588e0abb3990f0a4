"""Options of fine-tuning: what is learned, from which crops, and how the model is used afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medvit.config import Axis, Count
from medvit.dataset.slices import SlicesConfig
from medvit.heads import OptionalHeadChoice
from medvit.models.image import AppliesTo
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.peft import OptionalLoraChoice
from medvit.training.loading.bags import BagConfig
from medvit.training.options import TrainingOptions
from medvit.transforms.augment import AugmentConfig
from medvit.wsi.locations import SlidesConfig


class FinetuningOptions(TrainingOptions):
    """Options of fine-tuning, without those that every stage has."""

    dataset: Path
    """Dataset folder made by ingest; learns from its train split and chooses the best round on its val split."""
    slices: SlicesConfig | None = None
    """Cuts volumes into slices and learns from these as images; the model then predicts volumes slice by slice."""
    peft: OptionalLoraChoice = None
    """How the weights of the backbone may change; continue goes on with the adapter that the checkpoint keeps. Unset:
    lora for a pretrained backbone, full for one that starts at random."""
    head: OptionalHeadChoice = None
    """From tokens to logits. Unset: linear for classification and dense for segmentation."""
    label: str = "label"
    """Key of the manifest's labels to learn; where no image has it, masks are learned."""
    positive: str = ""
    """The positive one of two classes, remembered by the model: sensitivity is of it. Unset: what ingest was told."""
    crop: tuple[Count, ...] | None = None
    """Size of training crops and of the sliding window. Unset: fitted, up to 512 pixels or 96 voxels a side."""
    balance: Literal["loss", "sampler", "off"] = "loss"
    """How rare classes of images are made to count: weights in the loss, drawing them more often, or not at all."""
    smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Label smoothing of classification."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share by which neighboring steps of the sliding window overlap."""
    mirrored_axes: tuple[Axis, ...] = ()
    """Axes mirrored at inference, with the predictions averaged."""
    applies_to: AppliesTo | None = None
    """Which series of a study the model is for; what is unset is the training images' kind and modality."""
    bags: BagConfig = Field(default_factory=BagConfig)
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)

    @property
    def set_for_classification(self) -> dict[str, object]:
        """Options of classification alone that are not at their default."""
        return self._set("balance", "smoothing")

    @property
    def set_for_pixels(self) -> dict[str, object]:
        """Options of models that learn from pixels, and not from embeddings, that are not at their default."""
        given = self._set("crop", "overlap", "mirrored_axes", "applies_to")
        kept = {} if self.peft is None or self.peft.name in ("lora", "frozen") else {"peft": self.peft.name}
        return given | kept | ({} if self.augment == AugmentConfig() else {"augment": "..."})

    def _set(self, *keys: str) -> dict[str, object]:
        return {key: getattr(self, key) for key in keys if getattr(self, key) != type(self).model_fields[key].default}
