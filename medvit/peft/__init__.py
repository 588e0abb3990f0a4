"""Fine-tuning methods: LoRA and its variants, scales, prompts, bottlenecks, added blocks, some or all weights.

`adapt` prepares a backbone in place and selects its trainable weights. The output of the backbone is initially
unchanged, unless the method sets `IS_IDENTITY` to False. `merge` returns a plain backbone with the changes merged. To
add a method, add a file; `tests/peft/test_contracts.py` then tests it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from medvit.backbones import Backbone, BackboneConfig
from medvit.config import Config, Tree
from medvit.errors import CheckpointError, ConfigError
from medvit.registry import Chosen


class TrainingHooks:
    """Methods that the training loop of fine-tuning calls; by default, they do nothing."""

    def begin(self, num_steps: int) -> None:
        """Prepare for a run of `num_steps` optimizer steps; also called when an interrupted run is resumed."""

    def penalty(self) -> Tensor | None:
        """Return the scalar that the method adds to the loss of every step; None if it adds nothing."""
        return None

    def after_step(self, step: int) -> None:
        """Adjust the adapter after an optimizer step, counted from 1, while its gradients are available."""

    def progress(self) -> Tree:
        """Return the state of the method that its weights do not contain, so that training can be resumed."""
        return {}

    def resume(self, progress: Tree) -> None:
        """Restore the state that `progress` returned."""


class Peft(TrainingHooks, ABC):
    """Fine-tuning method, applied to one backbone."""

    backbone: Backbone
    """Adapted backbone, which training runs."""

    @abstractmethod
    def merge(self) -> Backbone:
        """Return the plain backbone with all changes merged, for inference.

        The adapted backbone is unusable afterwards.
        """

    def attached(self) -> Backbone:
        """Return the backbone for inference, without changing weights that it shares with other backbones.

        Its output equals that of the merged backbone. Weights that the adapter does not change are not copied.
        """
        return self.merge()

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Return the backbone options that build the merged backbone.

        They equal `config` unless the method changed the structure, for example by adding blocks.
        """
        return config

    def trained(self) -> frozenset[str]:
        """Return the names of the trainable weights of the adapted backbone.

        Call it before an objective is built: an objective whose teacher is this backbone freezes its weights.
        """
        return frozenset(name for name, weight in self.backbone.named_parameters() if weight.requires_grad)

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the adapter: copies of the named weights of the adapted backbone.

        Methods may add tensors that these weights depend on, so that `load` can restore the adapted backbone from the
        adapter alone. Call it before `merge`, which makes the adapted backbone unusable.
        """
        return {name: weight.clone() for name, weight in self.backbone.state_dict().items() if name in names}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load an adapter, as `state_of` returns it, into a backbone adapted from the same initial weights.

        Raises:
            CheckpointError: If the adapted backbone has no such weights.
        """
        require_known(self.backbone, weights)
        self.backbone.load_state_dict(dict(weights), strict=False)


class Removable(Peft):
    """Fine-tuning method with an adapter that is separate from the weights, and can be removed."""

    @abstractmethod
    def remove(self) -> Backbone:
        """Return the plain backbone without the adapter; weights that are trained directly remain as they are.

        The adapted backbone is unusable afterwards.
        """


@dataclass(frozen=True)
class HubAdapter:
    """Adapter in the format of huggingface/peft, and the plain backbone that it applies to.

    `settings` is the content of `adapter_config.json`, without the location of the base model. `state` contains the
    weights, with their names in `adapter_model.safetensors`.
    """

    settings: Tree
    state: Mapping[str, Tensor]
    base: Backbone


