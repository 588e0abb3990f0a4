"""Embeddings are written whole or not at all, read by rows, and made once."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import torch

from medvit.errors import DataError, OutputError
from medvit.files.atomic import STALE_S
from medvit.models.embedding_store import FACTS, EmbeddingStore


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "embeddings", "key", {"features": "mean"})


def written(store, name="slide", count=10):
    rows = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    with store.writing(name, count, 4) as writer:
        writer.append(rows[:3])
        writer.append(rows[3:])
    return rows


@pytest.mark.parametrize("indices", [[0], [2, 3, 4], [9, 0, 5, 5], list(range(0, 10, 3)), list(range(10))])
def test_any_rows_come_in_the_order_asked_for(store, indices):
    rows = written(store)
    found = store.get("slide", 10).take(torch.tensor(indices))
    np.testing.assert_allclose(found.numpy(), rows[indices], atol=2e-3)  # 16 bits keep 3 digits


def test_any_tool_opens_them(store):
    rows = written(store)
    np.testing.assert_allclose(np.load(store.path("slide")), rows, atol=2e-3)
    assert json.loads((store.folder / FACTS).read_text()) == {"features": "mean"}


def test_a_slide_that_fails_midway_leaves_nothing(store):
    def fail():
        with store.writing("slide", 10, 4) as writer:
            writer.append(np.zeros((3, 4)))
            raise DataError("the slide is cut short")

    with pytest.raises(DataError, match="cut short"):
        fail()
    assert store.get("slide", 10) is None
    assert [path.name for path in store.folder.iterdir()] == [FACTS]


@pytest.mark.parametrize("harm", [lambda b: b[:-1], lambda b: b[:20], lambda b: b""])
def test_a_damaged_file_counts_as_none_and_is_told(store, harm, caplog):
    written(store)
    path = store.path("slide")
    path.write_bytes(harm(path.read_bytes()))
    assert store.get("slide", 10) is None
    assert "is damaged; the embeddings are computed again" in caplog.text


def test_a_file_cut_while_it_is_read_is_told(store):
    written(store)
    embeddings = store.get("slide", 10)
    embeddings.path.write_bytes(embeddings.path.read_bytes()[:-8])
    with pytest.raises(DataError, match="is truncated"):
        embeddings.take(torch.arange(10))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match="cannot write embeddings"),
        EmbeddingStore(tmp_path / "file", "key", {}).writing("slide", 1, 4),
    ):
        pass


def test_embeddings_that_a_killed_process_left_half_written_are_removed(store):
    written(store)
    killed, at_work = (store.folder / f".slide.npy.{process}.partial" for process in (4711, 4712))
    for path in (killed, at_work):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * STALE_S
    os.utime(killed, (long_ago, long_ago))
    written(store, "other")
    assert sorted(path.name for path in store.folder.iterdir()) == [at_work.name, FACTS, "other.npy", "slide.npy"]
