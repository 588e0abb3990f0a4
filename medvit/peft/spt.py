"""SPT: gradients of the task choose which matrices get low-rank updates, and which single weights are trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medvit.backbones import Backbone
from medvit.config import Count, Positive
from medvit.errors import CheckpointError, ConfigError
from medvit.peft import PeftConfig, Removable
from medvit.peft._hub import Tuned
from medvit.peft.lora import LoraConfig
from medvit.registry import register

log = logging.getLogger("medvit")
CLASS_TOKEN = "cls_token"
UPDATE, INDICES = "sparse_update", "sparse_indices"
"""Last parts of the names of two tensors: the trained changes, and their positions in the flattened weight."""
INSIDE = ".parametrizations."
WRAPPED = ".base_layer"
"""Added by huggingface/peft to the name of a layer that has a low-rank update."""


@register
class SptConfig(PeftConfig):
    """Train the weights to which the loss is most sensitive, up to a budget (SPT-LoRA; He et al., ICCV 2023).

    The sensitivity of a weight is the sum of its squared gradients over some training batches, before training. As many
    of the most sensitive weights of the blocks and the final norm are chosen as the budget allows. A matrix with at
    least as many chosen weights as LoRA would have parameters gets LoRA. In all other tensors, the chosen weights
    themselves are trained. The class token is always trained.
    """

    NOT_IN_HUB: ClassVar[str] = (
        "single weights were trained, which no method of huggingface/peft does; to_timm writes the model"
    )
    NEEDS_SENSITIVITY: ClassVar[bool] = True

    name: Literal["spt"] = "spt"
    budget: float = Field(default=0.005, gt=0.0, le=1.0)
    """Maximum number of trained parameters, as a fraction of the parameters of the backbone. The SPT paper trains about
    0.2 to 0.5 % of ViT-B.
    """
    num_batches: Count = 8
    """Number of training batches on which the sensitivity is measured before training."""
    rank: Count = 8
    """Rank of the low-rank updates."""
    alpha: Positive = 16.0
    """Scale of the low-rank updates, which are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the inputs of the low-rank updates during training."""

    def adapt(self, backbone: Backbone) -> Spt:
        """Return the backbone with trainable updates of the weights with the highest `sensitivity`.

        Raises:
            ConfigError: If no sensitivity was measured, or the budget is too small.
        """
        measured, backbone.sensitivity = backbone.sensitivity, None
        if measured is None:
            raise ConfigError(
                "peft=spt chooses weights by gradients of the task, which only fine-tuning on images measures; choose "
                "another peft, such as lora"
            )
        token = dict(backbone.named_parameters()).get(CLASS_TOKEN)
        num_weights = sum(weight.numel() for weight in backbone.parameters())
        most = int(self.budget * num_weights) - (0 if token is None else token.numel())
        choice = choose(measured, most, rank=self.rank, matrices=_matrices(backbone))
        if not choice.size:
            raise ConfigError(
                f"peft.budget={self.budget:g} of {num_weights:,} weights leaves {max(most, 0):,} to choose, which is "
                "too few; give a larger one"
            )
        if token is not None:
            choice.sparse[CLASS_TOKEN] = torch.arange(token.numel(), dtype=torch.int32)
            choice = replace(choice, size=choice.size + token.numel())
        log.info("%s", choice)
        return Spt(backbone, self, choice)

    def restored(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Spt:
        """Return the backbone with a saved adapter; the weights to change are those that the adapter contains."""
        adapted = Spt(backbone, self, _chosen_in(weights))
        adapted.load(weights)
        return adapted

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Spt:
        """Return the backbone with the adapter of an earlier run, after subtracting it from the merged weights."""
        adapted = self.restored(backbone, weights)
        adapted.unmerge(weights)
        return adapted


@dataclass(frozen=True)
class Choice:
    """Chosen weights: names of matrices that get low-rank updates; positions of single weights, keyed by name."""

    matrices: tuple[str, ...]
    sparse: dict[str, Tensor]
    size: int
    """Number of trained parameters."""

    def __str__(self) -> str:
        number = sum(len(indices) for indices in self.sparse.values())
        return (
            f"peft=spt trains {self.size:,} parameters: low-rank updates of {len(self.matrices)} matrices, and "
            f"{number:,} single weights of {len(self.sparse)} others"
        )


def choose(sensitivity: Mapping[str, Tensor], budget: int, *, rank: int, matrices: Collection[str]) -> Choice:
    """Return the most sensitive weights that can be trained with at most `budget` parameters.

    Weights with a sensitivity above a threshold are chosen: the lowest threshold within the budget. Weights with a
    sensitivity of zero are never chosen.
    """
    costs = {name: rank * sum(sensitivity[name].shape) for name in matrices if name in sensitivity}

    def cost(threshold: float) -> int:
        counts = {name: int((one > threshold).sum()) for name, one in sensitivity.items()}
        return sum(min(count, costs.get(name, count)) for name, count in counts.items())

    threshold = _lowest_within(cost, budget, max(float(one.max()) for one in sensitivity.values()))
    above = {name: (one > threshold).flatten().nonzero()[:, 0].to(torch.int32) for name, one in sensitivity.items()}
    structured = tuple(name for name in sorted(costs) if len(above[name]) >= costs[name])
    sparse = {name: one for name, one in above.items() if len(one) and name not in structured}
    return Choice(structured, sparse, cost(threshold))


def _lowest_within(cost: Any, budget: int, highest: float) -> float:
    """Return the lowest float32 threshold from 0 to `highest` whose cost is within the budget.

    The cost falls as the threshold rises. Positive floats are ordered like their bits, so bisection over the bits finds
    the threshold exactly.
    """
    low, high = -1, int(torch.tensor(highest).view(torch.int32))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(_of_bits(middle)) <= budget else (middle, high)
    return _of_bits(high)


def _of_bits(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


class SparseUpdate(nn.Module):
    """Parametrization of a weight: the frozen weight plus a change of some of its entries, trained from 0."""

    def __init__(self, indices: Tensor, device: torch.device) -> None:
        super().__init__()
        self.register_buffer(INDICES, indices.to(device))
        self.register_parameter(UPDATE, nn.Parameter(torch.zeros(len(indices), device=device)))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        indices, update = self.get_buffer(INDICES), self.get_parameter(UPDATE)
        return weight.flatten().index_add(0, indices, update.to(weight.dtype)).view_as(weight)


class Spt(Removable):
    """Backbone with low-rank updates of some matrices, and trained changes of single weights in other tensors."""

    def __init__(self, backbone: Backbone, config: SptConfig, choice: Choice) -> None:
        self.backbone = backbone.requires_grad_(False)
        self._owners = [(backbone.get_submodule(owner), last, indices) for owner, last, indices in _owners(choice)]
        for module, last, indices in self._owners:
            weight = getattr(module, last)
            parametrize.register_parametrization(module, last, SparseUpdate(indices, weight.device))
        layers = [name.removesuffix(".weight") for name in choice.matrices]
        lora = LoraConfig(rank=config.rank, alpha=config.alpha, dropout=config.dropout)
        self._tuned = Tuned(backbone, lora.settings(layers)) if layers else None
        for name, weight in backbone.named_parameters():
            weight.requires_grad_("lora_" in name or name.endswith(f".{UPDATE}"))

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the adapter, with the positions of the single weights."""
        state = self.backbone.state_dict()
        positions = {name: one.clone() for name, one in state.items() if name.endswith(f".{INDICES}")}
        return super().state_of(names) | positions

    def merge(self) -> Backbone:
        """Return the plain backbone, with all changes merged into its weights."""
        if self._tuned is not None:
            self.backbone = self._tuned.merge()
        for module, last, _ in self._owners:
            merged = getattr(module, last).detach().clone()
            parametrize.remove_parametrizations(module, last, leave_parametrized=False)
            getattr(module, last).data = merged
        return self.backbone

    def attached(self) -> Backbone:
        """Return the backbone with each update applied only while its layer runs."""
        return self.backbone if self._tuned is None else self._tuned.attached()

    def remove(self) -> Backbone:
        """Return the plain backbone with its original weights."""
        if self._tuned is not None:
            self.backbone = self._tuned.remove()
        for module, last, _ in self._owners:
            parametrize.remove_parametrizations(module, last, leave_parametrized=False)
        return self.backbone

    @torch.no_grad()
    def unmerge(self, weights: Mapping[str, Tensor]) -> None:
        """Subtract the adapter, which `weights` contains, from the backbone weights into which it is merged."""
        if self._tuned is not None:
            for name, layer in self._tuned.layers():
                self._tuned.unmerge(name, layer, weights)
        for module, last, _ in self._owners:
            changed: Any = module.parametrizations[last]  # type: ignore[index]
            update = changed[0].get_parameter(UPDATE)
            changed.original.view(-1).index_add_(0, changed[0].get_buffer(INDICES), -update)


