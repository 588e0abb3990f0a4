"""Figures of the table of a plan."""

from medvit.training.planning.table import _bytes, _count, _duration


def test_figures_are_told_in_units_of_people():
    assert (_count(5_490_000), _count(12), _count(float("nan"))) == ("5.49 M", "12 ", "unknown ")
    assert (_bytes(2**30), _bytes(2048)) == ("1 GiB", "2 KiB")
    assert (_duration(90), _duration(3 * 3600), _duration(72 * 3600)) == ("1.5 minutes", "3.0 hours", "3.0 days")
