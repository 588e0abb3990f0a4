"""Backbone that several fine-tuned checkpoints share: its record in a checkpoint, its weights, and adapters on it.

A fine-tuned checkpoint identifies its initial backbone by a digest of the backbone's weights. Adapter, head and
backbone together restore the model, so the checkpoint does not need to contain the backbone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvit.artifacts import MODEL, WEIGHTS, Checkpoint
from medvit.backbones import Backbone, BackboneChoice, BackboneConfig
from medvit.config import Config, Tree, read_yaml
from medvit.errors import CheckpointError, ConfigError, MedvitError
from medvit.files.tensors import digest_of, digest_of_stream
from medvit.peft import OptionalPeftChoice, Peft, PeftConfig

log = logging.getLogger("medvit")
PREFIX = "backbone."
"""Prefix of the names of the backbone weights in a fine-tuned checkpoint."""
ITSELF = "."
"""Value of `Base.folder` if the backbone was frozen: the fine-tuned checkpoint itself contains its weights."""


class Base(Config):
    """Backbone that a checkpoint was fine-tuned from. Its own weights did not change; adapter and head are added."""

    sha256: str
    """SHA-256 of the weights of the backbone (`medvit.files.tensors`)."""
    folder: str
    """Folder of the backbone, relative to the folder of the fine-tuned checkpoint; `.` if the fine-tuned checkpoint
    itself contains the unchanged weights of the backbone.
    """


class Described(Config):
    """Part of a checkpoint's configuration that describes the backbone."""

    backbone: BackboneChoice
    peft: OptionalPeftChoice = None
    base: Base | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Described:
        """Return the description in a checkpoint of any kind."""
        tree: Tree = {key: checkpoint.model[key] for key in cls.model_fields if key in checkpoint.model}
        return cls.parse_saved(tree, source=str(checkpoint.folder))


def pretrained_backbone(checkpoint: Checkpoint, config: BackboneConfig | None = None) -> Backbone:
    """Return the backbone of a checkpoint of pretraining, with its weights.

    `config` replaces the description in the checkpoint, for options that affect nothing but training.

    Raises:
        CheckpointError: If the checkpoint is not of a backbone, or its weights do not fit its description.
    """
    checkpoint.require("backbone")
    backbone = (config or Described.of(checkpoint).backbone).without_weights().build()
    try:
        backbone.load_state_dict(dict(checkpoint.state))
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.folder}: the weights do not fit model.yaml: {last}") from None
    return backbone


@dataclass(frozen=True)
class SharedWeights:
    """Backbone without adapters: its description, and its weights, which all models on it share."""

    config: BackboneConfig
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> SharedWeights:
        """Return the backbone that the adapter of a checkpoint belongs to.

        If the backbone was frozen, it is read from the checkpoint itself. Otherwise, it is read from the recorded
        folder, or from a folder beside the checkpoint that contains the same weights. If the path of the checkpoint
        contains symbolic links, its real path is tried, too.

        Raises:
            CheckpointError: If none of these folders contains the weights.
        """
        described = Described.of(checkpoint)
        assert described.base is not None
        for folder in _places(checkpoint.folder, described):
            if _digest_in(folder, PREFIX if folder == checkpoint.folder else "") == described.base.sha256:
                found = Checkpoint.load(folder)
                return cls(Described.of(found).backbone.without_weights(), of_backbone(found, found.state))
        raise CheckpointError(
            f"{checkpoint.folder}: its backbone, with the SHA-256 {described.base.sha256[:12]}... of the weights, is "
            f"neither in {_resolved(checkpoint.folder, described.base)} nor beside the checkpoint; copy the folder of "
            "the backbone to one of these places"
        )

    def to(self, device: object) -> SharedWeights:
        """Return the backbone with its weights on a device."""
        return replace(self, state={name: weight.to(device) for name, weight in self.state.items()})  # type: ignore[call-overload]

    def adapted(self, checkpoint: Checkpoint) -> Peft:
        """Return the backbone with the adapter of a checkpoint; weights that the adapter does not change are shared.

        Raises:
            CheckpointError: If the adapter does not fit the backbone.
        """
        backbone = self.config.build()
        try:
            backbone.load_state_dict(dict(self.state), assign=True)
        except RuntimeError as error:
            last = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{checkpoint.folder}: the backbone does not fit its description: {last}") from None
        way = Described.of(checkpoint).peft
        assert way is not None
        return way.restored(backbone, of_backbone(checkpoint, checkpoint.adapter or {}))


