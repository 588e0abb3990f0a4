"""Scale bars: round lengths with their units, and a line of this length on the image."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from medvit.writers.scale_bar import draw_scale_bar, length_text, round_length


@pytest.mark.parametrize(
    ("length", "rounded"),
    [(1.0, 1.0), (3.9, 2.0), (49.0, 20.0), (51.0, 50.0), (0.05, 0.05), (0.019, 0.01), (999.0, 500.0)],
)
def test_scale_bars_have_a_round_length_that_fits(length: float, rounded: float) -> None:
    assert round_length(length) == pytest.approx(rounded)


def test_lengths_have_a_unit_that_reads_well() -> None:
    assert [length_text(0.2, "mm"), length_text(20.0, "mm"), length_text(50.0, "px")] == ["200 µm", "20 mm", "50 px"]


def test_the_bar_has_its_length_on_the_image() -> None:
    axes = Figure().subplots()
    draw_scale_bar(axes, 4.0, 400, 200, "mm")
    (line,) = axes.lines
    left, right = line.get_xdata()
    assert right - left == pytest.approx(100.0)  # 1 mm of 4 mm, on 400 pixels
    assert axes.texts[0].get_text() == "1 mm"
