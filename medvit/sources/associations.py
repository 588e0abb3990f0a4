"""Associations with a DICOM server, and messages for their failures (PS3.8 9.3.4, PS3.7 C)."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medvit.errors import SourceError
from medvit.sources.failures import CutShortError, NotOfferedError, UnreachableError
from medvit.sources.options import ConnectionConfig, TlsConfig
from medvit.sources.punctual import CHUNK_BYTES

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.presentation import PresentationContext

PENDING = (0xFF00, 0xFF01)
WARNINGS = (0x0001, 0x0107, 0x0116, 0xB000)
"""Statuses of requests that were completed, perhaps partially (PS3.7 C)."""
OUT_OF_RESOURCES = (0xA700, 0xA701, 0xA702)


@dataclass(frozen=True)
class Peer:
    """DICOM server: its application entity title and address."""

    aet: str
    host: str
    port: int
    options: ConnectionConfig = field(repr=False)
    is_encrypted: bool = False

    def __str__(self) -> str:
        return f"the server {self.aet} at {self.host}:{self.port}"

    def check(self) -> str:
        """Check that the server accepts connections; return the address of this machine as the server sees it.

        Raises:
            UnreachableError: If the server accepts no connection.
            SourceError: If the name of the server cannot be resolved, or its certificate is not trusted.
        """
        self.options.tls.check(self.options.GROUP)
        try:
            with socket.create_connection((self.host, self.port), self.options.timeout_s) as connection:
                if self.is_encrypted:
                    with client_context(self.options.tls).wrap_socket(connection, server_hostname=self.host) as secured:
                        return str(secured.getsockname()[0])
                return str(connection.getsockname()[0])
        except socket.gaierror:
            raise SourceError(f"the name of {self} cannot be resolved; check its URL") from None
        except ssl.SSLCertVerificationError as error:
            raise SourceError(
                f"the certificate of {self} is not trusted ({error.verify_message}); see {self.options.GROUP}.tls.ca"
            ) from None
        except ssl.SSLError:
            raise SourceError(
                f"{self} and this machine support no common encryption; check the port of the server, and "
                f"{self.options.GROUP}.tls"
            ) from None
        except OSError as error:
            reason = error.strerror or "no answer"
            raise UnreachableError(
                f"{self} cannot be reached ({reason}); check that it runs, its port, and the firewall"
            ) from None

    def entity(self) -> ApplicationEntity:
        """Return this machine's application entity, for an association."""
        from pynetdicom import AE

        entity = AE(ae_title=self.options.pacs.aet)
        timeout_s = self.options.timeout_s
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
        return entity


MAX_PDU_BYTES = 2**20
"""Largest message part (PS3.8 9.3.1); we request parts of 16 KiB, but some servers send longer ones."""


def make_punctual(event: Event) -> None:
    """Limit the length of each message part that a new connection reads, and the time for reading it.

    This function is a handler of the pynetdicom event EVT_CONN_OPEN. The timeouts of pynetdicom alone are not
    sufficient: they restart with every byte, and a thread that waits for the next byte cannot be stopped.
    """
    connection = event.assoc.dul.socket
    timeout_s = event.assoc.ae.dimse_timeout
    connection.recv = lambda num_bytes: _receive(connection.socket, num_bytes, timeout_s)


def _receive(sock: socket.socket, num_bytes: int, timeout_s: float) -> bytearray:
    """Return bytes read from a connection; fewer than `num_bytes` only if the connection is closed.

    Raises:
        OSError: If there are too many bytes, or they arrive too slowly; this ends the association.
    """
    if num_bytes > MAX_PDU_BYTES:
        raise OSError(f"a message part of {num_bytes} bytes is longer than {MAX_PDU_BYTES}")
    patience_s = sock.gettimeout()
    content, moved, deadline = bytearray(), 0, time.monotonic() + timeout_s
    while len(content) < num_bytes:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"fewer than {CHUNK_BYTES} bytes were received in {timeout_s:g} s")
        sock.settimeout(left_s)
        part = sock.recv(min(num_bytes - len(content), CHUNK_BYTES))
        if not part:
            break
        content += part
        if len(content) - moved >= CHUNK_BYTES:
            moved, deadline = len(content), time.monotonic() + timeout_s
    sock.settimeout(patience_s)
    return content


@contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[PresentationContext],
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    *,
    advice: str = "",
) -> Iterator[Association]:
    """Return a context with an association to a server, which is released at the end.

    The server must accept the service of the first of the presentation contexts. `advice` is what the message
    recommends if it does not.

    Raises:
        UnreachableError: If the server does not answer.
        NotOfferedError: If the server does not accept the first presentation context.
        SourceError: If the server refuses this machine or its request.
    """
    from pynetdicom import evt

    tls = (client_context(peer.options.tls), peer.host) if peer.is_encrypted else None
    association = peer.entity().associate(
        peer.host,
        peer.port,
        contexts=list(contexts),
        ae_title=peer.aet,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, make_punctual), *handlers],
        tls_args=tls,
    )
    if association.is_rejected:
        raise SourceError(
            f"{peer} does not accept the title {peer.options.pacs.aet} of this machine, or has a different title "
            "itself; check both with its administrator"
        )
    if not association.is_established:
        peer.check()
        raise UnreachableError(
            f"{peer} accepts the connection but does not answer requests; check that it is a DICOM server"
        )
    try:
        if not any(context.abstract_syntax == contexts[0].abstract_syntax for context in association.accepted_contexts):
            raise NotOfferedError(f"{peer} does not offer the requested service{advice}")
        yield association
    finally:
        if association.is_established:
            association.release()


def checked(status: Any, peer: Peer, what: str, *, allowed: Sequence[int] = ()) -> int:
    """Return the status of a server's answer; raise an error if it is a failure.

    A failure listed in `allowed` is returned instead, for the caller to handle. `what` names the request in messages.

    Raises:
        CutShortError: If the connection is lost, or the server is temporarily out of resources.
        SourceError: If the server refuses.
    """
    if not status or "Status" not in status:
        raise CutShortError(f"{peer} closed the connection")
    code = int(status.Status)
    if code in (0x0000, *PENDING, *WARNINGS, *allowed):
        return code
    if code in OUT_OF_RESOURCES or 0xC000 <= code <= 0xCFFF or code == 0xFE00:
        raise CutShortError(f"{peer} could not do {what} at the moment (status 0x{code:04X})")
    raise SourceError(f"{peer} refuses {what} (status 0x{code:04X}); ask its administrator for permission")


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the encryption context of outgoing connections."""
    context = ssl.create_default_context(cafile=tls.ca)
    _add_our_certificate(context, tls)
    return context


def server_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the encryption context of incoming connections; the other side must present a trusted certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    _add_our_certificate(context, tls)
    return context


def _add_our_certificate(context: ssl.SSLContext, tls: TlsConfig) -> None:
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
