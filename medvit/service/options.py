"""Options of the service: its DICOM receiver, the completeness of studies, polling, web pages and retention."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from medvit.config import Config, Count, Positive
from medvit.files.limits import MAX_VOLUME_GIB
from medvit.hardware import Device
from medvit.inference.options import PredictionOptions, SeriesRule
from medvit.inference.series_selection import SeriesChoice
from medvit.readers.options import GridConfig
from medvit.sources.options import Aet, TlsConfig

Port = Annotated[int, Field(ge=0, le=65535)]
"""Port of TCP; 0 takes a free one."""


def is_loopback(address: str) -> bool:
    """Return whether only programs of this machine can reach an address."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class ReceiveConfig(Config):
    """DICOM receiver (C-STORE) of the service."""

    GROUP: ClassVar[str] = "receive"

    enabled: bool = True
    """Receive studies by C-STORE. false: studies come only from `poll`."""
    aet: Aet = "MEDVIT"
    """Application entity title of the service. Senders must call it by this title."""
    listen: str = "127.0.0.1"
    """Address on which to listen. The default can only be reached by programs of this machine. Other addresses require
    `callers` and `hosts`.
    """
    port: Port = 11112
    """Port on which to listen. 0: a free port, which the log names."""
    callers: tuple[Aet, ...] = ()
    """Application entity titles that may send. Empty: any, which is only possible on a loopback address."""
    hosts: tuple[str, ...] = ()
    """Addresses or networks that may send, such as [10.0.0.5, 10.1.0.0/16]. Empty: any, which is only possible on a
    loopback address.
    """
    encrypted: bool = False
    """Accept only TLS connections whose sender presents a certificate that `tls.ca` has signed (mutual TLS)."""
    tls: TlsConfig = Field(default_factory=TlsConfig)
    max_associations: Count = 10
    """Maximum number of associations at the same time. Further ones are rejected for the moment."""
    max_pdu_bytes: Annotated[int, Field(ge=4096, le=2**20)] = 65536
    """Maximum length of a PDU that senders are asked to keep to."""
    idle_s: Positive = 60.0
    """Seconds without any message after which an association is ended."""
    dimse_s: Positive = 30.0
    """Seconds within which the next part of a message must arrive."""
    max_instance_gib: Positive = 2.0
    """Maximum size of an instance in GiB. It is held in memory until it is on disk. The association of a larger one is
    ended.
    """
    max_study_gib: Positive = 32.0
    """Maximum size of a study in GiB. Further instances are refused, and the study waits for a person."""
    max_study_instances: Count = 20_000
    """Maximum number of instances of a study. Further ones are refused, and the study waits for a person."""

    @field_validator("hosts")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"{one} is not an address or network, such as 10.0.0.5 or 10.1.0.0/16") from None
        return value

    @model_validator(mode="after")
    def _is_guarded(self) -> ReceiveConfig:
        if not is_loopback(self.listen) and not (self.callers and self.hosts):
            raise ValueError(
                f"other machines can reach {self.listen}; give the senders that may use it, as callers=[AET] and "
                "hosts=[ADDRESS], or listen=127.0.0.1"
            )
        if self.encrypted and (self.tls.cert is None or self.tls.ca is None):
            raise ValueError("encrypted needs the certificate of the service, tls.cert, and tls.ca to check senders")
        return self

    def admits(self, address: str) -> bool:
        """Return whether a machine with this address may send."""
        networks = [ipaddress.ip_network(one) for one in self.hosts]
        one = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(one, "ipv4_mapped", None) or one
        return not networks or any(mapped in network for network in networks)


class CompleteConfig(Config):
    """Conditions under which a study counts as complete."""

    quiet_s: Positive = 60.0
    """Seconds without a new instance after which a study is complete, if no number of instances is expected."""
    give_up_s: Positive = 3600.0
    """Seconds without a new instance after which a study that lacks expected instances waits for a person."""


class WebConfig(Config):
    """Status page, REST API, metrics and health of the service."""

    listen: str = "127.0.0.1"
    """Address on which to listen. The default can only be reached from this machine. Other addresses require `cert`."""
    port: Port = 8090
    """Port on which to listen. 0: a free port, which the log names."""
    token: Path | None = None
    """File with the token that clients must present, of at least 32 characters. Unset: the file `token` in the folder
    of the service, made at the first start.
    """
    cert: Path | None = None
    """Certificate for HTTPS, as a PEM file. Unset: HTTP without encryption, only possible on a loopback address."""
    key: Path | None = None
    """Private key of the certificate. Unset: the key is in the file `cert`."""
    shown: Count = 50
    """Number of studies on the status page."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> WebConfig:
        if not is_loopback(self.listen) and self.cert is None:
            raise ValueError(
                f"other machines can reach {self.listen}, and the token must not be sent without encryption; give "
                "cert=FILE, or listen=127.0.0.1 behind a proxy with HTTPS"
            )
        return self


class PredictingConfig(Config):
    """Options of inference of the service."""

    checkpoint: tuple[Path, ...] = Field(min_length=1)
    """Folder of a model, made by finetune, or several, as in checkpoint=[a,b]. Each model is applied to every study
    with a series that it fits. models:/NAME@ALIAS takes the version to which the alias points when the service starts.
    """
    rules: dict[str, SeriesRule] = Field(default_factory=dict)
    """Series to use instead of those that a checkpoint selects, as {CHECKPOINT: {modality: CT, description: REGEX}}.
    CHECKPOINT is the name of the checkpoint folder, or NAME of models:/NAME@ALIAS.
    """
    series: SeriesChoice = "best"
    """Choice among several matching series of a study: best, all or one, as in predict."""
    outputs: tuple[str, ...] | None = None
    """Output formats, as in predict. Unset: all that apply without being requested."""
    codes: dict[str, str] = Field(default_factory=dict)
    """Coded terms of the classes in DICOM SEG, as {CLASS: SCHEME:VALUE:MEANING}."""
    series_number: Count | None = None
    """SeriesNumber of DICOM results. Unset: the number of the source series plus 1000."""
    geometry: GridConfig = Field(default_factory=GridConfig)
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Maximum size in GiB of a decompressed image or volume. Larger ones are refused."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file from which pseudonyms are computed, created on first use."""
    device: Device = "auto"
    """Device to run the models on. The value auto uses the GPU if there is one."""
    study_timeout_s: Positive = 3600.0
    """Time limit in seconds for a study and model. If it is exceeded, the study fails and its worker is replaced."""

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Path) else value

    def for_model(self, name: str, folder: Path) -> PredictionOptions:
        """Return the options of inference with one model."""
        shared = PredictionOptions.model_fields.keys() & PredictingConfig.model_fields.keys() - {"checkpoint"}
        return PredictionOptions(
            **{key: getattr(self, key) for key in shared},
            checkpoint=(folder,),
            source="received",
            output=Path("results"),
            applies_to=self.rules.get(name, SeriesRule()),
        )
