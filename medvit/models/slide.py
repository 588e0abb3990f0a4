"""Model for whole slides: a frozen backbone that embeds tiles, and several heads whose logits are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray as Array
from pydantic import Field
from torch import Tensor, nn

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone, BackboneChoice
from medvit.config import Config, Count, Positive, Share, Tree
from medvit.errors import CheckpointError, DataError
from medvit.heads import BagHead, HeadChoice, TileEmbeddings, of_earlier_version
from medvit.models.calibration import Calibration
from medvit.models.conformal import Conformal
from medvit.models.embedding_store import Embeddings
from medvit.models.features import Features
from medvit.models.image import AppliesTo
from medvit.peft import PeftChoice
from medvit.records import Row
from medvit.tasks import Target, TaskName
from medvit.wsi.tiles import TileFlag, TileGrid

SAME_SCALE = 1.15
"""Ratio of microns per pixel up to which two tile grids count as equal in scale (ingest deviates by up to 5 %)."""
CHUNK = 4096
"""Maximum number of embeddings of a slide in memory at once."""


class TileSpec(Config):
    """Size and scale of the tiles that a model was trained on."""

    size: Count
    """Side of a tile in pixels."""
    mpp: Positive
    """Scale of a tile, in microns per pixel."""
    overlap: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Overlap of neighboring tiles, as a fraction of their side."""
    min_tissue: Share = 0.1
    """Minimum share of tissue in a tile."""
    skip: tuple[TileFlag, ...] = ()
    """Tiles with one of these flags are excluded."""

    def require(self, grid: TileGrid, row: Row) -> None:
        """Check that tiles have the size and scale that the model was trained on.

        Raises:
            DataError: If size or scale differs.
        """
        if grid.size != self.size or not 1 / SAME_SCALE < grid.mpp / self.mpp < SAME_SCALE:
            raise DataError(
                f"{row} has tiles of {grid.size} pixels at {grid.mpp:.4g} microns, the model was trained on "
                f"{self.size} at {self.mpp:.4g}; ingest the slides with taking.tiles.size={self.size} "
                f"taking.tiles.mpp={self.mpp:.4g}"
            )


class SlideModelConfig(Config):
    """Configuration of a slide model, which its checkpoint stores and from which it can be rebuilt."""

    kind: Literal["slide"] = "slide"
    """Task: a class per slide."""
    backbone: BackboneChoice
    """Vision transformer that embeds tiles."""
    peft: PeftChoice = Field(default={"name": "frozen"}, validate_default=True)
    """Adaptation of the backbone in fine-tuning: always frozen."""
    head: HeadChoice
    """Head, which maps embeddings to logits."""
    members: Count
    """Number of heads, trained from different seeds; their logits are averaged."""
    features: Features
    """Tokens of a tile that form its embedding."""
    tiles: TileSpec
    """Tiles that the model was trained on."""
    classes: tuple[str, ...]
    """Class names in the order of the logits."""
    label: str
    """Name of the manifest label to predict."""
    positive: str = ""
    """Positive one of two classes, to which sensitivity and specificity refer; empty if not given."""
    applies_to: AppliesTo = Field(default_factory=lambda: AppliesTo(kind="slide"))
    """Series of a study that the model applies to."""
    calibration: Calibration | None = None
    """Calibration of the predicted probabilities, added by `medvit calibrate`. None: as predicted by the network."""
    conformal: Conformal | None = None
    """Limits for prediction sets, added by `medvit conformal`. None: predictions have no sets."""

    @property
    def image_task(self) -> TaskName:
        """Name of the task in `medvit.tasks` that defines the targets and predictions of slides."""
        return "classification"

    @property
    def target(self) -> Target:
        """Target of the model: its label and classes."""
        return Target(self.label, self.classes)


@dataclass(frozen=True)
class WholeBag:
    """All tiles of one slide, whose embeddings are read on demand, with the class of the slide."""

    embeddings: Embeddings
    targets: Tensor
    rows: tuple[Row, ...]

    @property
    def inputs(self) -> tuple[Embeddings]:
        """Inputs of the model, which are the embeddings."""
        return (self.embeddings,)

    def to(self, device: torch.device | str) -> WholeBag:
        """Return the same bag; its tiles will be read onto `device`."""
        return replace(self, embeddings=self.embeddings.to(device), targets=self.targets.to(device))


