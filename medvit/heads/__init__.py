"""From tokens to logits.

A head says which depths of the backbone it reads (`layers`, block indices; empty means the last) and takes their
tokens, and the pixels they came from, to logits (B, L) or (B, L, *S). Adding one is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Config
from medvit.registry import Chosen
from medvit.samples import Tokens


class Head(nn.Module, ABC):
    """Reads tokens of `layers`, gives logits."""

    layers: tuple[int, ...]

    @abstractmethod
    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Logits of a batch; `tokens` in the order of `layers`."""


class HeadConfig(Config, ABC):
    """Options of a head."""

    name: str

    @abstractmethod
    def build(self, backbone: Backbone, num_classes: int) -> Head:
        """The head, freshly initialized, for a backbone and a number of classes."""


HeadChoice = Annotated[HeadConfig, Chosen("medvit.heads", default="linear")]
OptionalHeadChoice = Annotated[HeadConfig | None, Chosen("medvit.heads", default="linear", optional=True)]
