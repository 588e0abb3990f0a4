"""System metrics: samples at their interval, in percent of the machine, and none after the end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from medvit.tracking.system import PREFIX, SystemMonitor


def test_samples_are_numbered_and_end_with_the_monitor() -> None:
    found: list[tuple[Mapping[str, float], int]] = []
    monitor = SystemMonitor(lambda values, step: found.append((values, step)), interval_s=0.05)
    end = time.monotonic() + 30
    while len(found) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    monitor.end()
    number = len(found)
    time.sleep(0.2)
    assert len(found) == number >= 3
    assert [step for _, step in found] == list(range(number))
    for values, _ in found:
        assert 0 <= values[f"{PREFIX}cpu_utilization_percentage"] <= 100
        assert 0 < values[f"{PREFIX}system_memory_usage_percentage"] <= 100


def test_a_stage_shorter_than_the_interval_records_nothing() -> None:
    found: list[int] = []
    SystemMonitor(lambda _, step: found.append(step), interval_s=5).end()
    assert found == []
