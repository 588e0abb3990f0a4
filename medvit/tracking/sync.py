"""Later sending of records that a store could not receive during a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import TrackingError
from medvit.files.lock import LOCK, LockedError, take
from medvit.tracking.journal import FOLDER, LINES, Journal
from medvit.tracking.sender import Sender, first_line


@dataclass(frozen=True)
class Sent:
    """Result of sending a journal: the store, and the ID of the run in it."""

    uri: str
    run_id: str


def journals(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs with a journal: a folder itself and those below it, in order."""
    yield from sorted(path.parent.parent for path in folder.rglob(f"{FOLDER}/{LINES}"))


def send(folder: Path, uri: str | None = None) -> Sent:
    """Send the journal of the run in a folder to its store, or to the store `uri`; remove it if the run has finished.

    Raises:
        TrackingError: If the run is still in progress, or the store does not receive the whole journal; the rest is
            kept.
    """
    with _alone(folder):
        journal = Journal(folder)
        own_uri, experiment = journal.target()
        sender = Sender(journal, uri or own_uri, experiment)
        try:
            sender.connect()
            sender.send()
            status = journal.status()
            if status is None:
                sender.end_killed()
        except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
            raise TrackingError(f"MLflow at {sender.uri} cannot be used: {first_line(error)}") from error
        finally:
            journal.close()
        if status == "FINISHED":
            journal.remove()
    assert sender.run_id is not None, "it is connected"
    return Sent(sender.uri, sender.run_id)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Return a context with the lock of a run's folder; the run itself has this lock while it is in progress."""
    try:
        lock = take(folder / LOCK, "medvit sync")
    except LockedError as error:
        raise TrackingError(f"{error} is working in this folder; that run sends its records itself") from None
    except OSError as error:
        raise TrackingError(f"it cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release(folder / LOCK)
