"""Card of a dataset or of a model, or comparison of two datasets."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import model_validator

from medvit import cards
from medvit.artifacts import METRICS, MODEL_CARD, MODEL_PAGE, Checkpoint, Lineage
from medvit.cards import comparison, plots
from medvit.cards.comparison import CardFolder, compare
from medvit.cards.model import model_document, write_pages
from medvit.cards.model_prose import read_model_prose
from medvit.cards.model_results import ReportedResults
from medvit.cards.prose import find_prose, fitting
from medvit.cards.training_record import TrainingRecord
from medvit.dataset import quarantine
from medvit.errors import ConfigError
from medvit.stage import Run, StageConfig, stage


class CardConfig(StageConfig):
    """Options of `medvit card`."""

    a: Path | None = None
    """Dataset folder made by ingest or merge. Give either `a` or `checkpoint`."""
    b: Path | None = None
    """Second dataset, to compare with the first. Unset: a new card of the first dataset is written."""
    checkpoint: Path | None = None
    """Folder of a model made by pretrain, finetune or calibrate, of which a model card is written."""
    report: Path | None = None
    """Report of evaluate on the same model, whose results the model card states. Unset: the card has no results."""
    output: Path
    """New folder for the comparison or the card."""
    card: Path | None = None
    """Text for the card. Of a dataset: a Markdown file; unset: data_cards/NAME.md of the medvit installation, if there
    is one and the image counts stated in that file match the dataset. Of a model: a YAML file with intended use,
    license, contact and other statements; unset: they are shown as not stated.
    """

    @model_validator(mode="after")
    def _has_one_subject(self) -> CardConfig:
        if (self.a is None) == (self.checkpoint is None):
            raise ValueError("give either a=DATASET or checkpoint=MODEL")
        if self.b is not None and self.a is None:
            raise ValueError("b is compared with a; give a=DATASET, too")
        if self.report is not None and self.checkpoint is None:
            raise ValueError("report is for the card of a model; give checkpoint=MODEL, too")
        return self


@stage
def card(config: CardConfig, run: Run) -> CardFolder:
    """Compare two datasets, or write a new card of one dataset or of one model."""
    if config.checkpoint is not None:
        return card_of_model(config, config.checkpoint, run)
    assert config.a is not None, "the options have one subject"
    a = run.dataset(config.a, "a")
    if config.b is None:
        prose = find_prose(config.card, a.facts.name)
        prose = prose if config.card else fitting(prose, a.rows)
        cards.write_pages(a, quarantine.read(config.a), prose, folder=run.folder)
        run.keep(cards.FILE_NAME, cards.HTML)
        run.tracker.file(run.folder / plots.FOLDER, plots.FOLDER)
        return CardFolder(run.folder)

    b = run.dataset(config.b, "b")
    variables = compare(a, b, config.seed)
    comparison.write(run.folder, a, b, variables)
    run.keep(comparison.HTML, comparison.MARKDOWN, comparison.CSV)
    return CardFolder(run.folder, variables)


def card_of_model(config: CardConfig, folder: Path, run: Run) -> CardFolder:
    """Write the card of a model, with the results of a report on it; the model and the report are not changed."""
    checkpoint = run.checkpoint(folder)
    prose = read_model_prose(config.card)
    results = None if config.report is None else _results(config.report, checkpoint, run)
    write_pages(model_document(checkpoint, TrainingRecord.read(folder), prose, results), run.folder)
    run.keep(MODEL_PAGE, MODEL_CARD)
    return CardFolder(run.folder)


def _results(report: Path, checkpoint: Checkpoint, run: Run) -> ReportedResults:
    """Return the results of a report.

    Raises:
        ConfigError: If the report is on another model.
        DataError: If the folder is not a report.
    """
    results = ReportedResults.read(report)
    lineage = Lineage.read(report)
    evaluated = None if lineage is None else lineage.inputs.get("checkpoint")
    if evaluated != checkpoint.hash:
        found = "records no checkpoint" if evaluated is None else f"is on the model {evaluated[:16]}"
        raise ConfigError(
            f"the report {report} {found}, and {checkpoint.folder} is the model {checkpoint.hash[:16]}; give the "
            "report of an evaluation of this model"
        )
    digest = hashlib.sha256((report / METRICS).read_bytes()).hexdigest()
    run.require_same("report", digest)
    run.inputs["report"] = digest
    return results
