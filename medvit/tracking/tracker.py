"""Trackers: they record the progress and results of a stage, and never wait for a store while the stage works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.config import Tree
from medvit.tracking.journal import CHILD, Journal
from medvit.tracking.options import TrackingConfig, absolute
from medvit.tracking.sender import MAX_METRICS, MAX_OTHERS, Sender, StopSendingError, first_line
from medvit.tracking.system import SystemMonitor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("medvit")

COLLECT_S = 1.0
"""Seconds for which records are collected before they are sent."""
RETRY_S, MAX_RETRY_S = 2.0, 60.0
"""Seconds between a failure and the next attempt: the value after the first failure, and the maximum."""


class Tracker:
    """Base of trackers: defines their methods, and records nothing."""

    run_id: str | None = None
    """ID of the run in MLflow; None if unknown."""
    wants_pictures: bool = False
    """Whether pictures are recorded, so that drawing them is useful."""

    def params(self, tree: Tree) -> None:
        """Record options, with dots between nested keys."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record metrics of a step."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def file(self, path: Path, folder: str = "") -> None:
        """Record a file, or all files of a folder, as artifact."""

    def text(self, text: str, name: str) -> None:
        """Record a text as artifact."""

    def figure(self, figure: Figure, name: str) -> None:
        """Record a picture as artifact."""

    def dataset(
        self,
        name: str,
        digest: str,
        context: str,
        *,
        folder: str = "",
        columns: Sequence[Tree] = (),
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a dataset: its name, digest, folder, columns and numbers of images; `context` is the stage."""

    def child(self, key: str, name: str) -> Tracker:
        """Return a tracker for a part of this run, such as a fold, which MLflow shows as a run below this one.

        `key` identifies the part within this run. A part that is recorded again, as after an interruption, is the same
        run. A part without a final status gets the status of this run.
        """
        return Tracker()

    def moving_to(self, folder: Path) -> AbstractContextManager[None]:
        """Return a context in which the run's folder is renamed."""
        return nullcontext()

    def finish(self, status: str) -> None:
        """End the run as `FINISHED`, `FAILED` or `KILLED`."""


class _JournalTracker(Tracker):
    """Tracker that appends to a journal, for a run or for one of its child runs."""

    wants_pictures = True

    def __init__(self, journal: Journal, news: threading.Event, child: str = "") -> None:
        self._journal, self._news = journal, news
        self._of: dict[str, str] = {CHILD: child} if child else {}

    def params(self, tree: Tree) -> None:
        for part in _parts({key: str(value) for key, value in flatten(tree)}, MAX_OTHERS):
            self._append("params", values=part)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        for part in _parts({name: float(value) for name, value in values.items()}, MAX_METRICS):
            self._append("metrics", values=part, step=int(step), time=now)

    def tags(self, tags: Mapping[str, str]) -> None:
        for part in _parts(dict(tags), MAX_OTHERS):
            self._append("tags", values=part)

    def file(self, path: Path, folder: str = "") -> None:
        with self._warned_of_disk("files"):
            self._journal.add_file(path, folder, **self._of)
            self._news.set()

    def text(self, text: str, name: str) -> None:
        with self._warned_of_disk("texts"):
            path = self._journal.keep(name)
            path.write_text(text, encoding="utf-8")
            self._add_kept(path, name)

    def figure(self, figure: Figure, name: str) -> None:
        with self._warned_of_disk("pictures"):
            path = self._journal.keep(name)
            figure.savefig(path)
            self._add_kept(path, name)

    def dataset(
        self,
        name: str,
        digest: str,
        context: str,
        *,
        folder: str = "",
        columns: Sequence[Tree] = (),
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        content = {"name": name, "digest": digest, "context": context, "folder": folder}
        self._append("dataset", **content, columns=list(columns), profile=dict(profile or {}))

    def _append(self, kind: str, **content: Any) -> None:
        with self._warned_of_disk(kind):
            self._journal.append(kind, **self._of, **content)
            self._news.set()

    def _add_kept(self, path: Path, name: str) -> None:
        folder = Path(name).parent.as_posix()
        self._journal.add_file(path, "" if folder == "." else folder, **self._of)
        self._news.set()

    @contextmanager
    def _warned_of_disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # as on a full disk, which the work itself will report
            log.warning(
                "MLflow does not receive %s: %s cannot be written (%s)", what, self._journal.place, error.strerror
            )


class MlflowTracker(_JournalTracker):
    """Tracker that writes a journal in the run's folder; a thread sends the journal to an MLflow store.

    The tracker waits for the store at the start, to get the ID of the run, and at the end, for at most `patience_s`
    each time. A store that fails causes only one warning: the thread retries, and if records remain at the end, the
    command to send them is logged.
    """

    def __init__(self, config: TrackingConfig, stage: str, folder: Path) -> None:
        self._config = config
        super().__init__(Journal(folder), threading.Event())
        self._journal.begin(stage, absolute(config.uri), config.experiment)
        self._sender = Sender(self._journal, config.uri, config.experiment, lambda: not self._is_given_up)
        self._is_given_up = self._is_complete = self._is_warned = False
        self._calling_since: float | None = None
        self._hurry, self._answered, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()
        if not self._answered.wait(config.patience_s):
            self._warn(f"no answer within {config.patience_s:g} s")
        self._monitor = SystemMonitor(self.metrics) if config.system_metrics else None

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """ID of the run in MLflow; None before the store has answered."""
        return self._sender.run_id

    def moving_to(self, folder: Path) -> AbstractContextManager[None]:
        return self._journal.moving_to(folder)

    def child(self, key: str, name: str) -> Tracker:
        made = _ChildTracker(self._journal, self._news, key)
        made.begin(name)
        return made

    def finish(self, status: str) -> None:
        if self._monitor is not None:
            self._monitor.end()
        self._append("status", status=status)
        self._hurry.set()
        self._news.set()
        self._wait_for_end()
        with self._journal.lock:
            self._is_given_up = True  # the thread may still wait for an answer
        is_complete = self._ended.is_set() and self._is_complete
        if not is_complete:
            log.warning(
                "MLflow at %s has not received all records of this run; the remaining ones are kept, send them with: "
                "medvit sync runs=%s",
                self._config.uri,
                self._journal.folder,
            )
        if is_complete and status == "FINISHED":
            self._journal.remove()
        else:
            self._journal.close()

    def _wait_for_end(self) -> None:
        """Wait until all records are sent or an attempt has failed.

        If a request is not answered, the waiting time is limited.
        """
        patience_s = self._config.patience_s
        end = time.monotonic() + patience_s
        while not self._ended.wait(0.02):
            now, since = time.monotonic(), self._calling_since
            if now > end or (since is not None and now > since + patience_s):
                return

    def _work(self) -> None:
        delay_s = RETRY_S
        while not self._is_given_up:
            self._news.clear()
            is_last = self._hurry.is_set()
            self._calling_since = time.monotonic()
            try:
                self._sender.connect()
                self._answered.set()
                self._is_complete = self._sender.send()
                delay_s, has_failed = RETRY_S, False
            except StopSendingError:
                return
            except Exception as error:  # MLflow's stores raise their drivers' own errors: SQL, HTTP, OS
                has_failed, self._is_complete = True, False
                self._warn(first_line(error))
            self._answered.set()
            self._calling_since = None
            if is_last and (has_failed or self._is_complete):
                self._ended.set()
                return
            self._rest(delay_s, has_failed)
            delay_s = min(2 * delay_s, MAX_RETRY_S) if has_failed else RETRY_S

    def _rest(self, delay_s: float, has_failed: bool) -> None:
        """Wait until there are records to send, and then until more of them have been collected.

        If the last attempt has failed, wait for `delay_s` instead.
        """
        if has_failed:
            self._hurry.wait(delay_s)
        else:
            self._news.wait()
            self._hurry.wait(COLLECT_S)

    def _warn(self, reason: str) -> None:
        if not self._is_warned and not self._is_given_up:
            self._is_warned = True
            log.warning(
                "MLflow at %s cannot be used (%s); the work continues, and its records are kept in %s",
                self._config.uri,
                reason,
                self._journal.place,
            )


class _ChildTracker(_JournalTracker):
    """Tracker of a child run; its records are in the journal of the run, which sends them."""

    def begin(self, name: str) -> None:
        """Begin the child run, or continue it."""
        self._append("child", name=name)

    def finish(self, status: str) -> None:
        self._append("status", status=status)


def start(config: TrackingConfig, stage: str, folder: Path) -> Tracker:
    """Return a tracker for one run of a stage; an unfinished run continues the journal in its folder."""
    return MlflowTracker(config, stage, folder) if config.enabled else Tracker()


def flatten(tree: Tree, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values of a tree with dotted names."""
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs


def _parts(values: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    pairs = iter(values.items())
    while part := dict(islice(pairs, size)):
        yield part
