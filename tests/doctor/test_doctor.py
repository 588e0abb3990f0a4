"""Checks of an installation: each passes here, and each reports its kind of fault."""

from __future__ import annotations

import importlib
from pathlib import Path

import imagecodecs

from medvit.doctor import software
from medvit.doctor.decoding import check_decoders
from medvit.doctor.services import check_archive, check_tracking
from medvit.doctor.software import check_device, check_packages
from medvit.doctor.storage import check_folder, check_key
from medvit.sources import RetrieveConfig
from medvit.tracking import TrackingConfig
from pipelines.__main__ import main
from tests.delivery.conftest import make_archive, studies

__all__ = ["make_archive", "studies"]

QUICK = RetrieveConfig.parse({"timeout_s": 2.0, "retries": 0})


def key_in(folder: Path, name: str = "site.key", content: bytes = b"k" * 32) -> Path:
    path = folder / name
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_packages_device_and_decoders_work_here():
    assert [check.outcome for check in check_packages()] == ["ok", "ok"]
    assert check_device().outcome in ("ok", "warning")
    check = check_decoders()
    assert check.outcome == "ok", check.found
    assert "JPEG 2000" in check.found


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    known = importlib.import_module

    def broken(name):
        if name == "timm":
            raise RuntimeError("operator does not exist")
        return known(name)

    monkeypatch.setattr(software.importlib, "import_module", broken)
    failed = [check for check in check_packages() if check.outcome == "failed"]
    assert [check.found for check in failed] == ["timm cannot be imported (RuntimeError)"]


def test_a_decoder_that_fails_or_gives_other_values_is_named(monkeypatch):
    def missing(*_, **__):
        raise ImportError

    monkeypatch.setattr(imagecodecs, "jpegls_decode", missing)
    known = imagecodecs.jpegxl_decode
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", lambda *words, **options: known(*words, **options) ^ 1)
    check = check_decoders()
    assert check.outcome == "failed"
    assert "JPEG-LS Lossless Image Compression" in check.found
    assert "JPEG XL Lossless: decoded to other values" in check.found
    assert "JPEG 2000" not in check.found


def test_a_folder_without_permission_or_space_is_found(tmp_path, monkeypatch):
    assert check_folder(tmp_path).outcome == "ok"
    assert list(tmp_path.iterdir()) == []
    assert check_folder(tmp_path / "missing").outcome == "failed"
    monkeypatch.setattr("medvit.doctor.storage.MIN_FREE_GIB", 1e9)
    assert check_folder(tmp_path).outcome == "warning"


def test_a_key_that_others_can_read_or_whose_backup_differs_is_found(tmp_path):
    assert check_key(tmp_path / "none", None).outcome == "ok"
    key = key_in(tmp_path)
    assert check_key(key, None).outcome == "warning"
    assert check_key(key, key_in(tmp_path, "copy")).outcome == "ok"
    assert check_key(key, key_in(tmp_path, "other", b"x" * 32)).outcome == "failed"
    assert check_key(key, tmp_path / "missing").outcome == "failed"
    assert check_key(key_in(tmp_path, "short", b"k"), None).outcome == "failed"
    key.chmod(0o644)
    check = check_key(key, None)
    assert (check.outcome, check.found) == ("failed", "others may read site.key")


def test_a_store_is_asked_but_not_created(tmp_path):
    store = tmp_path / "mlflow.db"
    assert check_tracking(TrackingConfig.parse({"uri": f"sqlite:///{store}"})).outcome == "ok"
    assert not store.exists()
    store.write_bytes(b"not a database" * 100)
    assert check_tracking(TrackingConfig.parse({"uri": f"sqlite:///{store}"})).outcome == "failed"


def test_an_archive_answers_or_not(make_archive):
    assert check_archive(make_archive().url, QUICK).outcome == "ok"
    for location in ("pacs://ARCHIVE@127.0.0.1:1", "http://127.0.0.1:1/dicom-web"):
        check = check_archive(location, QUICK)
        assert check.outcome == "failed"
        assert "cannot be reached" in check.found


def test_the_exit_status_is_3_if_a_check_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"key={key_in(tmp_path)}", "tracking.enabled=false"]
    assert main(["doctor", *words]) == 0
    assert "all 7 checks passed" in capsys.readouterr().out
    assert main(["doctor", *words, "archive=pacs://ARCHIVE@127.0.0.1:1"]) == 3
    assert "1 of 8 checks failed" in capsys.readouterr().out
    assert main(["doctor", *words, "archive=folder"]) == 2