def _owners(choice: Choice) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the module of each weight of which single entries are trained, its name in the module, and the entries."""
    for name, indices in choice.sparse.items():
        owner, _, last = name.rpartition(".")
        yield owner, last, indices


def _matrices(backbone: Backbone) -> list[str]:
    """Return the names of the weights of linear layers in the blocks."""
    layers = (name for name, module in backbone.named_modules() if isinstance(module, nn.Linear))
    return [f"{name}.weight" for name in layers if name.startswith("blocks.")]


def is_candidate(name: str) -> bool:
    """Return whether a weight of a backbone may be chosen: one of the blocks or of the final norm."""
    return name.startswith(("blocks.", "norm."))


def _chosen_in(weights: Mapping[str, Tensor]) -> Choice:
    """Return the choice of weights that an adapter contains.

    Raises:
        CheckpointError: If the adapter was not written by `peft=spt`.
    """
    matrices = sorted({f"{name.partition('.lora_A.')[0]}.weight" for name in weights if ".lora_A." in name})
    sparse: dict[str, Tensor] = {}
    for name, indices in weights.items():
        if name.endswith(f".{INDICES}"):
            owner, _, rest = f".{name}".partition(INSIDE)
            place = owner.removesuffix(WRAPPED).removeprefix(".")
            sparse[f"{place}.{rest.partition('.')[0]}".removeprefix(".")] = indices
    if not matrices and not sparse:
        raise CheckpointError("the adapter contains neither low-rank updates nor positions of single weights")
    return Choice(tuple(matrices), sparse, sum(one.numel() for one in weights.values() if one.is_floating_point()))
