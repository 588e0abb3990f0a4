"""Outcome of one item of many: a result, or the error that stopped it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from medvit.errors import CrashError, MedvitError, TimeLimitError, unexpected

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

ATTEMPTS = 2
"""Number of attempts for an item whose workers die."""


@dataclass(frozen=True)
class Outcome(Generic[ItemT, ResultT]):
    """Outcome of one item: a result, or the error that stopped it."""

    item: ItemT
    result: ResultT | None = None
    error: Exception | None = None


def tried(function: Callable[[ItemT], ResultT], item: ItemT) -> Outcome[ItemT, ResultT]:
    """Run a function on an item in this process; return the outcome."""
    try:
        return Outcome(item, result=function(item))
    except Exception as error:  # isolation is this function's purpose: the caller reports each error by kind
        return Outcome(item, error=error)


def attempt(function: Callable[[ItemT], ResultT], item: ItemT) -> tuple[ResultT | None, Exception | None]:
    """Run a function on an item; return its result and error in a form that can be sent to another process."""
    outcome = tried(function, item)
    if outcome.error is not None:
        return None, portable(outcome.error)
    return outcome.result, None


def died(item: ItemT, attempts: int = ATTEMPTS) -> Outcome[ItemT, Any]:
    """Return the outcome of an item whose workers died in all attempts."""
    message = (
        f"the worker process died on it {attempts} times, as for lack of memory or in a decoder; lower "
        "engine.num_processes"
    )
    return Outcome(item, error=CrashError(message))


def late(item: ItemT, limit_s: float) -> Outcome[ItemT, Any]:
    """Return the outcome of an item whose worker was stopped at the time limit; it is not tried again."""
    message = (
        f"it took longer than engine.item_timeout_s={limit_s:g} allows and was stopped, as where a decoder hangs; "
        "raise the limit if its size explains the time"
    )
    return Outcome(item, error=TimeLimitError(message))


def portable(error: Exception) -> Exception:
    """Return the error if another process can unpickle it, else a medvit error with the name of its type."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # any error in pickling a library's error has the same outcome
        return MedvitError(unexpected(error))
    return error
