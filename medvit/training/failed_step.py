"""Record of the step that stopped a run: the batch with a non-finite loss, and the weights at that step.

`python -m medvit.training.failed_step FILE` reports for every image and for the weights whether they are at fault.
`replay` prepares running the step again. Files are safetensors, which can be opened without running code from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medvit.errors import CheckpointError
from medvit.files.atomic import write_weights
from medvit.types import Bags, Batch, Views

BatchT = TypeVar("BatchT", Batch, Bags, Views)


@dataclass(frozen=True)
class Stopped:
    """Training step that failed: its loss terms, the tensors of its batch, and the weights before the step.

    `rows` are the pseudonyms of the images in the batch.
    """

    step: int
    seed: int
    """Seed of torch before the step."""
    terms: Mapping[str, float]
    rows: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]


def save_stopped(path: Path, batch: Batch | Bags | Views, stopped: Stopped) -> None:
    """Write a step with the tensors of its batch, atomically."""
    parts = {f"batch.{name}": tensor for name, tensor in tensors_of(batch).items()}
    parts |= {f"weights.{name}": tensor for name, tensor in stopped.weights.items()}
    described = {"step": stopped.step, "seed": stopped.seed, "terms": stopped.terms, "rows": stopped.rows}
    write_weights(path, parts, metadata={"stopped": json.dumps(described)})


def load_stopped(path: Path) -> Stopped:
    """Return the failed step stored in a file.

    Raises:
        CheckpointError: If the file does not contain a step.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})["stopped"])
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not contain a failed step ({type(error).__name__}); give the file that the failed run named"
        ) from None
    batch, weights = (
        {name.removeprefix(start): tensor for name, tensor in parts.items() if name.startswith(start)}
        for start in ("batch.", "weights.")
    )
    return Stopped(stored["step"], int(stored["seed"]), stored["terms"], tuple(stored["rows"]), batch, weights)


def replay(module: nn.Module, batch: BatchT, stopped: Stopped) -> BatchT:
    """Prepare running a failed step again, and return its batch.

    `batch` is any batch of the same type. The weights of the step are loaded into the module, and its seed into torch.

    `module.training_step(replay(module, batch, stopped), 0)` then repeats the failed step.
    """
    module.load_state_dict(dict(stopped.weights))
    filled = {name: _filled(name, getattr(batch, name), stopped.tensors) for name in _names(batch)}
    torch.manual_seed(stopped.seed)
    return replace(batch, **filled)


def tensors_of(batch: Batch | Bags | Views) -> dict[str, Tensor]:
    """Return the tensors of a batch by the names of its fields; tensors in a list are numbered."""
    found: dict[str, Tensor] = {}
    for name in _names(batch):
        value = getattr(batch, name)
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, tuple | list):
            found |= {f"{name}.{n}": part for n, part in enumerate(value) if isinstance(part, Tensor)}
    return found


def rows_of(batch: Batch | Bags | Views) -> tuple[str, ...]:
    """Return the pseudonyms of the images of a batch; for a batch of views, the pseudonyms of the studies."""
    return tuple(batch.studies) if isinstance(batch, Views) else tuple(row.image_id for row in batch.rows)


def report(stopped: Stopped) -> Iterator[str]:
    """Return a readable report: the losses of the step, ranges of its tensors, and non-finite weights."""
    yield f"step {stopped.step}, " + ", ".join(f"{name} {value}" for name, value in stopped.terms.items())
    yield "rows " + ", ".join(stopped.rows)
    for name, tensor in stopped.tensors.items():
        values = tensor.float()
        bad = int((~torch.isfinite(values)).sum())
        yield (
            f"{name} {tuple(tensor.shape)}: {values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}, "
            f"{bad} not finite"
        )
    bad_weights = [name for name, weight in stopped.weights.items() if not torch.isfinite(weight.float()).all()]
    largest = max(
        ((float(w.float().abs().max()), name) for name, w in stopped.weights.items() if w.numel()), default=None
    )
    yield f"non-finite weights: {', '.join(bad_weights) or 'none'}"
    if largest is not None:
        yield f"largest weight: {largest[0]:.4g} in {largest[1]}"


def _names(batch: Any) -> list[str]:
    return [field.name for field in fields(batch)]


def _filled(name: str, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value):
        return type(value)(tensors.get(f"{name}.{n}", part) for n, part in enumerate(value))
    return tensors.get(name, value)


def main(words: Sequence[str]) -> int:
    """Print the report of the named file; return the exit status, as `medvit` does."""
    if len(words) != 1:
        print("usage: python -m medvit.training.failed_step FILE", file=sys.stderr)  # noqa: T201 (a command of its own)
        return 2
    try:
        print("\n".join(report(load_stopped(Path(words[0])))))  # noqa: T201
    except CheckpointError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
