"""Collect the wheels of medvit and all its dependencies in a folder, for machines without a network.

    python docker/wheelhouse.py FOLDER

Run it on a machine with a network, with the Python version and the platform of the machine without one. The folder
then contains the wheels and `requirements.hashed`, which lists every wheel with its SHA-256. On the other machine:

    python -m pip install --no-index --find-links FOLDER --require-hashes --requirement FOLDER/requirements.hashed

pip refuses a wheel that was changed on the way. The script needs only Python and pip.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
HASHED = "requirements.hashed"


def main() -> None:
    """Fill the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the wheels; wheels that are there are not fetched again")
    parser.add_argument("--requirement", type=Path, default=PROJECT / "requirements.lock", help="list of versions")
    parsed, pip_options = parser.parse_known_args()
    collect(parsed.folder, parsed.requirement, pip_options)
    number = sum(1 for _ in parsed.folder.glob("*.whl"))
    print(f"{number} wheels, listed in {parsed.folder / HASHED}")


def collect(folder: Path, requirement: Path, pip_options: Sequence[str] = ()) -> None:
    """Collect the wheels of a list of versions and of medvit, and write their hashes.

    `pip_options` are passed to pip, for example `--extra-index-url URL` for a build of torch without CUDA.

    Raises:
        CalledProcessError: If pip fails; its message is on the standard error.
    """
    pip = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(folder), *pip_options]
    folder.mkdir(parents=True, exist_ok=True)
    for outdated in folder.glob("medvit-*.whl"):
        outdated.unlink()
    subprocess.run([*pip, "--requirement", str(requirement)], check=True)
    subprocess.run([*pip, "--no-deps", str(PROJECT)], check=True)
    (folder / HASHED).write_text(hashed(folder), encoding="utf-8")


def hashed(folder: Path) -> str:
    """Return the requirements of all wheels in a folder, each with its version and SHA-256.

    Raises:
        ValueError: If the folder contains several versions of a package.
    """
    lines: dict[str, str] = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if name.lower() in lines:
            raise ValueError(f"{folder} has several wheels of {name}; remove all but one, or use an empty folder")
        lines[name.lower()] = f"{name.replace('_', '-')}=={version} --hash=sha256:{_sha256(wheel)}\n"
    return "".join(lines.values())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
