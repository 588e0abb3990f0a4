"""The table of embeddings: what is written is read, and embeddings of other weights are not compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.embeddings.table import TABLE, EmbeddedImage, EmbeddingTable, require_comparable
from medvit.errors import DataError


def table(number: int, width: int = 3, *, weights: str = "a") -> EmbeddingTable:
    vectors = np.random.default_rng(0).normal(size=(number, width)).astype(np.float32)
    images = tuple(
        EmbeddedImage(
            *(f"{what}-{n}" for what in "ipsq"), "MR", "volume", "d", "train", {"grade": str(n % 2)}, {"sex": "F"}
        )
        for n in range(number)
    )
    return EmbeddingTable(images, vectors, {"weights_sha256": weights, "features": "mean"})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = table(5)
    written.write(tmp_path)
    read = EmbeddingTable.read(tmp_path)
    assert read.images == written.images
    assert read.facts == written.facts
    np.testing.assert_array_equal(read.vectors, written.vectors)


def test_images_are_chosen_by_columns_labels_and_attributes() -> None:
    odd = table(5).where(lambda image: image.value("grade") == "1" and image.value("sex") == "F")
    assert odd.values("image_id") == ["i-1", "i-3"]
    np.testing.assert_array_equal(odd.vectors, table(5).vectors[[1, 3]])
    assert odd.values("nothing") == [None, None]
    assert odd.columns[-2:] == ["grade", "sex"]


def test_embeddings_of_other_weights_are_not_compared() -> None:
    require_comparable(table(1), table(2), ("a", "b"))
    with pytest.raises(DataError, match=r"a and b were embedded differently \(weights_sha256\)"):
        require_comparable(table(1), table(1, weights="b"), ("a", "b"))


def test_a_folder_without_embeddings_and_a_damaged_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the output of medvit embed"):
        EmbeddingTable.read(tmp_path)
    (tmp_path / TABLE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        EmbeddingTable.read(tmp_path)
