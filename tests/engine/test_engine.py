"""Results are in the order of the items, and one failing item does not stop the others."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy  # noqa: F401 -- its threads are counted
import pytest
from threadpoolctl import threadpool_info

from medvit.engine import AHEAD, EngineConfig, map_drawn, map_items
from medvit.engine.local import LAST
from medvit.errors import ConfigError, CrashError, DataError, TimeLimitError
from medvit.files.limits import allowed_gib, allowing

PROJECT = Path(__file__).parents[2]
HERE, SPREAD = EngineConfig(num_processes=1), EngineConfig(num_processes=2)


def reciprocal(number: int) -> float:
    if number == 3:
        raise DataError("three is not taken")
    return 1 / number


def threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def blas_threads(_: int) -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def killed_at_two_and_seven(number: int) -> int:
    if number in (2, 7):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


def killed_the_first_time(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def pid_while_waiting(folder: Path) -> int:
    """Leaves its process number, and waits to be killed the first time."""
    if not (folder / "pid").exists():
        (folder / ".pid").write_text(str(os.getpid()))
        (folder / ".pid").rename(folder / "pid")
        time.sleep(60)
    return os.getpid()


class Unportable(Exception):  # noqa: N818
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


def unportable(number: int) -> object:
    if number == 1:
        raise Unportable("a", "b")
    return (lambda: 0) if number == 2 else number


def pid_after_a_while(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


NUM_CALLS = Counter[str]()


def counted(seconds: float) -> int:
    """Number of items that this process has begun."""
    NUM_CALLS["begun"] += 1
    time.sleep(seconds)
    return NUM_CALLS["begun"]


def doubled(content: bytes) -> bytes:
    return content * 2


def slow(number: int) -> int:
    time.sleep(1.0)
    return number


@pytest.mark.parametrize("config", [HERE, SPREAD], ids=["one process", "two processes"])
def test_outcomes_keep_order_and_errors_stay_with_their_item(config: EngineConfig) -> None:
    outcomes = list(map_items(reciprocal, [1, 0, 2, 3, 4], config=config, title="numbers"))
    assert [outcome.item for outcome in outcomes] == [1, 0, 2, 3, 4]
    assert [outcome.result for outcome in outcomes] == [1.0, None, 0.5, None, 0.25]
    assert isinstance(outcomes[1].error, ZeroDivisionError)
    assert isinstance(outcomes[3].error, DataError)
    assert str(outcomes[3].error) == "three is not taken"


def test_items_and_results_larger_than_a_pipe_holds_pass_in_both_directions_at_once() -> None:
    items = [bytes([number]) * 2**22 for number in range(12)]  # 4 MiB; a pipe has 64 KiB to about 100
    outcomes = map_items(doubled, items, config=SPREAD, title="large")
    assert [outcome.result == outcome.item * 2 for outcome in outcomes] == [True] * 12


def warned_of(number: int) -> int:
    logging.getLogger("medvit").info("at %d", number)
    logging.getLogger("medvit").warning("odd %d", number)
    return number


@pytest.mark.parametrize("config", [HERE, SPREAD], ids=["here", "processes"])
def test_what_an_item_logs_is_logged_once_in_the_calling_process(
    config: EngineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(list(map_items(warned_of, [1, 2], config=config, title="warn"))) == 2
    assert sorted(caplog.messages) == ["odd 1", "odd 2"]
    caplog.clear()
    caplog.set_level(logging.INFO)
    list(map_items(warned_of, [3, 4], config=config, title="warn"))
    assert sorted(caplog.messages) == ["at 3", "at 4", "odd 3", "odd 4"]


def test_no_items_are_no_outcomes() -> None:
    assert list(map_items(reciprocal, [], config=SPREAD, title="nothing")) == []


def test_a_worker_that_dies_loses_only_the_item_it_died_on() -> None:
    outcomes = list(map_items(killed_at_two_and_seven, list(range(12)), config=SPREAD, title="killed"))
    assert [outcome.item for outcome in outcomes] == list(range(12))
    assert [outcome.item for outcome in outcomes if outcome.error is not None] == [2, 7]
    assert all("died on it 2 times" in str(outcomes[n].error) for n in (2, 7))
    assert [outcome.result for outcome in outcomes if outcome.error is None] == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]


def test_an_item_that_killed_its_worker_is_tried_again(tmp_path: Path) -> None:
    markers = [tmp_path / str(n) for n in range(6)]
    markers[4].touch()
    outcomes = list(map_items(killed_the_first_time, markers, config=SPREAD, title="killed once"))
    assert [outcome.result for outcome in outcomes] == list("012345")


def test_killing_a_worker_from_outside_loses_nothing(tmp_path: Path) -> None:
    waits, goes_on = tmp_path / "waits", tmp_path / "goes on"
    waits.mkdir(), goes_on.mkdir()
    (goes_on / "pid").touch()

    def kill() -> None:
        while not (waits / "pid").exists():
            time.sleep(0.01)
        os.kill(int((waits / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    first, second = map_items(pid_while_waiting, [waits, goes_on], config=SPREAD, title="killed")
    killer.join()
    assert first.error is second.error is None
    assert int((waits / "pid").read_text()) not in (first.result, os.getpid())


def test_workers_serve_the_next_map_too() -> None:
    def pids() -> set[int | None]:
        outcomes = map_items(pid_after_a_while, [0.05] * 8, config=SPREAD, title="pids")
        return {outcome.result for outcome in outcomes}

    assert pids() == pids()
    assert len(pids()) == 2


def test_what_cannot_pass_between_processes_is_an_error_of_its_item() -> None:
    outcomes = list(map_items(unportable, [0, 1, 2, 3], config=SPREAD, title="unportable"))
    assert [outcome.result for outcome in outcomes] == [0, None, None, 3]
    assert "unexpected Unportable" in str(outcomes[1].error)
    assert "pickle" in str(outcomes[2].error)


def test_only_so_many_items_are_under_way_before_the_first_is_done() -> None:
    outcomes = map_items(counted, [1.0] + [0.0] * 500, config=SPREAD, title="ahead")
    num_begun = next(outcomes).result
    outcomes.close()
    assert num_begun is not None
    assert next(map_items(counted, [0.0, 0.0], config=SPREAD, title="after")).result < 2 * AHEAD + 5


def started(cost: float) -> float:
    """When an item that takes so many hundredths of a second was begun."""
    now = time.time()
    time.sleep(cost / 100)
    return now


def test_of_the_last_items_those_that_take_longest_are_begun_first_and_all_come_back_in_order() -> None:
    costs = [1.0, 4.0, 2.0, 30.0, 3.0]
    list(map_items(started, costs, config=SPREAD, title="warm up"))
    outcomes = list(map_items(started, costs, config=SPREAD, title="costs", costs=costs))
    assert [outcome.item for outcome in outcomes] == costs
    begun = sorted(outcomes, key=lambda outcome: outcome.result)
    largest, second, *rest = [outcome.item for outcome in begun]
    assert ({largest, second}, rest) == ({30.0, 4.0}, [3.0, 2.0, 1.0])  # two begin at once


def test_all_but_the_last_items_are_begun_in_order() -> None:
    costs = [float(n % 3) for n in range(6 * LAST)]
    outcomes = list(map_items(started, costs, config=SPREAD, title="costs", costs=costs))
    begun = sorted(range(len(costs)), key=lambda n: outcomes[n].result)
    in_order = len(costs) - SPREAD.num_processes * LAST
    # A worker has one at hand while the other is at its last ones already.
    assert set(begun[: in_order - SPREAD.num_processes]) <= set(range(in_order))


def test_an_address_without_ray_is_refused() -> None:
    from pipelines.ingest import IngestConfig

    with pytest.raises(ConfigError, match=r"engine: address=\.\.\. is for engine\.name=ray only"):
        IngestConfig.load(None, ["source=a", "dataset=b", "engine.address=1.2.3.4:6379"])
    assert IngestConfig.load(None, ["source=a", "dataset=b", "engine=ray"]).engine.name == "ray"


def test_a_script_without_the_guard_of_its_main_module_is_told_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from medvit.engine import EngineConfig, map_items\n"
        "list(map_items(abs, [1, 2, 3], config=EngineConfig(num_processes=2), title='unguarded'))\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert run.returncode == 1
    assert 'call medvit under `if __name__ == "__main__":`' in run.stderr.splitlines()[-1]


def test_leaving_early_does_not_wait_for_what_has_not_begun() -> None:
    started = time.monotonic()
    outcomes = map_items(slow, list(range(200)), config=SPREAD, title="slow")
    assert next(outcomes).result == 0
    outcomes.close()
    assert time.monotonic() - started < 20  # s; all of them take 100 s


def test_an_interruption_is_not_an_outcome() -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(map_items(interrupted, [1, 2], config=HERE, title="stop"))


@pytest.mark.parametrize(("set_before", "found"), [(None, "1"), ("3", "3")])
def test_each_of_several_processes_computes_in_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, set_before: str | None, found: str
) -> None:
    monkeypatch.setattr("medvit.engine.local._idle", [])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_before is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", set_before)
    assert [outcome.result for outcome in map_items(threads, range(2), config=SPREAD, title="ask")] == [found] * 2
    assert os.environ.get("OMP_NUM_THREADS") == set_before


def test_an_item_computes_in_one_thread_in_the_calling_process_too() -> None:
    before = blas_threads(0)
    (outcome,) = map_items(blas_threads, [0], config=HERE, title="ask")
    assert outcome.result
    assert set(outcome.result) == {1}
    assert blas_threads(0) == before


def allowed(_: int) -> float:
    return allowed_gib()


@pytest.mark.parametrize("config", [HERE, SPREAD], ids=["one process", "two processes"])
def test_workers_obey_the_limit_of_whom_they_work_for_also_those_that_run_already(config: EngineConfig) -> None:
    for gib in (0.5, 3.0):
        with allowing(gib):
            assert {outcome.result for outcome in map_items(allowed, range(4), config=config, title="")} == {gib}


def hang(seconds: float) -> float:
    """Sleeps without giving up the interpreter's lock, as a decoder in C may: no thread or signal handler gets in."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return seconds


