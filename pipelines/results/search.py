"""Search for the most similar images of an embedded dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medvit.config import Count
from medvit.document import Table, markdown_table
from medvit.embeddings.search import Hit
from medvit.embeddings.search import search as find_similar
from medvit.embeddings.table import EmbeddingTable, filtered, require_columns, require_comparable
from medvit.errors import ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.summary import Summary, counted

HITS = "hits.csv"
SHOWN = 40
"""Maximum number of lines that the terminal shows."""
Excluded = Literal["patient", "study", "image", "nothing"]


class SearchConfig(StageConfig):
    """Options of `medvit search`."""

    USES_TORCH: ClassVar[bool] = False

    embeddings: Path
    """Folder of embeddings to search in, made by embed."""
    image: str = ""
    """Image to search for, by its pseudonym (i-...), or a study (s-...) whose images are all searched for. It is looked
    up in `queries` or, if that is unset, in `embeddings`.
    """
    queries: Path | None = None
    """Folder of embeddings of other images, made with the same checkpoint, such as new studies. Without `image`, all of
    them are searched for.
    """
    number: Count = 10
    """Number of images to find for each query."""
    where: dict[str, str] = Field(default_factory=dict)
    """Images to search in, by columns of the manifest, labels or attributes, as in where={split: train, sex: F}. Empty:
    all images.
    """
    exclude: Excluded = "patient"
    """Images that are not found for a query: those of the same patient, of the same study, the image itself, or
    nothing.
    """
    columns: tuple[str, ...] = ()
    """Columns of the manifest, labels or attributes to list for each image. Empty: the split and all labels."""
    output: Path | None = None
    """New folder for the results. Unset: the first unused name of search-1, search-2... in the current folder."""

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("search")


@dataclass(frozen=True)
class SimilarImages:
    """Finished search: `hits.csv`."""

    folder: Path
    num_queries: int
    num_images: int

    def summary(self) -> Summary:
        """Return the numbers of queries and of searched images."""
        lines = [("queries", str(self.num_queries)), ("searched", counted(self.num_images, "image"))]
        return Summary(lines, {HITS: "a row for each image that was found"})


@stage
def search(config: SearchConfig, run: Run) -> SimilarImages:
    """Find the most similar images of embedded datasets, such as the training images most like a new one."""
    everything = run.embeddings(config.embeddings, "embeddings")
    bank = filtered(everything, config.where, "where")
    queries = _queries(config, run, everything)

    excluded = "" if config.exclude == "nothing" else f"{config.exclude}_id"
    hits = find_similar(bank, queries, config.number, excluded)

    columns = config.columns or ("split", *sorted({label for image in bank.images for label in image.labels}))
    require_columns(everything, columns, "columns")
    head = ("query", "rank", "image_id", "patient_id", "study_id", "cosine", *columns)
    lines = [_line(hit, columns) for hit in hits]
    write_text(run.folder / HITS, csv_text(head, lines))
    print(markdown_table(Table(head, lines[:SHOWN])))
    run.keep(HITS)
    return SimilarImages(run.folder, len(queries), len(bank))


def _queries(config: SearchConfig, run: Run, everything: EmbeddingTable) -> EmbeddingTable:
    if config.queries is None and not config.image:
        raise ConfigError("search needs image=PSEUDONYM, or queries=FOLDER with the embeddings of other images")
    found = everything
    if config.queries is not None:
        found = run.embeddings(config.queries, "queries")
        require_comparable(everything, found, ("embeddings", "queries"))
    if not config.image:
        return found
    chosen = found.where(lambda image: config.image in (image.image_id, image.study_id))
    if not len(chosen):
        place = config.queries or config.embeddings
        raise DataError(f"{place} has no image or study {config.image}; give the pseudonym of an embedded image")
    return chosen


def _line(hit: Hit, columns: tuple[str, ...]) -> list[str]:
    found = hit.found
    own = [found.image_id, found.patient_id, found.study_id, f"{hit.cosine:.4f}"]
    return [hit.query.image_id, str(hit.rank), *own, *(found.value(name) or "" for name in columns)]
