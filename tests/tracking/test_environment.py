"""The environment of a run is recorded: commits of real repositories, and nobody's name unless it is requested."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path

import pytest

from medvit import __version__
from medvit.tracking import environment_tags
from medvit.tracking.environment import commit_of


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of one file."""
    git(tmp_path, "init", "-q")
    (tmp_path / "config.yaml").write_text("seed: 0\n", encoding="utf-8")
    git(tmp_path, "add", "config.yaml")
    git(tmp_path, "commit", "-qm", "First")
    return tmp_path


def test_a_commit_is_recorded_with_changes_of_tracked_files(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == {"commit": commit, "files": "unchanged"}
    (repository / "output.txt").touch()
    assert commit_of(repository)["files"] == "unchanged", "outputs are not changes"
    (repository / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    assert commit_of(repository) == {"commit": commit, "files": "changed"}


def test_a_folder_outside_a_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) == {}


def test_the_current_folder_is_recorded_apart_from_medvit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    tags = environment_tags("off")
    assert tags["medvit.work.commit"] == git(repository, "rev-parse", "HEAD")
    assert tags["medvit.version"] == __version__
    assert "torch " in tags["medvit.packages"]


def test_a_user_is_recorded_only_if_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "q-mueller-lang")
    assert getpass.getuser() == "q-mueller-lang"
    assert "mlflow.user" not in environment_tags("off")
    assert environment_tags("user")["mlflow.user"] == "q-mueller-lang"
    hashed = environment_tags("hash")["mlflow.user"]
    assert hashed == environment_tags("hash")["mlflow.user"], "the same person has the same hash"
    monkeypatch.setenv("LOGNAME", "another")
    assert environment_tags("hash")["mlflow.user"] != hashed
    assert "mueller" not in hashed
