"""DICOM receiver: Storage SCP and Verification SCP (PS3.4 A, B), which checks who may speak.

Only what was written to disk is answered with success.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvit.errors import ConfigError, NotAnImageError, OutputError, UnreadableError
from medvit.files.atomic import is_of_disk
from medvit.service.instance import ReceivedInstance, require_image
from medvit.service.options import ReceiveConfig
from medvit.service.store import GIB, InstanceStore
from medvit.sources.associations import make_punctual, server_context
from medvit.sources.pacs import VERIFICATION
from medvit.sources.transfer import quiet

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.events import Event

log = logging.getLogger("medvit")

SUCCESS, PROCESSING_FAILURE, CLASS_NOT_SUPPORTED = 0x0000, 0x0110, 0x0122
OUT_OF_RESOURCES, DATASET_MISMATCH, CANNOT_UNDERSTAND = 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE (PS3.4 B.2.3, PS3.7 C)."""


@dataclass
class StudyReceiver:
    """Receiver of instances, which passes them to the store."""

    options: ReceiveConfig
    store: InstanceStore
    port: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """Number of answers to C-STORE since the start, by status."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Number of rejected and aborted associations since the start, by reason."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Return a context in which the receiver accepts associations.

        Raises:
            ConfigError: If it cannot listen on its port, or a certificate cannot be read.
        """
        from pynetdicom import evt

        entity, options = self._entity(), self.options
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self.answer),
        ]
        with quiet():
            try:
                server = entity.make_server(
                    (options.listen, options.port),
                    evt_handlers=handlers,
                    ssl_context=self._tls() if options.encrypted else None,
                    server_class=_guarded(self),
                )
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on port {options.port} of {options.listen}: {error.strerror}; set receive.port to "
                    "a free port"
                ) from None
            entity._servers.append(server)
            self.port = int(server.server_address[1])
            thread = threading.Thread(target=server.serve_forever, name="receiver", daemon=True)
            thread.start()
            log.info("serve: listens as %s on port %d of %s", options.aet, self.port, options.listen)
            try:
                yield
            finally:
                entity.shutdown()

    def answer(self, event: Event) -> int:
        """Store one instance; return the status to answer with."""
        event.assoc.num_received_bytes = 0
        status = self._status(event)
        self.statuses[status] += 1
        return status

    def _status(self, event: Event) -> int:
        try:
            require_image(str(event.request.AffectedSOPClassUID))
            one = ReceivedInstance.of(event.encoded_dataset())
            if (one.uid, one.sop_class) != (event.request.AffectedSOPInstanceUID, event.request.AffectedSOPClassUID):
                return DATASET_MISMATCH
            return OUT_OF_RESOURCES if self.store.admit(one) == "refused" else SUCCESS
        except NotAnImageError:
            return CLASS_NOT_SUPPORTED
        except UnreadableError:
            return CANNOT_UNDERSTAND
        except OutputError as error:
            log.warning("serve: an instance could not be stored: %s", error)
            return OUT_OF_RESOURCES
        except Exception as error:  # the association continues, whatever a sender sends
            log.warning("serve: an instance could not be stored (%s)", type(error).__name__)
            return OUT_OF_RESOURCES if is_of_disk(error) else PROCESSING_FAILURE

    def _entity(self) -> ApplicationEntity:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

        options = self.options
        entity = AE(ae_title=options.aet)
        entity.require_called_aet = True
        entity.require_calling_aet = list(options.callers)
        entity.maximum_associations = options.max_associations
        entity.maximum_pdu_size = options.max_pdu_bytes
        entity.network_timeout = options.idle_s
        entity.dimse_timeout = entity.acse_timeout = options.dimse_s
        # Unwanted classes are accepted too, so that they can be answered with a status.
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(VERIFICATION)
        return entity

    def _tls(self) -> ssl.SSLContext:
        self.options.tls.check(self.options.GROUP)
        try:
            return server_context(self.options.tls)
        except (ssl.SSLError, OSError):
            raise ConfigError("a file of receive.tls is not a certificate or key in PEM format") from None

    def _opened(self, event: Event) -> None:
        """Limit the time of each message part, and the bytes of each instance."""
        make_punctual(event)
        connection, association = event.assoc.dul.socket, event.assoc
        punctual, limit = connection.recv, self.options.max_instance_gib * GIB
        association.num_received_bytes = 0

        def recv(num_bytes: int) -> bytearray:
            association.num_received_bytes += num_bytes
            if association.num_received_bytes > limit:
                self.rejected["too_large"] += 1
                raise OSError("an instance is larger than receive.max_instance_gib")
            return bytearray(punctual(num_bytes))

        connection.recv = recv

    def _rejected(self, event: Event) -> None:
        self.rejected["title_or_number"] += 1


def _guarded(receiver: StudyReceiver) -> Any:
    """Return a class of servers that closes connections of other addresses, and never waits for a TLS handshake."""
    from pynetdicom.transport import ThreadedAssociationServer

    class GuardedServer(ThreadedAssociationServer):
        """Server of associations."""

        def get_request(self) -> Any:
            """Return a new connection; its handshake is done when its first bytes are read, in its own thread."""
            connection, address = self.socket.accept()
            if self.ssl_context:
                connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address

        def verify_request(self, request: Any, client_address: Any) -> bool:
            """Return whether a machine may connect."""
            is_admitted = receiver.options.admits(str(client_address[0]))
            receiver.rejected["address"] += not is_admitted
            return is_admitted

    return GuardedServer
