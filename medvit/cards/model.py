"""Model cards: contents of a checkpoint, its training, and its intended use."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from medvit.artifacts import FIGURES, MODEL_CARD, Checkpoint
from medvit.document import code, inert, plain
from medvit.files.atomic import write_text


def write_model_card(checkpoint: Checkpoint, *, figures: Mapping[str, float], training: Mapping[str, str]) -> None:
    """Write `model_card.md`, with training figures and provenance, and `figures.json` into the checkpoint folder.

    A figure that is not finite is null in `figures.json`.
    """
    model = checkpoint.model
    classes = model.get("classes")
    lines = [
        f"# {checkpoint.kind.capitalize()} model",
        "",
        "For research. Not a medical device; not for diagnosis or treatment.",
        "",
        "## Contents",
        "",
        f"- Backbone: `{_short(model['backbone'])}`",
        *(
            [f"- Head: `{_short(model['head'])}`", f"- Adapted by: `{_short(model['peft'])}`"]
            if "head" in model
            else []
        ),
        *([f"- Classes: {', '.join(map(plain, classes))}"] if classes else []),
        *([f"- Positive class: {plain(model['positive'])}"] if model.get("positive") else []),
        *(
            f"- Label {plain(one['label'])}: {one['task']}, weight {one['weight']:g}"
            for one in model.get("tasks") or ()
        ),
        *([f"- Made for: {code(_short(model['applies_to']))}"] if "applies_to" in model else []),
        f"- Weights: {_sizes(checkpoint)}",
        f"- Preprocessing: `{_short(checkpoint.preprocess)}`",
        "",
        "## Training",
        "",
        *(f"- {name}: {inert(text)}" for name, text in training.items()),
        "",
        "## Figures of the training itself",
        "",
        *(f"- {inert(name)}: {value:.4g}" for name, value in figures.items()),
        "",
        _advice(figures),
    ]
    write_text(checkpoint.folder / MODEL_CARD, "\n".join(lines) + "\n")
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    write_text(checkpoint.folder / FIGURES, json.dumps(finite, indent=2) + "\n")


def _sizes(checkpoint: Checkpoint) -> str:
    number = f"{sum(weight.numel() for weight in checkpoint.state.values()):,}"
    trained = f"{sum(weight.numel() for weight in (checkpoint.adapter or {}).values()):,}"
    if checkpoint.is_adapter:
        digest = checkpoint.model["base"]["sha256"]
        return f"{trained}, without those of the backbone, whose weights have the SHA-256 {digest}"
    return f"{number}, of which trained and kept apart {trained}" if checkpoint.adapter else number


def _advice(figures: Mapping[str, float]) -> str:
    use = "use `medvit evaluate` on a test split."
    if any("best validation metric" in name for name in figures):
        return f"Validation figures were used to select the weights and are optimistic; {use}"
    return f"These figures are of images that the training has used; {use}"


def _short(tree: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in tree.items() if value not in (None, (), [], ""))