LIMIT_S = 0.4


def test_an_item_over_the_time_limit_is_stopped_alone_and_order_holds() -> None:
    limited = SPREAD.model_copy(update={"item_timeout_s": LIMIT_S})
    list(map_items(hang, [0.0, 0.0], config=SPREAD, title="warm up"))
    items = [0.001, 60.0, 0.002, 0.003, 0.004, 60.5, 0.005]
    start = time.monotonic()
    outcomes = list(map_items(hang, items, config=limited, title="hung"))
    assert [outcome.item for outcome in outcomes] == items
    assert [outcome.result for outcome in outcomes if outcome.error is None] == [0.001, 0.002, 0.003, 0.004, 0.005]
    late = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert [type(error) for error in late] == [TimeLimitError] * 2
    assert "longer than engine.item_timeout_s=0.4" in str(late[0])
    assert time.monotonic() - start < 20  # s; the limits, plus the start of new workers


def test_many_items_within_the_limit_may_take_longer_than_it_together() -> None:
    limited = SPREAD.model_copy(update={"item_timeout_s": LIMIT_S})
    list(map_items(hang, [0.0, 0.0], config=SPREAD, title="warm up"))
    outcomes = list(map_items(hang, [0.1] * 12, config=limited, title="quick"))
    assert [outcome.result for outcome in outcomes] == [0.1] * 12


