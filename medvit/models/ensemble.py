"""Ensemble of fine-tuned models of one task, whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.artifacts import Checkpoint
from medvit.models.image import Model, ModelConfig

PREFIX = "members."
OF_EACH_MODEL = ("scales", "intervals")
"""Keys of `model.yaml` that have one value for each model of an ensemble: standardizations and time intervals."""


class Ensemble(nn.Module):
    """Models with the same classes and the same sliding window, from different folds or seeds."""

    def __init__(self, config: ModelConfig, members: Sequence[Model]) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(members)
        self.active: tuple[int, ...] = tuple(range(len(members)))
        """Indices (from 0) of the models whose probabilities are averaged. Out-of-fold predictions use a subset of the
        models.
        """

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Ensemble:
        """Return the ensemble of a checkpoint, ready for inference.

        Raises:
            CheckpointError: If the weights do not match the description of the checkpoint.
        """
        members = []
        for number in range(int(checkpoint.model["members"])):
            start = f"{PREFIX}{number}."
            state = {name.removeprefix(start): one for name, one in checkpoint.state.items() if name.startswith(start)}
            members.append(Model.from_checkpoint(_of_member(checkpoint, number).member(state)))
        own = {key: tuple(one for member in members for one in getattr(member.config, key)) for key in OF_EACH_MODEL}
        config = members[0].config.model_copy(update={"members": len(members), **own})
        return cls(config, members).eval().requires_grad_(False)

    @torch.no_grad()
    def predict(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return the mean of the float32 predictions of the active models."""
        total: Tensor | None = None
        for number in self.active:
            model = self.members[number]
            assert isinstance(model, Model)
            found = model.predict(pixels)
            total = found if total is None else total.add_(found)
        assert total is not None, "a model is active"
        return total.div_(len(self.active))

    @torch.no_grad()
    def predict_each(self, pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b l *t"]]:
        """Return the float32 predictions of each active model."""
        found = [self.members[number] for number in self.active]
        return [model.predict(pixels) for model in found if isinstance(model, Model)]


def load_model(checkpoint: Checkpoint) -> Model | Ensemble:
    """Return the model of a fine-tuned checkpoint, or the ensemble if it has several."""
    return Ensemble.from_checkpoint(checkpoint) if checkpoint.is_ensemble else Model.from_checkpoint(checkpoint)


def _of_member(checkpoint: Checkpoint, number: int) -> Checkpoint:
    """Return the checkpoint of an ensemble with the values of `OF_EACH_MODEL` of one of its models."""
    own = {}
    for key in OF_EACH_MODEL:
        values = checkpoint.model.get(key) or ()
        count = len(values) // int(checkpoint.model["members"])
        own[key] = list(values[number * count : (number + 1) * count])
    return replace(checkpoint, model={**checkpoint.model, **own})


def of_each_model(checkpoints: Sequence[Checkpoint]) -> dict[str, list[object]]:
    """Return the values of `OF_EACH_MODEL` in the description of an ensemble, from its models."""
    return {key: [one for checkpoint in checkpoints for one in checkpoint.model.get(key, ())] for key in OF_EACH_MODEL}


def ensemble_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of an ensemble from those of its models."""
    return {f"{PREFIX}{number}.{name}": one for number, state in enumerate(states) for name, one in state.items()}
