"""Running service: it is put together in a folder that it locks, with its threads and its web server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import ConfigError, OutputError
from medvit.files.lock import LOCK, FileLock, LockedError, take
from medvit.files.mounts import mount_of
from medvit.files.private import OWNER_FILE, OWNER_FOLDER
from medvit.logs import LOG, log_to_file
from medvit.service.api_token import ApiToken
from medvit.service.audit_trail import AuditTrail
from medvit.service.database import Database
from medvit.service.models import Pins
from medvit.service.overview import Overview
from medvit.service.poller import PollLoop
from medvit.service.predicting import PredictionLoop
from medvit.service.queue import JobQueue
from medvit.service.receiver import StudyReceiver
from medvit.service.sender import DeliveryLoop
from medvit.service.service import ServeConfig, Service
from medvit.service.store import RESULTS, InstanceStore
from medvit.service.studies import Studies
from medvit.service.web import WebServer, make_app

log = logging.getLogger("medvit")

TOKEN = "token"
"""Name of the file with the token, in the folder of the service."""
STOP_S = 5.0
"""Seconds to wait for the end of a thread."""


@contextmanager
def running(options: ServeConfig) -> Iterator[Service]:
    """Return a context in which a service receives, predicts and sends.

    Raises:
        ConfigError: If another service uses the folder, or a port, model or certificate cannot be used.
        OutputError: If the folder cannot be used.
    """
    folder = _opened(options.folder.expanduser().absolute())
    with ExitStack() as stack:
        lock = _locked(folder)
        (folder / LOCK).chmod(OWNER_FILE)
        stack.callback(lambda: lock.release(folder / LOCK))
        stack.enter_context(log_to_file(folder / LOG, mode=OWNER_FILE))
        service = _made(options, folder)
        stack.callback(service.store.database.close)
        token = ApiToken(options.web.token or folder / TOKEN)
        log.info("serve: %d files and %d predictions taken up", service.store.take_up(), service.queue.recover())
        service.record_models("started")
        stack.callback(_note_end, service)
        web = WebServer(make_app(service, token), options.web)
        stack.enter_context(web.listening())
        service.web_port = web.port
        stack.enter_context(_threads(service))
        if options.receive.enabled:
            stack.enter_context(service.receiver.listening())
        stack.callback(service.stop.set)
        yield service


def _note_end(service: Service) -> None:
    """Return what runs to the queue, and record that the service stops, unless the disk is full."""
    try:
        service.loop.give_back()
        service.audit.add("stopped")
    except (OSError, OutputError):
        log.warning("serve: the end of the service could not be recorded; check the free space of the disk")


@contextmanager
def _threads(service: Service) -> Iterator[None]:
    loops: list[Callable[[], None]] = [service.work, service.loop.run]
    loops += [service.sender.run] if service.sender is not None else []
    loops += [service.poller.run] if service.poller is not None else []
    threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        service.stop.set()
        for thread in threads:
            thread.join(STOP_S)


def _made(options: ServeConfig, folder: Path) -> Service:
    database, audit, stop = Database(folder), AuditTrail(folder), threading.Event()
    if not audit.is_intact:
        log.warning("serve: the audit trail was changed: a line is missing or differs")
    names = SiteNames(options.key)
    store = InstanceStore(folder, database, names, options.key, audit, options.receive, options.min_free_gib)
    studies = Studies(store, database, audit, options.complete)
    store.arrived = studies.arrived
    pins = Pins(database, options, options.registry)
    queue = JobQueue(database, audit, is_sending=options.send is not None)
    loop = PredictionLoop(folder, store, queue, options, lambda: pins.now, stop)
    sender = poller = None
    if options.send is not None:
        sender = DeliveryLoop(folder / RESULTS, database, audit, options.send, options.archive, stop)
    if options.poll.source is not None:
        poller = PollLoop(folder, store, studies, options.poll, stop)
    receiver = StudyReceiver(options.receive, store)
    return Service(
        options, store, studies, queue, pins, loop, receiver, Overview(database), audit, stop, sender, poller
    )


def _opened(folder: Path) -> Path:
    try:
        folder.mkdir(mode=OWNER_FOLDER, parents=True, exist_ok=True)
        folder.chmod(OWNER_FOLDER)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be used: {error.strerror}; give another folder=...") from None
    mount = mount_of(folder)
    if mount is not None and mount.is_network:
        raise ConfigError(
            f"{folder} is on a network file system ({mount.kind}), on which a database is not reliable; give "
            "folder=... on a local disk"
        )
    return folder


def _locked(folder: Path) -> FileLock:
    try:
        return take(folder / LOCK, "serve")
    except LockedError as error:
        raise ConfigError(f"{error} uses the folder {folder}; stop it, or give another folder=...") from None
