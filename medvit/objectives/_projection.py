"""Self-distillation head, which maps a token to logits over prototypes or to a unit-norm embedding."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.config import Config, Count
from medvit.errors import CheckpointError, ConfigError
from medvit.objectives._prototypes import fitting_prototypes
from medvit.weights import read_weights

log = logging.getLogger("medvit")

OFF = "off"
PUBLISHED_PROTOTYPES = 65536
"""Number of prototypes of a head that is built without a training run (Caron et al., ICCV 2021)."""
PROTOTYPES = ("last_layer.weight_v", "last_layer.parametrizations.weight.original1", "last_layer.weight")
"""Possible names of the prototypes in published heads; the name depends on how the head normalizes them."""


class ProjectionConfig(Config):
    """Projection head on top of the backbone, used only in pretraining."""

    hidden: Count = 2048
    """Width of the hidden layers of the projection head."""
    bottleneck: Count = 256
    """Width of the output of the projection head, which is compared with the prototypes."""
    layers: Count = 3
    """Number of linear layers of the projection head, without the prototypes."""
    prototypes: int | None = Field(default=None, ge=2)
    """Number of prototypes (clusters). Teacher and student output one probability per prototype. Unset: the number in
    the head to start from, or 4096 (N / 1000)^0.3 for N training images (each slice or tile counts as one image), to
    the nearest power of two from 256 to 65536.
    """
    weights: str | None = None
    """Projection head to start from: a published file, such as dino_head.safetensors of RAD-DINO, or a checkpoint
    folder made by pretrain. Unset: the heads stored in `checkpoint`, if any. off: a new head.
    """

    def kept_in(self, folder: Path, parts: Sequence[str], *, with_prototypes: bool) -> ProjectionConfig:
        """Return the options with the heads that a checkpoint folder stores for `parts`, and with their sizes.

        If the folder has no heads, the options are returned unchanged.

        Raises:
            ConfigError: If sizes in the options differ from those of the stored heads.
        """
        files = [folder / head_file(part) for part in parts]
        if self.weights is not None or not files[0].is_file():
            return self
        missing = [file.name for file in files if not file.is_file()]
        state = read_weights(files[0])
        if missing or (with_prototypes and not any(name in state for name in PROTOTYPES)):
            lacking = " and ".join(missing) or "prototypes"
            log.warning(
                "the heads are initialized at random, because the folder %s lacks %s, which this objective requires",
                folder,
                lacking,
            )
            return self
        sizes = _sizes(state)
        for key in sorted(self.model_fields_set & sizes.keys()):
            if getattr(self, key) not in (None, sizes[key]):
                raise ConfigError(
                    f"objective.head.{key} is {getattr(self, key)}; the head kept in {folder} has {sizes[key]}: leave "
                    "it unset to continue with that head, or set objective.head.weights=off for a new one"
                )
        log.info("heads are loaded from %s", folder)
        return self.model_copy(update={**sizes, "weights": str(folder)})

    def fitted(self, num_images: int) -> ProjectionConfig:
        """Return the options with the number of prototypes set.

        A number that is already set is kept. Otherwise, it is the number in the weights of the head or, without such
        weights, a number that suits `num_images` training images.
        """
        found = self._of_weights()
        if found.prototypes is not None:
            return found
        number = fitting_prototypes(num_images)
        log.info("Prototypes: %d, for %d training images", number, num_images)
        return self.model_copy(update={"prototypes": number})

    def build(self, width: int, *, part: str = "image", with_prototypes: bool = True) -> Projection:
        """Return the head for a backbone of the given width; `part` names the head in a folder with several heads.

        Raises:
            CheckpointError: If the published head does not match these options.
        """
        config = self._of_weights() if with_prototypes else self
        head = Projection(config, width, with_prototypes=with_prototypes)
        if self.weights not in (None, OFF):
            source = self._source(part)
            head.load_published(read_weights(source), source=str(source))
        return head

    def _source(self, part: str) -> Path:
        path = Path(str(self.weights))
        return path / head_file(part) if path.is_dir() else path

    def _of_weights(self) -> ProjectionConfig:
        """Return the options with the number of prototypes in the head's weights.

        If the number is already set, or if there are no prototypes in the weights, the options are returned unchanged.
        """
        if self.prototypes is not None or self.weights in (None, OFF):
            return self
        number = _sizes(read_weights(self._source("image"))).get("prototypes")
        return self if number is None else self.model_copy(update={"prototypes": number})


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the options of a head from the shapes of its weights."""
    numbers = sorted(int(name.split(".")[1]) for name in state if re.fullmatch(r"mlp\.\d+\.weight", name))
    shapes = [state[f"mlp.{number}.weight"].shape for number in numbers]
    sizes = {"layers": len(shapes), "bottleneck": shapes[-1][0]} if shapes else {}
    prototypes = next((len(state[name]) for name in PROTOTYPES if name in state), None)
    return (
        sizes
        | ({"hidden": shapes[0][0]} if len(shapes) > 1 else {})
        | ({} if prototypes is None else {"prototypes": prototypes})
    )


def head_file(part: str) -> str:
    """Return the name of the file in a checkpoint that contains the head for images, or for patches."""
    return f"{part}_head.safetensors"


class Projection(nn.Module):
    """Projection head: an MLP with unit-norm output and, unless disabled, cosine similarities to prototypes.

    Prototypes of unit norm correspond to the weight normalization with a fixed gain of 1 in Caron et al. (ICCV 2021).
    """

    def __init__(self, config: ProjectionConfig, width: int, *, with_prototypes: bool) -> None:
        super().__init__()
        widths = [width, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        number = config.prototypes or PUBLISHED_PROTOTYPES
        self.prototypes = nn.Parameter(torch.empty(number, config.bottleneck)) if with_prototypes else None
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.prototypes is not None:
            nn.init.uniform_(self.prototypes, -(config.bottleneck**-0.5), config.bottleneck**-0.5)

    def forward(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return cosine similarities to the prototypes (N, K) or, without prototypes, the embeddings (N, D)."""
        embedded = F.normalize(self.mlp(tokens).float(), dim=-1, eps=1e-6)
        if self.prototypes is None:
            return embedded
        return F.linear(embedded, F.normalize(self.prototypes.float(), dim=-1))

    @property
    def num_prototypes(self) -> int:
        """Number of prototypes; 0 without prototypes."""
        return 0 if self.prototypes is None else len(self.prototypes)

    def published(self) -> dict[str, Tensor]:
        """Return the weights of the head under the names of DINOv2."""
        state = dict(self.state_dict())
        prototypes = state.pop("prototypes", None)
        return state if prototypes is None else state | {PROTOTYPES[0]: prototypes}

    def load_published(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Load the weights of a published DINO or DINOv2 head.

        Raises:
            CheckpointError: If names or shapes differ.
        """
        own = {name: weight for name, weight in state.items() if name.startswith("mlp.")}
        found = next((state[name] for name in PROTOTYPES if name in state), None)
        if self.prototypes is not None and found is not None:
            own["prototypes"] = found
        try:
            self.load_state_dict(own)
        except RuntimeError as error:
            last = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{source} does not contain a head with these options: {last}") from None
