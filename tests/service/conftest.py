"""A running service with a small model, and senders of studies."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from medvit.phantoms import write_ct_studies
from medvit.service.running import running
from medvit.service.service import ServeConfig, Service
from tests.models.untrained import write_checkpoint
from tests.sources.conftest import certificates, make_orthanc, secrets

__all__ = ["certificates", "make_orthanc", "secrets"]

PATIENCE_S = 180.0


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "liver")


@pytest.fixture(scope="session")
def ct(tmp_path_factory: pytest.TempPathFactory) -> list[list[pydicom.Dataset]]:
    """The instances of the volume series of three CT studies."""
    folders = write_ct_studies(tmp_path_factory.mktemp("ct"), 3)
    return [list(map(pydicom.dcmread, sorted(folder.rglob("*.dcm")))) for folder in folders]


def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Wait until a condition holds; return its value."""
    end = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


@contextmanager
def association(port: int, datasets: Sequence[pydicom.Dataset], **changes: Any) -> Iterator[Association]:
    """Return a context with an association for the classes and transfer syntaxes of instances."""
    entity = AE(ae_title=changes.pop("calling", "SENDER"))
    entity.acse_timeout = entity.dimse_timeout = 30
    kinds = dict.fromkeys((str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in datasets)
    contexts = [build_context(*kind) for kind in kinds]
    called = changes.pop("called", "MEDVIT")
    found = entity.associate("127.0.0.1", port, contexts=contexts, ae_title=called, **changes)
    try:
        yield found
    finally:
        if found.is_established:
            found.release()


def send(port: int, datasets: Sequence[pydicom.Dataset], **changes: Any) -> list[int]:
    """Send instances in one association; return the statuses."""
    with association(port, datasets, **changes) as found:
        assert found.is_established
        return [int(found.send_c_store(one).Status) for one in datasets]


def changed(one: Dataset, **values: str) -> Dataset:
    """Return a copy of an instance with other values."""
    other = copy.deepcopy(one)
    for keyword, value in values.items():
        setattr(other, keyword, value)
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID
    return other


@dataclass
class Served:
    """A running service, seen from outside."""

    service: Service
    folder: Path

    @property
    def port(self) -> int:
        return self.service.receiver.port

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text().strip()

    def call(self, path: str, method: str = "get", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.service.web_port}{path}"
        return requests.request(method, url, **{"headers": headers, "timeout": 30, **options})

    def get(self, path: str) -> Any:
        return self.call(path).json()

    def studies(self) -> list[dict[str, Any]]:
        return sorted(self.get("/api/studies"), key=lambda one: one["began"])

    def jobs(self) -> list[dict[str, Any]]:
        return [job for one in self.studies() for job in self.get(f"/api/studies/{one['study']}")["predictions"]]

    def ended(self, number: int) -> list[dict[str, Any]]:
        """Wait until a number of predictions have ended; return all of them."""
        return until(lambda: (j := self.jobs()) and sum(one["status"] not in WAITING for one in j) >= number and j)


WAITING = ("waiting", "running")
Start = Callable[..., Served]


def config_of(tmp_path: Path, checkpoint: Path, **options: Any) -> ServeConfig:
    """Return the options of a service on free ports, with a short quiet time."""
    tree = {
        "checkpoint": checkpoint,
        "folder": tmp_path / "service",
        "key": tmp_path / "site.key",
        "receive": {"port": 0, **options.pop("receive", {})},
        "web": {"port": 0, **options.pop("web", {})},
        "complete": {"quiet_s": 0.5, **options.pop("complete", {})},
        "min_free_gib": 0.0,
        **options,
    }
    return ServeConfig.parse(tree)


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path) -> Iterator[Start]:
    """Starts services; they are stopped after the test, or by `stop`."""
    stack = ExitStack()

    def begin(**options: Any) -> Served:
        config = config_of(tmp_path, options.pop("checkpoint", checkpoint), **options)
        return Served(stack.enter_context(running(config)), config.folder)

    begin.stop = stack.close  # type: ignore[attr-defined]
    with stack:
        yield begin
