"""Benchmark of the tracker: shares and longest calls of measured times."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tracker
from medvit.tracking import TrackingConfig


def test_the_share_is_that_of_all_steps_and_the_longest_call_is_named() -> None:
    cost = tracker.TrackerCost(calls=(0.001, 0.003), steps=(0.1, 0.3))
    assert cost.share == pytest.approx(0.01)
    assert "1.000 % of a step, longest call 3.00 ms" in str(cost)


def test_without_tracking_a_call_takes_less_than_a_thousandth_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "SECONDS", 0.5)
    cost = tracker.measured(TrackingConfig(enabled=False), tmp_path / "off")
    assert sorted(cost.calls)[len(cost.calls) // 2] < 0.001 * sorted(cost.steps)[len(cost.steps) // 2]
