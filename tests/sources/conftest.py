"""A real archive on this machine: Orthanc with its DICOMweb plugin, and a server before it that spoils its answers."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pydicom
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from medvit.phantoms import write_ct_studies, write_radiograph_studies

PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
PLUGIN = "libOrthancDicomWeb.so"
TOKEN = "t0ken-of-the-archive"
USER, PASSWORD = "reader", "s3cret-of-the-archive"
AET, RECEIVER_AET = "ARCHIVE", "MEDVIT"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Orthanc:
    """One Orthanc server; `kill` and `start` keep ports and storage."""

    folder: Path
    options: Mapping[str, object] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    dicom_port: int = field(default_factory=free_port)
    receiver_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def pacs(self) -> str:
        return f"pacs://{AET}@127.0.0.1:{self.dicom_port}"

    def start(self) -> Orthanc:
        binary = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        plugin = next((path for f in PLUGIN_FOLDERS for path in Path(f).glob(f"{PLUGIN}*")), None)
        if binary is None or plugin is None:
            pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc, orthanc-dicomweb)")
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(plugin)],
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": AET,
            "DicomCheckCalledAet": True,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomModalities": {"receiver": [RECEIVER_AET, "127.0.0.1", self.receiver_port]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **self.options,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = (self.folder / "orthanc.log").open("wb")
        self.process = subprocess.Popen([binary, str(path)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while b"Orthanc has started" not in (self.folder / "orthanc.log").read_bytes():
            assert self.process.poll() is None, (self.folder / "orthanc.log").read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, "Orthanc does not start"
            time.sleep(0.05)
        return self

    def upload(self, files: list[Path]) -> Orthanc:
        with requests.Session() as session:
            session.auth = (USER, PASSWORD)
            for file in files:
                url = f"http://127.0.0.1:{self.http_port}/instances"
                session.post(url, data=file.read_bytes(), timeout=30).raise_for_status()
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three studies as files named by their UIDs: two of CT, one radiograph; the second is of another day and kind."""
    raw, laid_out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("studies")
    folders = write_ct_studies(raw / "ct", 2)
    write_radiograph_studies(raw / "dx", 1, seed=7)
    for file in sorted(raw.rglob("*.dcm")):
        dataset = pydicom.dcmread(file)
        dataset.StudyDescription = "Abdomen routine"
        if folders[1] in file.parents:
            dataset.StudyDate, dataset.StudyDescription = "20220615", "Abdomen follow-up"
        path = laid_out / dataset.StudyInstanceUID / dataset.SeriesInstanceUID / f"{dataset.SOPInstanceUID}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path)
    return laid_out


@pytest.fixture(scope="session")
def make_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Orthanc]]:
    servers: list[Orthanc] = []

    def make(**options: object) -> Orthanc:
        servers.append(Orthanc(tmp_path_factory.mktemp("orthanc"), options).start())
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def orthanc(make_orthanc: Callable[..., Orthanc], studies: Path) -> Orthanc:
    """A server with the studies, for tests that only read."""
    return make_orthanc().upload(sorted(studies.rglob("*.dcm")))


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options by which we log in; the secrets are in the environment."""
    monkeypatch.setenv("ARCHIVE_USER", USER)
    monkeypatch.setenv("ARCHIVE_PASSWORD", PASSWORD)
    return {"user_env": "ARCHIVE_USER", "password_env": "ARCHIVE_PASSWORD"}


@dataclass(frozen=True)
class Certificates:
    """A self-made authority, and a certificate of it for 127.0.0.1 with its key (in one file, too)."""

    ca: Path
    cert: Path
    key: Path
    both: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hospital authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "archive")])
    now = datetime.now(UTC)

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))

    authority = build(ca_name, ca_key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    signed_ca = authority.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = build(name, key.public_key()).add_extension(names, critical=False).sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    key_bytes = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = {name: folder / f"{name}.pem" for name in ("ca", "cert", "key", "both")}
    paths["ca"].write_bytes(signed_ca.public_bytes(pem))
    paths["cert"].write_bytes(signed.public_bytes(pem))
    paths["key"].write_bytes(key_bytes)
    paths["both"].write_bytes(key_bytes + signed.public_bytes(pem))
    return Certificates(**paths)


@pytest.fixture
def unused_port() -> int:
    """An unused port."""
    return free_port()


@dataclass
class Faults:
    """A server between us and the archive that spoils answers; `plan` defines how, by the number of a retrieval."""

    archive: str
    login: tuple[str, str]
    plan: Callable[[int, str], str] = lambda number, path: ""
    on_half: Callable[[], object] = lambda: None
    url: str = ""
    num_retrievals: int = 0
    requested: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, path: str) -> str:
        if "/rendered" in path or "?" in path or path.endswith(("/instances", "/series", "/studies")):
            return ""
        with self.lock:
            self.requested[path] += 1
            self.num_retrievals += 1
            return self.plan(self.num_retrievals, path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"", "text/plain")
            return
        fault = self.faults.next_fault(self.path)
        try:
            answer = requests.get(
                self.faults.archive + self.path,
                headers={"Accept": self.headers["Accept"]},
                auth=self.faults.login,
                timeout=10,
            )
        except requests.ConnectionError:
            self.close_connection = True
            return
        body, kind = answer.content, answer.headers["Content-Type"]
        if fault == "busy":
            self.answer(503, b"busy", "text/plain")
        elif fault == "gone":
            self.answer(404, b"", "text/plain")
        elif fault == "html":
            self.answer(200, b"<html>log in</html>", "text/html")
        elif fault == "half":  # whole as HTTP goes, half as multipart goes
            self.answer(200, body[: len(body) // 2], kind)
        elif fault == "drop":
            self.answer(200, body, kind, num_sent=len(body) // 2)
        elif fault == "silent":
            time.sleep(1.0)
            self.close_connection = True
        else:
            self.answer(answer.status_code, body, kind)

    def answer(self, status: int, body: bytes, kind: str, num_sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:num_sent])
        if num_sent is not None:
            self.wfile.flush()
            self.faults.on_half()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def make_faults(orthanc: Orthanc) -> Iterator[Callable[..., Faults]]:
    """Makes servers in front of an archive, with TLS where a certificate is given; they want a token."""
    running: list[ThreadingHTTPServer] = []

    def make(server: Orthanc = orthanc, certificate: Path | None = None) -> Faults:
        faults = Faults(f"http://127.0.0.1:{server.http_port}", (USER, PASSWORD))
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Spoiling", (Handler,), {"faults": faults}))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
        faults.url = f"http{'s' if certificate else ''}://127.0.0.1:{proxy.server_port}/dicom-web"
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        running.append(proxy)
        return faults

    yield make
    for proxy in running:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options by which the servers of `make_faults` know us."""
    monkeypatch.setenv("ARCHIVE_TOKEN", TOKEN)
    return {"token_env": "ARCHIVE_TOKEN"}
