"""A model of whole slides: a frozen backbone that embeds tiles, and several heads whose logits are averaged."""

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
from medvit.models.embedding_store import Embeddings
from medvit.models.image import AppliesTo
from medvit.models.tile_embedder import Features
from medvit.peft import PeftChoice
from medvit.records import Row
from medvit.wsi.tiles import TileFlag, TileGrid

SAME_SCALE = 1.15
"""How much coarser tiles may be than others: ingest takes a level of the slide within 5 % of the wished scale."""
CHUNK = 4096
"""Embeddings of a slide that are in memory at once."""


class TileSpec(Config):
    """The tiles a model was trained on."""

    size: Count
    """Pixels of a side."""
    mpp: Positive
    """Microns per pixel."""
    overlap: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of a side that a tile has in common with the next one."""
    min_tissue: Share = 0.1
    """Least share of a tile that is tissue."""
    skip: tuple[TileFlag, ...] = ()
    """Tiles with one of these flags are excluded."""

    def require(self, grid: TileGrid, row: Row) -> None:
        """Refuses tiles of another size or scale.

        Raises:
            DataError: If they are.
        """
        if grid.size != self.size or not 1 / SAME_SCALE < grid.mpp / self.mpp < SAME_SCALE:
            raise DataError(
                f"{row} has tiles of {grid.size} pixels at {grid.mpp:.4g} microns, the model was trained on "
                f"{self.size} at {self.mpp:.4g}; ingest the slides with taking.tiles.size={self.size} "
                f"taking.tiles.mpp={self.mpp:.4g}"
            )


class SlideModelConfig(Config):
    """What a model of slides is: saved in its checkpoint, enough to build it again."""

    kind: Literal["slide"] = "slide"
    """What it predicts: a class a slide."""
    backbone: BackboneChoice
    """The vision transformer that embeds tiles."""
    peft: PeftChoice = Field(default={"name": "frozen"}, validate_default=True)
    """How the weights of the backbone changed: not at all."""
    head: HeadChoice
    """From embeddings to logits."""
    members: Count
    """Heads that were trained from different seeds, whose logits are averaged."""
    features: Features
    """What is read of a tile."""
    tiles: TileSpec
    """The tiles it was trained on."""
    classes: tuple[str, ...]
    """Names of the classes in the order of the logits."""
    label: str
    """The key of the manifest's labels it predicts."""
    positive: str = ""
    """Of two classes, the one that sensitivity and specificity are of; empty if nobody said."""
    applies_to: AppliesTo = Field(default_factory=lambda: AppliesTo(kind="slide"))
    """Which series of a study it is for."""


@dataclass(frozen=True)
class WholeBag:
    """All tiles of one slide, which are read when they are needed, with its class."""

    embeddings: Embeddings
    targets: Tensor
    rows: tuple[Row, ...]

    @property
    def inputs(self) -> tuple[Embeddings]:
        """What a model takes."""
        return (self.embeddings,)

    def to(self, device: torch.device | str) -> WholeBag:
        """Return the same, whose tiles are read onto `device`."""
        return replace(self, embeddings=self.embeddings.to(device), targets=self.targets.to(device))


class BagModel(nn.Module):
    """One head in training, on embeddings that were made before."""

    depth = 0

    def __init__(self, config: SlideModelConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.head: BagHead = config.head.build_for_bags(width, len(config.classes))

    def forward(self, tiles: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        """Logits of a batch of bags."""
        return self.head.read(tiles, present).logits

    @torch.no_grad()
    def predict(self, tiles: TileEmbeddings) -> Float[Tensor, "1 l"]:
        """Probabilities of one slide of any size."""
        return self.head.stream(tiles, CHUNK).logits.float().softmax(dim=1)

    def adapter_state(self) -> Tree:
        """Return the weights that training changes: all."""
        return dict(self.state_dict())


@dataclass(frozen=True)
class SlideReading:
    """What a model says of one slide, and where it looked.

    `attention` (N,) is the mean of `maps` (K, N), one of each attention head of each member; each sums to 1 over the
    tiles. `scores` (N, L) are the probabilities of each tile as a bag of its own, `members` (M, L) those of each
    member.
    """

    probabilities: Float[Array, "l"]
    members: Float[Array, "m l"]
    maps: Float[Array, "k n"]
    scores: Float[Array, "n l"]

    @property
    def attention(self) -> Float[Array, "n"]:
        """The mean of the maps."""
        mean: Array = self.maps.mean(axis=0)
        return mean


class SlideModel(nn.Module):
    """A frozen backbone with an ensemble of heads: the mean of their logits (Filiot et al. 2024, Phikon-v2)."""

    def __init__(self, config: SlideModelConfig, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        heads = (config.head.build_for_bags(width, len(config.classes)) for _ in range(config.members))
        self.members = nn.ModuleList(heads)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> SlideModel:
        """Return the model of a checkpoint of kind slide, ready for inference.

        Raises:
            CheckpointError: If the checkpoint is of another kind or its weights do not fit its description.
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
            told = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{checkpoint.folder}: the weights do not fit model.yaml: {told}") from None
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def read(self, tiles: TileEmbeddings, chunk: int = CHUNK) -> SlideReading:
        """Run the model on the tiles of a slide, at most `chunk` of them in memory at once."""
        readings = [head.stream(tiles, chunk) for head in self._heads()]
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
            logits = torch.stack([head.read(alone).logits for head in self._heads()]).float().mean(dim=0)
            parts.append(logits.softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)

    def _heads(self) -> list[BagHead]:
        return [head for head in self.members if isinstance(head, BagHead)]


def ensemble_state(backbone: Backbone, members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of a `SlideModel` from those of its backbone and of each trained `BagModel`."""
    state = {f"backbone.{name}": weight for name, weight in backbone.state_dict().items()}
    for number, member in enumerate(members):
        state |= {f"members.{number}.{name.removeprefix('head.')}": weight for name, weight in member.items()}
    return state
