"""Model cards (Mitchell et al. 2019): details, use, data, results and limits of a checkpoint.

`model_card.html` (self-contained) and `model_card.md` have the same contents. What no program knows is stated by people
(`medvit.cards.model_prose`), and otherwise shown as not stated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medvit.artifacts import FIGURES, MODEL_CARD, MODEL_PAGE, Checkpoint
from medvit.cards.model_prose import NOT_STATED, ModelProse
from medvit.cards.model_results import ReportedResults
from medvit.cards.training_record import Adjustment, TrainingData, TrainingRecord
from medvit.consumption import Energy
from medvit.document import Block, Bullets, Document, Outside, Section, Table
from medvit.files.atomic import write_text
from medvit.patients import PatientCount
from medvit.summary import duration

OPENING = "Not for diagnosis or treatment."
MARKDOWN_OPENING = f"For research. Not a medical device. {OPENING}"
"""Opening in Markdown; every page begins with its first two sentences."""
NO_REPORT = (
    "No evaluation is part of this card. Run `medvit evaluate` on a test split, then `medvit card checkpoint=... "
    "report=...`, which writes a card with its results."
)
NO_RECORD = "Not recorded: an earlier version of medvit made this checkpoint. Its own model_card.md has what is known."
PICTURES = "model_card"


def write_model_card(
    checkpoint: Checkpoint,
    *,
    figures: Mapping[str, float],
    training: Mapping[str, str],
    record: TrainingRecord | None = None,
) -> None:
    """Write the card of a model that has just been trained, and the facts from which it can be written again.

    These are `training.json`, and `figures.json` with the figures of the training. A figure that is not finite is null.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    write_text(checkpoint.folder / FIGURES, json.dumps(finite, indent=2) + "\n")
    made = replace(record or TrainingRecord(), training=dict(training), figures=finite)
    made.write(checkpoint.folder)
    write_pages(model_document(checkpoint, made), checkpoint.folder)


def write_pages(document: Document, folder: Path) -> None:
    """Write `model_card.html` and `model_card.md` into a folder."""
    document.write_html(folder / MODEL_PAGE)
    replace(document, opening=MARKDOWN_OPENING).write_markdown(folder / MODEL_CARD, PICTURES)


def model_document(
    checkpoint: Checkpoint,
    record: TrainingRecord | None,
    prose: ModelProse | None = None,
    results: ReportedResults | None = None,
) -> Document:
    """Return the card of a model by the sections of Model Cards, with the results of an evaluation if there is one."""
    said = prose or ModelProse()
    missing: list[Block] = [NO_REPORT]
    details = _stated(said, "developers", "version", "license", "citation", "contact")
    sections = [
        Section("Model details", [details, _details(checkpoint)]),
        Section("Intended use", [_stated(said, "intended_use", "users", "out_of_scope"), *_made_for(checkpoint)]),
        Section("Factors", [_stated(said, "factors"), *(results.factors if results else [])]),
        Section("Metrics", results.metrics if results else missing),
        Section("Evaluation data", [*(results.data if results else missing), _stated(said, "evaluation_data")]),
        Section("Training data", [*_data(record), _stated(said, "training_data")]),
        Section("Training", _training(record)),
        Section("Quantitative analyses", [*(results.results if results else missing), *_figures(record)]),
        *(Section(one.title, _adjustment(one)) for one in (record.adjustments if record else ())),
        Section("Ethical considerations", [_stated(said, "ethical_considerations")]),
        Section("Caveats and recommendations", [_stated(said, "caveats"), *_limits(record, results)]),
        Section("Training cost", _cost(record)),
    ]
    title = f"{checkpoint.kind.capitalize()} model"
    return Document(title, OPENING, sections, has_contents=True)


def _stated(prose: ModelProse, *names: str) -> Bullets:
    """Return what people state under some keys, or that they do not state it."""
    each = {name.replace("_", " ").capitalize(): getattr(prose, name) or NOT_STATED for name in names}
    return Bullets([Outside(f"{title}: {' '.join(text.split())}") for title, text in each.items()])


