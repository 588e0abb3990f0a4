"""Time and energy of a computation: increases of counters, their restart at 0, and counters that cannot be read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medvit.consumption import ConsumptionMeter


def zone(folder: Path, name: str, title: str, joules: float, range_j: float = 100.0) -> Path:
    """A zone of the powercap folder, as Linux has it."""
    made = folder / name
    made.mkdir(exist_ok=True)
    (made / "name").write_text(f"{title}\n")
    (made / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (made / "max_energy_range_uj").write_text(f"{round(range_j * 1e6)}\n")
    return made


def test_the_energy_is_the_increase_of_all_packages_and_of_nothing_else(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 10)
    zone(tmp_path, "intel-rapl:1", "package-1", 20)
    zone(tmp_path, "intel-rapl:0:0", "dram", 5)
    meter = ConsumptionMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", "package-0", 12.5)
    zone(tmp_path, "intel-rapl:1", "package-1", 21)
    zone(tmp_path, "intel-rapl:0:0", "dram", 50)
    assert meter.stop().processor_energy.joules == pytest.approx(3.5, abs=1e-6)  # J


def test_a_counter_that_starts_again_from_0_loses_nothing(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 90)
    meter = ConsumptionMeter(tmp_path)
    for joules in (99, 7, 30):
        zone(tmp_path, "intel-rapl:0", "package-0", joules)
        meter._update()
    assert meter.stop().processor_energy.joules == pytest.approx(9 + 8 + 23, abs=1e-6)  # J


def test_without_counters_the_energy_is_not_measured_and_the_reason_is_stated(tmp_path: Path) -> None:
    found = ConsumptionMeter(tmp_path).stop()
    assert found.processor_energy.joules is None
    assert "no energy counters" in found.processor_energy.reason


def test_a_counter_that_fails_later_gives_no_energy(tmp_path: Path) -> None:
    made = zone(tmp_path, "intel-rapl:0", "package-0", 10)
    meter = ConsumptionMeter(tmp_path)
    (made / "energy_uj").unlink()
    assert meter.stop().processor_energy.joules is None


def test_the_wall_time_is_that_since_the_meter_was_made(tmp_path: Path) -> None:
    meter = ConsumptionMeter(tmp_path)
    time.sleep(0.05)
    assert 0.05 <= meter.stop().seconds < 5