class Unchanged(Peft):
    """Method that does not change the structure of the backbone; merging returns the backbone itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def merge(self) -> Backbone:
        """Return the backbone itself."""
        return self.backbone


class PeftConfig(Config, ABC):
    """Options of a fine-tuning method."""

    IS_IDENTITY: ClassVar[bool] = True
    """Whether adapting a backbone leaves its output unchanged until training begins."""
    FINETUNING_ONLY: ClassVar[bool] = False
    """Whether the method has a penalty or a schedule, which pretraining and training with sharded weights do not
    support.
    """
    NEEDS_SENSITIVITY: ClassVar[bool] = False
    """Whether the method chooses weights by their gradients (`Backbone.sensitivity`), which fine-tuning measures on
    training batches before `adapt`. Pretraining and training with sharded weights do not support it.
    """
    TRAINS_WHOLE_WEIGHTS: ClassVar[bool] = False
    """Whether whole pretrained blocks, or copies of them, are trained; continued pretraining lowers their learning
    rate.

    Low-rank factors keep the full learning rate. A method that trains only biases does not set this, because biases
    need a high learning rate.
    """
    NEEDS_BLOCKS: ClassVar[bool] = True
    """Whether the method changes or selects transformer blocks, which convolutional networks do not have."""
    NOT_IN_HUB: ClassVar[str] = "no method of huggingface/peft makes these changes; to_timm writes the model"
    """Reason why huggingface/peft has no equivalent of the adapter, and what to do instead; empty if it has one."""

    name: str

    @abstractmethod
    def adapt(self, backbone: Backbone) -> Peft:
        """Prepare a backbone in place; afterwards, the trainable parameters are those that require a gradient."""

    def restored(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Peft:
        """Return a backbone with an adapter, as `Peft.state_of` returns it, on the weights that it was trained on.

        Weights of the backbone that the adapter replaces are not written to, because other backbones may share them.

        Raises:
            CheckpointError: If the adapter does not fit the backbone.
        """
        peft = self.adapt(backbone)
        for name, weight in peft.backbone.named_parameters():
            if name in weights:
                weight.data = weight.data.clone()
        peft.load(weights)
        return peft

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Peft:
        """Prepare a backbone for continued training of the weights that this method trained before.

        The backbone contains these weights in merged form; `weights` contains them separately, keyed by name. The
        output of the backbone does not change.

        Raises:
            CheckpointError: If the backbone has no such weights.
        """
        require_known(backbone, weights)
        for name, weight in backbone.named_parameters():
            weight.requires_grad_(name in weights)
        return Unchanged(backbone)

    def in_hub(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> HubAdapter:
        """Return the adapter in the format of huggingface/peft, together with the plain backbone.

        `backbone` has the adapter merged into its weights; `weights` are the weights of the adapter, keyed by name.

        Raises:
            CheckpointError: If huggingface/peft has no equivalent, or the weights do not fit the backbone.
        """
        raise CheckpointError(f"the adapter has no format in huggingface/peft: {self.NOT_IN_HUB}")

    def require_supported(self, backbone: Backbone) -> None:
        """Check that the backbone has the transformer blocks that the method needs.

        Raises:
            ConfigError: If it has none.
        """
        if self.NEEDS_BLOCKS and not backbone.has_blocks:
            raise ConfigError(
                f"peft={self.name} needs transformer blocks, which this backbone does not have; "
                "choose peft=full, frozen or bitfit, or backbone.name=vit"
            )

    def recorded(self, backbone: Backbone) -> PeftConfig:
        """Return the method to record in model.yaml: this one, or the method that it continues.

        It must be called before `adapt`, which may remove the adapter from the backbone.
        """
        return self


def require_known(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Check that an adapted backbone has these weights.

    Raises:
        CheckpointError: If a weight is missing or has another shape.
    """
    own = backbone.state_dict()
    wrong = sorted(name for name, weight in weights.items() if name not in own or own[name].shape != weight.shape)
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(weights)} weights of the adapter do not fit the backbone, first {wrong[0]}; "
            "adapter.safetensors and model.yaml belong to different checkpoints"
        )


def train_new_channels(backbone: Backbone) -> None:
    """Train the embeddings of channels that a weights file lacked, unless the backbone is frozen.

    At their initial value, zero, tokens of different channels could not be distinguished.
    """
    name = "channel_embed"
    if name in backbone.new_weights and any(weight.requires_grad for weight in backbone.parameters()):
        backbone.get_parameter(name).requires_grad_(True)


PeftChoice = Annotated[PeftConfig, Chosen("medvit.peft", default="lora")]
OptionalLoraChoice = Annotated[PeftConfig | None, Chosen("medvit.peft", default="lora", optional=True)]
OptionalPeftChoice = Annotated[PeftConfig | None, Chosen("medvit.peft", default="explora", optional=True)]
