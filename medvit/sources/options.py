"""Options of sources: archives and servers.

A secret is never an option value: options name the environment variables that contain it.
"""

from __future__ import annotations

import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from medvit.config import Amount, Config, Count, Positive
from medvit.errors import ConfigError

AET_PATTERN = r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$"
"""Application entity title: up to 16 characters of the default repertoire, no backslash (PS3.5 6.2, VR AE)."""

Aet = Annotated[str, Field(pattern=AET_PATTERN)]
"""Application entity title."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WILDCARDS = re.compile(r"[*?\\]")


def is_url(location: str) -> bool:
    """Return whether a source is a server rather than a path."""
    return _URL.match(location) is not None


def _location(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else str(value)
    if not text:
        raise ValueError("expected a path or a URL, found nothing")
    if not is_url(text):
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("the URL cannot be read; expected SCHEME://HOST:PORT/PATH") from None
    if parts.password is not None or (parts.username is not None and not text.lower().startswith("pacs")):
        raise ValueError(
            "the URL contains a user or a password, which would be recorded; put them into environment variables and "
            "name the variables: retrieve.auth.user_env=..., retrieve.auth.password_env=..."
        )
    if not parts.hostname or port == 0:
        raise ValueError("the URL has no host; expected SCHEME://HOST:PORT/PATH")
    if parts.query or parts.fragment:
        raise ValueError(
            "the URL contains a query; use the options retrieve.query instead, such as retrieve.query.modality=CT"
        )
    return text


Location = Annotated[str, BeforeValidator(_location)]
"""Path, or URL of a server; a URL with a password is refused."""


def _day(value: Any) -> Any:
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", str(value))
    return "-".join(match.groups()) if match else value


Day = Annotated[date, BeforeValidator(_day)]
"""Date as 2024-01-31, or 20240131 as in DICOM."""


class Query(Config):
    """Query to a server; without any option it matches everything."""

    modality: tuple[str, ...] = ()
    """Modalities of the series to fetch, as DICOM codes such as [CT, MR]. Empty: all modalities."""
    since: Day | None = None
    """Earliest study date, such as 2024-01-31. Unset: no limit."""
    until: Day | None = None
    """Latest study date, such as 2024-12-31. Unset: no limit."""
    description: str = ""
    """Pattern that SeriesDescription must match, ignoring case. * stands for any text and ? for one character."""
    study_description: str = ""
    """Pattern that StudyDescription must match, ignoring case. * stands for any text and ? for one character."""
    patients: Path | None = Field(default=None, json_schema_extra={"private": True})
    """Text file with one PatientID per line. Only studies of these patients are fetched. Unset: all patients."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Query:
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since ({self.since}) is after until ({self.until}); swap them")
        return self

    def patient_ids(self) -> tuple[str, ...]:
        """Return the distinct PatientIDs to request; a single empty one requests any patient.

        Raises:
            ConfigError: If the file cannot be read, has no PatientID, or has a line that would match several patients.
        """
        if self.patients is None:
            return ("",)
        try:
            lines = [line.strip() for line in self.patients.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise ConfigError(f"the list retrieve.query.patients cannot be read: {reason}") from None
        for number, line in enumerate(lines, 1):
            if _WILDCARDS.search(line):
                raise ConfigError(
                    f"line {number} of the list retrieve.query.patients contains *, ? or a backslash, which would "
                    "match other patients too; expected one PatientID per line"
                )
        named = tuple(dict.fromkeys(line for line in lines if line))
        if not named:
            raise ConfigError("the list retrieve.query.patients is empty; expected one PatientID per line")
        return named

    def dates(self) -> str:
        """Return the range of dates in DICOM form (PS3.4 C.2.2.2.5); empty for any date."""
        if self.since is None and self.until is None:
            return ""
        return "-".join(f"{day:%Y%m%d}" if day else "" for day in (self.since, self.until))


def _variable(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("expected the name of an environment variable, such as MEDVIT_TOKEN, never the secret itself")
    return value


EnvironmentVariable = Annotated[str, AfterValidator(_variable)]


class AuthConfig(Config):
    """Authentication to a DICOMweb server; secrets are read from the environment when needed."""

    token_env: EnvironmentVariable = ""
    """Name of the environment variable with the bearer token (RFC 6750). Empty: no token is sent."""
    user_env: EnvironmentVariable = ""
    """Name of the environment variable with the user name for basic authentication (RFC 7617). Empty: no basic
    authentication.
    """
    password_env: EnvironmentVariable = ""
    """Name of the environment variable with the password for basic authentication."""

    @model_validator(mode="after")
    def _is_one_way(self) -> AuthConfig:
        if bool(self.user_env) != bool(self.password_env):
            raise ValueError("give both user_env and password_env, or neither")
        if self.token_env and self.user_env:
            raise ValueError("give token_env or user_env with password_env, not both")
        return self

    def secrets(self, group: str) -> tuple[str, ...]:
        """Return the token, or user and password, or an empty tuple if neither is set.

        `group` is the name of the options of this connection, for messages.

        Raises:
            ConfigError: If a named variable is not set.
        """
        named = [name for name in (self.token_env, self.user_env, self.password_env) if name]
        for name in named:
            if not os.environ.get(name):
                raise ConfigError(f"the environment variable {name}, which {group}.auth names, is not set")
        return tuple(os.environ[name] for name in named)


class TlsConfig(Config):
    """Certificates of encrypted connections, as PEM files."""

    ca: Path | None = Field(default=None, json_schema_extra={"private": True})
    """File with the certificate authorities to trust, such as the hospital's own. Unset: the authorities that the
    system trusts.
    """
    cert: Path | None = Field(default=None, json_schema_extra={"private": True})
    """Client certificate, for servers that require one."""
    key: Path | None = Field(default=None, json_schema_extra={"private": True})
    """Private key of the client certificate, without passphrase. Unset: the key is in the file `cert`."""

    @model_validator(mode="after")
    def _has_a_certificate(self) -> TlsConfig:
        if self.key and not self.cert:
            raise ValueError("a key needs its certificate; give cert as well")
        return self

    def check(self, group: str) -> None:
        """Check that the certificate files can be read.

        `group` is the name of the options of this connection, for messages.

        Raises:
            ConfigError: If a file cannot be read.
        """
        for name in ("ca", "cert", "key"):
            path = getattr(self, name)
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigError(f"the file {group}.tls.{name} cannot be read; give the path of a PEM file")


class EntityConfig(Config):
    """Application entity of this machine, for connections to a DICOM server (pacs://AET@HOST:PORT)."""

    aet: Aet = "MEDVIT"
    """Application entity title of this machine. Many servers accept only titles that are registered there."""


class PacsConfig(EntityConfig):
    """Connection to a DICOM server (pacs://AET@HOST:PORT)."""

    aet: Aet = "MEDVIT"
    """Application entity title of this machine. For C-MOVE, it must be registered on the server."""
    method: Literal["move", "get"] = "move"
    """Transfer method. move (C-MOVE): the server connects to this machine. get (C-GET): images come over the existing
    connection; not all servers support this.
    """
    listen: str = ""
    """Local address on which C-MOVE receives images. Empty: the address from which this machine reaches the server."""
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    """Local port on which C-MOVE receives images. The port must be registered on the server."""


class ConnectionConfig(Config):
    """Connection to a server."""

    GROUP: ClassVar[str]
    """Name of the option that contains these options, for messages."""

    retries: Annotated[int, Field(ge=0)] = 4
    """Number of retries without progress after which a request fails."""
    backoff_s: Amount = 1.0
    """Pause in seconds before the first retry. It doubles with each retry, up to a minute."""
    timeout_s: Positive = 60.0
    """Seconds without any data after which a connection counts as lost."""
    insecure: bool = False
    """Allow passwords and tokens on unencrypted connections to other machines."""
    auth: AuthConfig = Field(default_factory=AuthConfig)
    tls: TlsConfig = Field(default_factory=TlsConfig)
    pacs: EntityConfig = Field(default_factory=EntityConfig)


class RetrieveConfig(ConnectionConfig):
    """Access to servers, and unpacking of archives. Not used for folders."""

    GROUP: ClassVar[str] = "retrieve"

    query: Query = Field(default_factory=Query)
    concurrency: Count = 4
    """Number of series fetched in parallel."""
    incomplete: Literal["refuse", "quarantine"] = "refuse"
    """Response if some images of a series cannot be fetched. refuse: stop the stage. quarantine: exclude the series and
    list it.
    """
    spool: Path | None = Field(default=None, json_schema_extra={"private": True})
    """Folder for the fetched files while the stage runs. Unset: inside the unfinished output folder."""
    keep: bool = False
    """Keep the fetched files, which contain names of patients, in the folder `spool`. Requires `spool`."""
    max_gib: Positive = 512.0
    """Maximum total size in GiB to fetch or unpack. The stage stops if there is more."""
    pacs: PacsConfig = Field(default_factory=PacsConfig)

    @model_validator(mode="after")
    def _keeps_where_it_may(self) -> RetrieveConfig:
        if self.keep and self.spool is None:
            raise ValueError("keep=true needs a folder to keep files in; give spool=... outside of the output")
        return self
