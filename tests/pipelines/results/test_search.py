"""Search in embeddings: filters, exclusions, queries from another folder, and bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from medvit.artifacts import Lineage
from medvit.embeddings.table import table_digest
from medvit.errors import ConfigError, DataError
from pipelines.results.embed import embed
from pipelines.results.search import search
from tests.models.tuned import backbone_in
from tests.pipelines.results.test_baseline import dataset_in


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """Embeddings of 120 images of two scanners."""
    dataset_in(tmp_path / "dataset")
    backbone = backbone_in(tmp_path / "backbone")
    return embed(checkpoint=backbone, dataset=tmp_path / "dataset", output=tmp_path / "found").folder


def hits(folder: Path) -> list[dict[str, str]]:
    with (folder / "hits.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_image_itself_is_first_unless_it_is_excluded(embedded: Path, tmp_path: Path) -> None:
    options = {"embeddings": embedded, "image": "i-004", "number": 3}
    found = hits(search(**options, exclude="nothing", output=tmp_path / "a").folder)
    assert (found[0]["image_id"], found[0]["cosine"]) == ("i-004", "1.0000")
    without = hits(search(**options, output=tmp_path / "b").folder)
    assert Lineage.read(tmp_path / "b").inputs == {"embeddings": table_digest(embedded)}
    assert [one["image_id"] for one in without[:2]] == [one["image_id"] for one in found[1:]]


def test_only_images_with_the_requested_columns_are_found_with_their_labels(embedded: Path, tmp_path: Path) -> None:
    found = hits(
        search(
            embeddings=embedded,
            image="s-004",
            where={"split": "train", "model": "A"},
            columns=["finding", "model"],
            output=tmp_path / "a",
        ).folder
    )
    assert len(found) == 10
    assert {one["model"] for one in found} == {"A"}
    assert {one["finding"] for one in found} <= {"normal", "effusion"}


def test_all_images_of_another_folder_are_searched_for(embedded: Path, tmp_path: Path) -> None:
    dataset_in(tmp_path / "new", seed=1)
    new = embed(checkpoint=tmp_path / "backbone", dataset=tmp_path / "new", output=tmp_path / "queries", splits=["val"])
    made = search(embeddings=embedded, queries=new.folder, number=2, exclude="nothing", output=tmp_path / "a")
    assert made.num_queries == len(new.table)
    assert len(hits(made.folder)) == 2 * len(new.table)


def test_embeddings_of_another_backbone_are_refused(embedded: Path, tmp_path: Path) -> None:
    other = backbone_in(tmp_path / "other", seed=5)
    new = embed(checkpoint=other, dataset=tmp_path / "dataset", output=tmp_path / "queries")
    with pytest.raises(DataError, match=r"embedded differently \(weights_sha256\)"):
        search(embeddings=embedded, queries=new.folder, output=tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs image=PSEUDONYM, or queries=FOLDER"),
        ({"image": "i-004", "where": {"color": "red"}}, "where names color; the images have the columns image_id"),
        ({"image": "i-004", "columns": ["color"]}, "columns names color"),
    ],
)
def test_wrong_options_are_refused(embedded: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(embeddings=embedded, output=tmp_path / "a", **options)


def test_an_unknown_image_and_a_filter_without_images_are_refused(embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image or study i-999"):
        search(embeddings=embedded, image="i-999", output=tmp_path / "a")
    with pytest.raises(DataError, match=r"no image has model: Z \(where\)"):
        search(embeddings=embedded, image="i-004", where={"model": "Z"}, output=tmp_path / "b")
