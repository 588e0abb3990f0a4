"""Corrected p-values are those of Holm's definition."""

import pytest

from medvit.statistics.multiplicity import holm


def test_holm_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
