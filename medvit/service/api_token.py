"""Token of the REST API: in a file that only its owner can read, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import stat
from pathlib import Path

from medvit.errors import ConfigError
from medvit.files.private import write_private

MIN_CHARACTERS = 32
READABLE_BY_OTHERS = 0o077


class ApiToken:
    """Token in a file; a new file is made on first use.

    Raises:
        ConfigError: If others may read the file, or the token is too short.
    """

    def __init__(self, path: Path) -> None:
        path = path.expanduser()
        try:
            if not path.exists():
                write_private(path, [secrets.token_urlsafe(MIN_CHARACTERS).encode() + b"\n"])
            mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"the token file {path} cannot be read or made; give web.token=FILE") from None
        if mode & READABLE_BY_OTHERS:
            raise ConfigError(f"others may read the token file {path} (its mode is {mode:04o}); run: chmod 600 {path}")
        if len(text) < MIN_CHARACTERS:
            raise ConfigError(f"the token in {path} has {len(text)} characters; expected at least {MIN_CHARACTERS}")
        self._token = text.encode()

    def admits(self, header: str, *, only_bearer: bool) -> bool:
        """Return whether the Authorization header of a request has the token.

        The header is `Bearer TOKEN` or, as browsers send it, `Basic` with the token as password of any user. Requests
        that change something must be `Bearer`, because a browser adds `Basic` to requests of other pages, too.
        """
        scheme, _, value = header.partition(" ")
        given = value.strip().encode()
        if scheme.lower() == "basic" and not only_bearer:
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                given = b""
        elif scheme.lower() != "bearer":
            given = b""
        return hmac.compare_digest(given, self._token)