def complete(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with all weights and the adapter merged; a complete checkpoint is returned unchanged.

    Raises:
        CheckpointError: If the backbone is not found, or the adapter does not fit it.
    """
    if not checkpoint.is_adapter:
        return checkpoint
    merged = SharedWeights.of(checkpoint).adapted(checkpoint).merge()
    state = {f"{PREFIX}{name}": weight for name, weight in merged.state_dict().items()}
    return replace(checkpoint, state=state | of_head(checkpoint))


def of_backbone(checkpoint: Checkpoint, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone weights among the weights of a checkpoint, under the names that the backbone uses."""
    if checkpoint.kind == "backbone":
        return dict(weights)
    return {name.removeprefix(PREFIX): weight for name, weight in weights.items() if name.startswith(PREFIX)}


def of_head(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights of the head in a checkpoint that consists of adapter and head."""
    return {name: weight for name, weight in (checkpoint.adapter or {}).items() if not name.startswith(PREFIX)}


def recorded_base(pretrained: Path, folder: Path) -> Base:
    """Return the record of a pretrained backbone for a checkpoint in `folder`."""
    return Base(sha256=digest_of(pretrained / WEIGHTS), folder=Path(os.path.relpath(pretrained, folder)).as_posix())


def recorded_itself(state: Mapping[str, Tensor]) -> Base:
    """Return the record of a frozen backbone, from all weights of the model that contains it."""
    from safetensors.torch import save

    frozen = {name: weight.contiguous().clone() for name, weight in state.items() if name.startswith(PREFIX)}
    return Base(sha256=digest_of_stream(BytesIO(save(frozen)), PREFIX), folder=ITSELF)


def require_adapter(way: PeftConfig, backbone: nn.Module, *, is_pretrained: bool, is_continued: bool) -> None:
    """Check that a model can be restored from its adapter, its head and the folder of its initial backbone.

    Raises:
        ConfigError: If training changes other weights, or the initial backbone is not in a folder.
    """
    reason = why_no_base(way, backbone, is_continued=is_continued)
    if not is_pretrained:
        reason = "the backbone does not come from checkpoint=FOLDER, where its weights would be read from"
    if reason:
        raise ConfigError(f"store=adapter is not possible: {reason}; give store=all")


def why_no_base(way: PeftConfig, backbone: nn.Module, *, is_continued: bool) -> str:
    """Return why initial backbone, adapter and head cannot restore a model; the text is empty if they can."""
    if way.name == "full":
        return "peft=full trains every weight, so there is no adapter"
    if is_continued:
        return "peft=continue changes the adapter that is merged into the weights of the checkpoint"
    if any(isinstance(module, _BatchNorm) for module in backbone.modules()):
        return "the backbone has batch norms, whose statistics change in training"
    return ""


def _resolved(folder: Path, base: Base) -> Path:
    return Path(os.path.normpath(folder.absolute() / base.folder))


def _places(folder: Path, described: Described) -> Iterator[Path]:
    """Yield the folders that may contain a backbone, the recorded one first."""
    assert described.base is not None
    assert described.peft is not None
    homes = dict.fromkeys((folder.absolute(), folder.resolve()))
    is_itself = described.base.folder == ITSELF
    recorded = [folder] if is_itself else [_resolved(home, described.base) for home in homes]
    yield from recorded
    if not is_itself and described.peft.name == "frozen":
        yield folder
    for beside in sorted(one for home in homes for one in home.parent.iterdir()):
        if beside not in recorded and _is_backbone(beside):
            yield beside


def _digest_in(folder: Path, prefix: str) -> str:
    """Return the digest of the weights in a folder; empty, with a warning, if they cannot be read."""
    try:
        return digest_of(folder / WEIGHTS, prefix) if (folder / WEIGHTS).is_file() else ""
    except (CheckpointError, OSError) as error:
        log.warning("%s is not the backbone of the checkpoint: %s", folder, error)
        return ""


def _is_backbone(folder: Path) -> bool:
    try:
        return (folder / WEIGHTS).is_file() and read_yaml(folder / MODEL).get("kind") == "backbone"
    except (MedvitError, OSError):
        return False
