"""Receiver for C-MOVE: a server that accepts only requested instances (C-STORE, PS3.4 B)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from medvit.errors import ConfigError
from medvit.sources.associations import Peer, make_punctual, server_context
from medvit.sources.intake import Intake, RemoteSeries
from medvit.sources.options import RetrieveConfig

if TYPE_CHECKING:
    from pynetdicom.events import Event

NOT_ASKED_FOR = 0x0124
"""Status of unrequested instances: refused, not authorized (PS3.7 C.4.2)."""
CANNOT_UNDERSTAND = 0xC000


class Receiver:
    """Receiver that passes arriving instances to the intake of their series."""

    def __init__(self) -> None:
        self._intakes: dict[str, tuple[Intake, threading.Lock]] = {}
        self.port = 0

    @classmethod
    @contextmanager
    def listening(cls, peer: Peer, options: RetrieveConfig) -> Iterator[Receiver]:
        """Return a context with a receiver that listens until the end of the context.

        Raises:
            ConfigError: If the receiver cannot listen on its port.
        """
        from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

        receiver, entity = cls(), peer.entity()
        # A server may keep its connection open between two series.
        entity.network_timeout = None
        entity.require_called_aet = True
        entity.maximum_associations = max(10, 2 * options.concurrency)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        address = options.pacs.listen or peer.check()
        try:
            server = entity.start_server(
                (address, options.pacs.port),
                block=False,
                ssl_context=server_context(options.tls) if peer.is_encrypted else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, make_punctual), (evt.EVT_C_STORE, receiver.store)],
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on port {options.pacs.port} of {address}: {error.strerror}; set retrieve.pacs.port to "
                "a free port that the server knows"
            ) from None
        receiver.port = int(server.server_address[1])
        try:
            yield receiver
        finally:
            server.shutdown()

    @contextmanager
    def expecting(self, series: RemoteSeries, intake: Intake) -> Iterator[None]:
        """Return a context in which the receiver accepts the instances of a series and passes them to its intake."""
        self._intakes[series.uid] = intake, threading.Lock()
        try:
            yield
        finally:
            # Files being written are completed before another attempt begins.
            with self._intakes.pop(series.uid)[1]:
                intake.drop()

    def store(self, event: Event) -> int:
        """Store one instance; return the status to answer with."""
        import pydicom

        try:
            content = event.encoded_dataset()
            header = pydicom.dcmread(BytesIO(content), specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
            series = str(header.SeriesInstanceUID)
        except Exception:  # any content: it is refused, and found missing later
            return CANNOT_UNDERSTAND
        expected = self._intakes.get(series)
        if expected is None:
            return NOT_ASKED_FOR
        intake, lock = expected
        with lock:
            return intake.store(content)
