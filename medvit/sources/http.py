"""HTTP sessions with the site's certificates and secrets, and messages for their failures."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from medvit.errors import ConfigError, MedvitError, SourceError
from medvit.sources.failures import CutShortError, NotThereError, UnreachableError
from medvit.sources.options import AuthConfig, ConnectionConfig
from medvit.sources.punctual import PunctualAdapter, hold

log = logging.getLogger("medvit")

PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that a retry may change (RFC 9110 15.5, 15.6)."""
MAX_REDIRECTS = 5
WRONG_ROOT = "is the URL of the source the root of its DICOMweb service?"


class _Bearer(AuthBase):
    """Authentication by a bearer token in the header (RFC 6750 2.1)."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """Session that ignores certificate settings in environment variables and limits the size of answers."""

    timeout_s: float

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        is_streamed = bool(options.pop("stream", False))
        response = super().send(request, stream=True, **options)
        if not is_streamed:
            hold(response, self.timeout_s)
        return response

    def hold_redirect(self, response: requests.Response, **_: Any) -> None:
        """Read the body of a redirect within the limits for all answers; requests would read it without limits."""
        if response.is_redirect:
            hold(response, self.timeout_s)

    def merge_environment_settings(self, url: Any, *settings: Any) -> Any:
        merged: dict[str, Any] = dict(super().merge_environment_settings(url, *settings))
        return {**merged, "verify": merged["verify"] if self.verify is True else self.verify}


@contextmanager
def session(url: str, options: ConnectionConfig, num_connections: int = 1) -> Iterator[requests.Session]:
    """Return a context with a session for a server, which keeps a number of connections open.

    Raises:
        ConfigError: If a certificate or a secret is missing, or a secret would be sent unencrypted.
    """
    options.tls.check(options.GROUP)
    with _Session() as http:
        http.max_redirects, http.timeout_s = MAX_REDIRECTS, options.timeout_s
        for scheme in ("http://", "https://"):
            http.mount(scheme, PunctualAdapter(pool_maxsize=num_connections, max_retries=0))
        http.hooks["response"].append(http.hold_redirect)
        tls = options.tls
        if tls.ca is not None:
            http.verify = str(tls.ca)
        if tls.cert is not None:
            http.cert = (str(tls.cert), str(tls.key)) if tls.key else str(tls.cert)
        http.auth = _auth(options.auth, options.GROUP)
        _check_clear(url, options, has_secret=http.auth is not None)
        yield http


def _auth(auth: AuthConfig, group: str) -> AuthBase | None:
    secrets = auth.secrets(group)
    if not secrets:
        return None
    return _Bearer(secrets[0]) if len(secrets) == 1 else HTTPBasicAuth(secrets[0].encode(), secrets[1].encode())


def _check_clear(url: str, options: ConnectionConfig, *, has_secret: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return
    if has_secret and not options.insecure:
        raise ConfigError(
            "the password or token would be sent unencrypted; give an https:// URL, or set "
            f"{options.GROUP}.insecure=true"
        )
    log.warning("source: images are transferred unencrypted; use an https:// URL to encrypt them")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def explained(url: str, group: str) -> Iterator[None]:
    """Return a context that converts the errors of a request to one sentence, which names only the server of the URL.

    `group` is the name of the options of this connection, for messages.

    Raises:
        UnreachableError: If the server does not answer.
        CutShortError: If the answer is truncated, or if a retry may succeed.
        SourceError: If the server refuses, or is not the expected server.
    """
    try:
        yield
    except MedvitError:
        raise
    except (requests.exceptions.RequestException, ValueError) as error:
        parts = urlsplit(url)
        raise _meaning(error, f"the server {parts.scheme}://{parts.netloc.rpartition('@')[2]}", group) from None


def _meaning(error: Exception, server: str, group: str) -> SourceError:
    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
        return _of_status(error.response.status_code, server, group)
    if isinstance(error, requests.exceptions.SSLError):
        return _of_tls(str(error), server, group)
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
        return _of_connection(error, server, group)
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return CutShortError(f"{server} closed the connection")
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return SourceError(f"{server} does not answer in DICOM JSON; {WRONG_ROOT}")
    return SourceError(f"{server} cannot be asked ({type(error).__name__}); check its URL")


def _of_status(status: int, server: str, group: str) -> SourceError:
    known: Mapping[int, str] = {
        401: f"refuses our credentials (HTTP 401); check {group}.auth and the environment variables that it names",
        403: "does not allow it (HTTP 403); ask its administrator for the right to do so",
        407: "is behind a proxy that requires a password (HTTP 407)",
    }
    if status in known:
        return SourceError(f"{server} {known[status]}")
    if status in PASSING:
        return CutShortError(f"{server} is out of order (HTTP {status})")
    if status in (404, 410):
        return NotThereError(f"{server} has nothing at this address (HTTP {status}); {WRONG_ROOT}")
    return SourceError(f"{server} refuses (HTTP {status}); check its URL")


def _of_tls(text: str, server: str, group: str) -> SourceError:
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return SourceError(
            f"{server} and this machine have no encryption in common; check that it speaks TLS, and {group}.tls"
        )
    if re.search("self.signed|unable to get", text):
        return SourceError(
            f"the certificate of {server} is from an untrusted authority; give the authority's certificate as "
            f"{group}.tls.ca"
        )
    return SourceError(f"the certificate of {server} is not valid for it; check its name and its date")


def _of_connection(error: Exception, server: str, group: str) -> SourceError:
    text = str(error)
    if "NameResolutionError" in text or "getaddrinfo" in text:
        return SourceError(f"the name of {server} cannot be resolved; check its URL")
    if isinstance(error, requests.exceptions.ReadTimeout) or "Read timed out" in text:
        return CutShortError(f"{server} stopped sending; raise {group}.timeout_s if it is slow")
    if isinstance(error, requests.exceptions.ProxyError):
        return UnreachableError(f"the proxy to {server} does not answer; check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, requests.exceptions.Timeout) or "Max retries" in text:
        return UnreachableError(f"{server} cannot be reached; check that it runs, its port, and the firewall")
    return CutShortError(f"{server} closed the connection")