class BagModel(nn.Module):
    """Slide head in training; its inputs are bags, the precomputed embeddings of the tiles of slides."""

    depth = 0

    def __init__(self, config: SlideModelConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.head: BagHead = config.head.build_for_bags(width, len(config.classes))

    def forward(self, tiles: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        """Return the logits of a batch of padded bags; `present` is False at padding."""
        return self.head.read(tiles, present).logits

    @torch.no_grad()
    def predict(self, tiles: TileEmbeddings) -> Float[Tensor, "1 l"]:
        """Return the probabilities of one slide of any size."""
        return self.head.stream(tiles, CHUNK).logits.float().softmax(dim=1)

    def adapter_state(self) -> Tree:
        """Return the weights that training changes, which are all weights of the head."""
        return dict(self.state_dict())


@dataclass(frozen=True)
class SlideReading:
    """Prediction for one slide, with attention.

    `maps` (K, N) has an attention map for each attention head of each ensemble member. A map sums to 1 over the tiles,
    and `attention` (N,) is the mean of the maps. `scores` (N, L) are the probabilities of each tile, as if it were the
    only tile of the slide. `members` (M, L) are the probabilities of the slide according to each ensemble member.
    """

    probabilities: Float[Array, "l"]
    members: Float[Array, "m l"]
    maps: Float[Array, "k n"]
    scores: Float[Array, "n l"]

    @property
    def attention(self) -> Float[Array, "n"]:
        """Mean of the attention maps."""
        mean: Array = self.maps.mean(axis=0)
        return mean


class SlideModel(nn.Module):
    """Frozen backbone with an ensemble of heads, whose logits are averaged (Filiot et al. 2024, Phikon-v2)."""

    def __init__(self, config: SlideModelConfig, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        heads = (config.head.build_for_bags(width, len(config.classes)) for _ in range(config.members))
        self.members = nn.ModuleList(heads)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> SlideModel:
        """Return the model of a checkpoint of kind slide, ready for inference.

        Raises:
            CheckpointError: If the checkpoint is of another kind, or if its weights do not match its description.
        """
        config = SlideModelConfig.parse_saved(
            of_earlier_version(checkpoint.require("slide").model), source=str(checkpoint.folder)
        )
        backbone = config.backbone.without_weights().build()
        both = config.features == "class_mean"
        model = cls(config, backbone, backbone.width * (2 if both else 1))
        try:
            model.load_state_dict(dict(checkpoint.state), strict=True)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{checkpoint.folder}: the weights do not fit model.yaml: {reason}") from None
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def read(self, tiles: TileEmbeddings, chunk: int = CHUNK) -> SlideReading:
        """Run the model on the tiles of a slide, with at most `chunk` tiles in memory at once."""
        readings = [head.stream(tiles, chunk) for head in self.heads]
        logits = torch.cat([reading.logits for reading in readings]).float()
        maps = torch.cat([reading.attention[0] for reading in readings]).float()
        return SlideReading(
            probabilities=logits.mean(dim=0).softmax(dim=0).cpu().numpy(),
            members=logits.softmax(dim=1).cpu().numpy(),
            maps=maps.cpu().numpy(),
            scores=self._scores(tiles, chunk),
        )

    def _scores(self, tiles: TileEmbeddings, chunk: int) -> Float[Array, "n l"]:
        parts = []
        for indices in torch.arange(len(tiles)).split(chunk):
            alone = tiles.take(indices)[:, None]  # (n, 1, D): bags of one tile
            logits = torch.stack([head.read(alone).logits for head in self.heads]).float().mean(dim=0)
            parts.append(logits.softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    @property
    def heads(self) -> list[BagHead]:
        """Heads whose logits are averaged."""
        return [head for head in self.members if isinstance(head, BagHead)]


def ensemble_state(backbone: Backbone, members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of a `SlideModel`, combined from those of its backbone and of each trained `BagModel`."""
    state = {f"backbone.{name}": weight for name, weight in backbone.state_dict().items()}
    for number, member in enumerate(members):
        state |= {f"members.{number}.{name.removeprefix('head.')}": weight for name, weight in member.items()}
    return state
