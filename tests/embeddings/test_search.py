"""Exact search by cosine: an image is most similar to itself, the order is that of all cosines, ties are stable."""

from __future__ import annotations

import numpy as np

from medvit.embeddings.search import QUERIES_AT_ONCE, nearest, search
from tests.embeddings.test_table import table


def test_an_image_is_most_similar_to_itself() -> None:
    bank = table(30, width=8)
    hits = search(bank, bank, 3)
    first = [hit for hit in hits if hit.rank == 1]
    assert [hit.query.image_id for hit in first] == [hit.found.image_id for hit in first]
    assert np.allclose([hit.cosine for hit in first], 1.0)


def test_the_order_is_that_of_all_cosines() -> None:
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(500, 16)), generator.normal(size=(300, 16))
    places, cosines = nearest(bank, queries, 7)
    unit, asked = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (bank, queries))
    expected = np.argsort(-(asked @ unit.T), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(np.stack(places), expected)
    np.testing.assert_allclose(np.stack(cosines), np.take_along_axis(asked @ unit.T, expected, axis=1))


def test_equal_images_are_in_the_order_of_the_bank() -> None:
    bank = np.ones((6, 4)) * np.arange(1, 7)[:, None]
    assert nearest(bank, np.ones((1, 4)), 4)[0][0].tolist() == [0, 1, 2, 3]


def test_excluded_images_are_replaced_by_the_next_ones() -> None:
    bank = table(30, width=8)
    hits = search(bank, bank.at([4]), 5, "patient_id")
    assert len(hits) == 5
    assert "i-4" not in [hit.found.image_id for hit in hits]


def test_each_of_many_queries_excludes_its_own_image() -> None:
    bank = table(QUERIES_AT_ONCE + 40, width=8)
    unit = bank.vectors / np.linalg.norm(bank.vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2.0)
    hits = search(bank, bank, 1, "image_id")
    assert [hit.found.image_id for hit in hits] == [f"i-{n}" for n in cosines.argmax(axis=1)]


def test_fewer_images_than_requested_are_all_found() -> None:
    assert [len(found) for found in nearest(np.eye(3), np.ones((2, 3)), 10)[0]] == [3, 3]