def test_in_the_calling_process_a_warning_tells_of_the_item_that_takes_too_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limited = HERE.model_copy(update={"item_timeout_s": 0.05})
    outcomes = list(map_items(pid_after_a_while, [0.0, 0.15, 0.0], config=limited, title="slow"))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("slow: item 2 of 3 takes longer than engine.item_timeout_s=0.05 allows")


def killed_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


def test_drawn_items_are_processed_and_one_that_kills_its_workers_does_not_stop_the_others() -> None:
    waiting = list(range(8))
    drawn = [
        (outcome.item, outcome.result, outcome.error)
        for outcome in map_drawn(killed_at_two, lambda: waiting.pop(0) if waiting else None, config=SPREAD, attempts=3)
    ]
    assert sorted((item, result) for item, result, error in drawn if error is None) == [
        (number, 10 * number) for number in range(8) if number != 2
    ]
    (error,) = [error for item, _, error in drawn if item == 2]
    assert isinstance(error, CrashError)
    assert "died on it 3 times" in str(error)


def test_an_item_is_only_drawn_when_a_worker_can_take_it() -> None:
    drawn: list[int] = []

    def draw() -> int | None:
        if len(drawn) == 10:
            return None
        drawn.append(len(drawn) + 4)
        return drawn[-1]

    for number, outcome in enumerate(map_drawn(reciprocal, draw, config=SPREAD, attempts=1), start=1):
        assert outcome.error is None
        assert len(drawn) <= number + 1
    assert len(drawn) == 10
