"""Work over items comes back in order, and one bad item stops no other."""

from __future__ import annotations

import os
import signal
import time

import pytest

from medvit.engine import EngineConfig, map_items
from medvit.errors import DataError, MedvitError

HERE, SPREAD = EngineConfig(num_processes=1), EngineConfig(num_processes=2)


def reciprocal(number: int) -> float:
    if number == 3:
        raise DataError("three is not taken")
    return 1 / number


def killed_at_two_and_seven(number: int) -> int:
    if number in (2, 7):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


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


def test_no_items_are_no_outcomes() -> None:
    assert list(map_items(reciprocal, [], config=SPREAD, title="nothing")) == []


def test_a_worker_that_dies_loses_only_the_item_it_died_on() -> None:
    outcomes = list(map_items(killed_at_two_and_seven, list(range(12)), config=SPREAD, title="killed"))
    assert [outcome.item for outcome in outcomes] == list(range(12))
    assert [outcome.item for outcome in outcomes if outcome.error is not None] == [2, 7]
    assert all(isinstance(outcomes[n].error, MedvitError) for n in (2, 7))
    assert [outcome.result for outcome in outcomes if outcome.error is None] == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]


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
