"""How a backbone's weights may change in fine-tuning.

`adapt` prepares a backbone in place and says what is trained; at initialization its output is unchanged. `merge` gives
back a plain backbone with the change folded in. Adding a way is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

from medvit.backbones import Backbone
from medvit.config import Config
from medvit.registry import Chosen


class Peft(ABC):
    """A way of adapting, applied to one backbone."""

    backbone: Backbone
    """The adapted backbone: what training runs."""

    @abstractmethod
    def merge(self) -> Backbone:
        """The plain backbone with all changes folded in, for inference; the adapted one is used up."""


class Unchanged(Peft):
    """A backbone of unchanged structure, so merging gives itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def merge(self) -> Backbone:
        """The backbone itself."""
        return self.backbone


class PeftConfig(Config, ABC):
    """Options of a way of adapting."""

    name: str

    @abstractmethod
    def adapt(self, backbone: Backbone) -> Peft:
        """Prepares a backbone in place; its trainable parameters are those that require a gradient afterwards."""


PeftChoice = Annotated[PeftConfig, Chosen("medvit.peft", default="lora")]
