"""Tags that describe the environment of a run: host, versions, and the commits of medvit and of the current folder."""

from __future__ import annotations

import getpass
import hashlib
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medvit import __version__
from medvit.tracking.options import Who

PACKAGES = ("torch", "timm", "monai", "lightning", "peft", "numpy", "mlflow")
"""Packages whose versions are recorded."""
GIT_TIMEOUT_S = 5.0
ROOT = Path(__file__).parents[2]
"""Folder of the checkout of medvit, if it is not installed as a package."""


def environment_tags(who: Who) -> dict[str, str]:
    """Return the tags of the environment in which this process works."""
    tags = {
        "medvit.version": __version__,
        "medvit.host": platform.node(),
        "medvit.python": platform.python_version(),
        "medvit.platform": platform.platform(),
        "medvit.packages": ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        "mlflow.source.type": "LOCAL",
    }
    code = current_code()
    work = commit_of(Path.cwd())
    tags |= {f"medvit.code.{key}": value for key, value in code.items()}
    tags |= {f"medvit.work.{key}": value for key, value in work.items()}
    if "commit" in (code or work):
        tags["mlflow.source.git.commit"] = (code or work)["commit"]
    if who != "off":
        tags["mlflow.user"] = _user() if who == "user" else hashlib.sha256(_user().encode()).hexdigest()[:12]
    return tags


@cache
def current_code() -> dict[str, str]:
    """Return the git commit of medvit and the state of its files at the first call; empty if it is not a checkout."""
    return commit_of(ROOT) if (ROOT / ".git").exists() else {}


def device_tag() -> dict[str, str]:
    """Return the tag of the device of this process; empty if it did not compute with torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return {"medvit.device": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"}
    return {"medvit.device": f"cpu, {torch.get_num_threads()} threads"}


def commit_of(folder: Path) -> dict[str, str]:
    """Return the git commit of a folder, and whether tracked files differ from it; empty outside a repository."""
    git = shutil.which("git")
    if git is None:
        return {}

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                [git, "-C", str(folder), *words], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if not commit:
        return {}
    changes = ask("status", "--porcelain", "--untracked-files=no")
    state = "unknown" if changes is None else "changed" if changes else "unchanged"
    return {"commit": commit, "files": state}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as for a user ID without an account, in a container
        return "unknown"
