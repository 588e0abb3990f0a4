"""Folder of wheels for machines without a network: pip installs from its list, and refuses a wheel that was changed."""

from __future__ import annotations

import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

hashed: Callable[[Path], str] = runpy.run_path(str(Path(__file__).parents[2] / "docker" / "wheelhouse.py"))["hashed"]


def write_wheel(folder: Path, name: str, version: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    return path


def installed(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    options = ["--no-index", "--find-links", str(folder), "--require-hashes", "--target", str(target)]
    words = [sys.executable, "-m", "pip", "install", *options, "--requirement", str(folder / "requirements.hashed")]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_pip_installs_the_listed_wheels_and_refuses_one_that_was_changed(tmp_path: Path) -> None:
    write_wheel(tmp_path, "first_tool", "1.0")
    second = write_wheel(tmp_path, "second", "2.1")
    (tmp_path / "requirements.hashed").write_text(hashed(tmp_path), encoding="utf-8")
    done = installed(tmp_path, tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "target" / "first_tool.py").is_file()
    assert (tmp_path / "target" / "second.py").is_file()

    with zipfile.ZipFile(second, "a") as wheel:
        wheel.writestr("added.py", "")
    refused = installed(tmp_path, tmp_path / "other")
    assert refused.returncode != 0
    assert "HASHES" in refused.stderr
    assert not (tmp_path / "other" / "first_tool.py").exists()


def test_two_versions_of_a_package_are_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "second", "2.1")
    write_wheel(tmp_path, "second", "2.2")
    with pytest.raises(ValueError, match="several wheels of second"):
        hashed(tmp_path)
