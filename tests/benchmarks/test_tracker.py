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


def test_each_step_has_the_time_of_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "SECONDS", 0.2)
    monkeypatch.setattr(tracker, "WARM_UP", 0)
    cost = tracker.measured(TrackingConfig(enabled=False), tmp_path / "off")
    assert len(cost.calls) == len(cost.steps) > 0
    assert min(cost.calls) >= 0.0
