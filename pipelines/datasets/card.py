"""Card of a dataset, or comparison of two datasets."""

from __future__ import annotations

from pathlib import Path

from medvit import cards
from medvit.cards import comparison, plots
from medvit.cards.comparison import CardFolder, compare
from medvit.cards.prose import find_prose, fitting
from medvit.dataset import quarantine
from medvit.stage import Run, StageConfig, stage


class CardConfig(StageConfig):
    """Options of `medvit card`."""

    a: Path
    """Dataset folder made by ingest."""
    b: Path | None = None
    """Second dataset, to compare with the first. Unset: a new card of the first dataset is written."""
    output: Path
    """New folder for the comparison or the card."""
    card: Path | None = None
    """Markdown file with text for the card. Unset: data_cards/NAME.md of the medvit installation, if there is one and
    the image counts stated in that file match the dataset.
    """


@stage
def card(config: CardConfig, run: Run) -> CardFolder:
    """Compare two datasets by scanner, patients, intensity and class, or write a new data card of one dataset."""
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