def _details(checkpoint: Checkpoint) -> Bullets:
    model = checkpoint.model
    lines = [f"Backbone: `{_short(model['backbone'])}`"]
    if "head" in model:
        lines += [f"Head: `{_short(model['head'])}`", f"Adapted by: `{_short(model['peft'])}`"]
    for key, title in (("classes", "Classes"), ("regions", "Regions")):
        lines += [Outside(f"{title}: {', '.join(model[key])}")] if model.get(key) else []
    lines += [Outside(f"Positive class: {model['positive']}")] if model.get("positive") else []
    lines += [
        Outside(f"Label {one['label']}: {one['task']}, weight {one['weight']:g}") for one in model.get("tasks") or ()
    ]
    return Bullets([*lines, f"Weights: {_sizes(checkpoint)}", f"Preprocessing: `{_short(checkpoint.preprocess)}`"])


def _made_for(checkpoint: Checkpoint) -> list[Block]:
    applies = checkpoint.model.get("applies_to")
    return [Bullets([Outside(f"Made for: {_short(applies)}")])] if applies else []


def _data(record: TrainingRecord | None) -> list[Block]:
    if record is None:
        return [NO_RECORD]
    if not record.data:
        return ["Not recorded."]
    blocks: list[Block] = [_data_table(record.data)]
    blocks += [one.cohort for one in record.data if one.lines]
    if record.initial_data:
        blocks += [f"Data of the initial weights ({record.initial_weights}):", _data_table(record.initial_data)]
    elif record.initial_weights:
        blocks.append(f"The initial weights ({record.initial_weights}) do not record their data.")
    return blocks


def _data_table(data: Sequence[TrainingData]) -> Table:
    lines = [
        [
            Outside(one.name),
            PatientCount(one.patients, one.assumed_patients).cell,
            Outside(one.license or NOT_STATED),
            Outside(one.source or NOT_STATED),
            one.sha256,
        ]
        for one in data
    ]
    return Table(["dataset", "patients", "license", "source", "SHA-256 of the manifest"], lines, is_text=True)


def _training(record: TrainingRecord | None) -> list[Block]:
    if record is None:
        return [NO_RECORD]
    return [Bullets([f"{name}: {text}" for name, text in record.training.items()])] if record.training else []


def _figures(record: TrainingRecord | None) -> list[Block]:
    if record is None or not record.figures:
        return []
    shown = [f"{name}: {'not finite' if value is None else f'{value:.4g}'}" for name, value in record.figures.items()]
    return ["Figures of the training itself:", Bullets(shown)]


def _adjustment(one: Adjustment) -> list[Block]:
    return [Bullets([f"{name}: {text}" for name, text in one.lines.items()]), one.note]


def _limits(record: TrainingRecord | None, results: ReportedResults | None) -> list[Block]:
    lines = list(results.limits) if results else []
    figures = record.figures if record else {}
    if record is None:
        return [Bullets(lines)] if lines else []
    use = "use `medvit evaluate` on a test split."
    if any("best validation metric" in name for name in figures):
        lines.append(f"Validation figures were used to select the weights and are optimistic; {use}")
    else:
        lines.append(f"Figures of the training itself are of images that the training has used; {use}")
    return [Bullets(lines)]


def _cost(record: TrainingRecord | None) -> list[Block]:
    if record is None or record.consumption is None:
        return ["Not recorded."]
    one = record.consumption
    resumed = " (of the process that finished the run; those that were interrupted are not counted)"
    lines = [
        f"Wall time: {duration(one.seconds)}{resumed if record.is_resumed else ''}",
        f"Processor: {one.processor}",
        f"GPUs that training could use: {', '.join(one.gpus) or 'none'}",
        f"Energy of the processor: {_energy(one.processor_energy)}",
        f"Energy of the GPUs: {_energy(one.gpu_energy)}",
    ]
    return [Bullets(lines)]


def _energy(energy: Energy) -> str:
    if energy.joules is None:
        return f"not measured ({energy.reason})"
    return f"{energy.joules / 3.6e6:.3g} kWh ({energy.joules:.4g} J), with that of all other processes of the machine"


def _sizes(checkpoint: Checkpoint) -> str:
    number = f"{sum(weight.numel() for weight in checkpoint.state.values()):,}"
    trained = f"{sum(weight.numel() for weight in (checkpoint.adapter or {}).values()):,}"
    if checkpoint.is_adapter:
        digest = checkpoint.model["base"]["sha256"]
        return f"{trained}, without those of the backbone, whose weights have the SHA-256 {digest}"
    return f"{number}, of which trained and kept apart {trained}" if checkpoint.adapter else number


def _short(tree: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in tree.items() if value not in (None, (), [], ""))
