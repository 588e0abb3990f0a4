"""Pseudonyms reveal nothing without the key, and only its owner can read the key."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medvit.deidentification.pseudonyms import KEY_BYTES, Pseudonyms
from medvit.errors import ConfigError, OutputError
from medvit.records import Candidate, Patient

KEY, OTHER_KEY = bytes(32), bytes([1]) * 32
ANNA = Patient("Anna", is_known_elsewhere=True)


def test_the_key_file_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "site" / "site.key"
    first = Pseudonyms.with_key_file(path, "x").patient(ANNA)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == KEY_BYTES
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]
    assert Pseudonyms.with_key_file(path, "x").patient(ANNA) == first


def test_runs_that_start_together_share_one_key(tmp_path: Path) -> None:
    def make(_: int) -> str:
        return Pseudonyms.with_key_file(tmp_path / "site.key", "x").patient(ANNA)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(32)))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_key_that_others_may_read_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"run: chmod 600 {path}"):
        Pseudonyms.with_key_file(path, "x")


def test_a_key_too_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="contains 6 bytes; expected at least 32"):
        Pseudonyms.with_key_file(path, "x")


def test_a_key_that_cannot_be_made_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        Pseudonyms.with_key_file(tmp_path / "file" / "site.key", "x")


def test_a_pseudonym_depends_on_the_key() -> None:
    assert Pseudonyms(KEY, "x").patient(ANNA) != Pseudonyms(OTHER_KEY, "x").patient(ANNA)


def test_a_patient_known_elsewhere_has_one_pseudonym_in_all_datasets() -> None:
    local = Patient("Anna")
    assert Pseudonyms(KEY, "x").patient(ANNA) == Pseudonyms(KEY, "y").patient(ANNA)
    assert Pseudonyms(KEY, "x").patient(local) != Pseudonyms(KEY, "y").patient(local)


def test_equal_identifiers_of_two_kinds_have_nothing_in_common(candidate: Callable[..., Candidate]) -> None:
    pseudonyms = Pseudonyms(KEY, "x")
    one = candidate("1", patient="1")
    made = {
        pseudonyms.patient(one.patient),
        pseudonyms.study(one),
        pseudonyms.series(one),
        pseudonyms.image(one),
        pseudonyms.file("1"),
    }
    assert len({name.partition("-")[0] for name in made}) == 5
    assert len({name.partition("-")[2][:12] for name in made}) == 5
