"""Every medvit command in the documentation and in the examples of docker/ has only options that exist, with values of
their type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvit.config import keys
from medvit.errors import MedvitError
from pipelines.__main__ import STAGES, find

PROJECT = Path(__file__).parent.parent.parent
PAGES = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted(path for path in (PROJECT / "docs").rglob("*.md") if not path.name.startswith("add-")),  # own names
    *sorted(path for path in (PROJECT / "docker").rglob("*") if path.is_file()),
    *sorted((PROJECT / "configs").rglob("*.yaml")),
]
BEFORE = r"[\s#]*(?:Run:|exec|ExecStart=.*exec)?\s*(?:\S*/)?|[\s#]*docker .*\s"
COMMAND = re.compile(rf"^(?:{BEFORE})medvit +([a-z]+ .*)")
INLINE = re.compile(r"`medvit ([a-z]+ [^`]*)`")


def leaves_of(tree: Any) -> Iterator[str]:
    """Every text in a tree of YAML."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves_of(part)


def commands_of(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Stage and words of each command that a file contains, on a line of its own or between backticks."""
    text = path.read_text(encoding="utf-8")
    if path.parent.name == "kubernetes":
        text = "\n".join(leaf for tree in yaml.safe_load_all(text) for leaf in leaves_of(tree))
    lines = re.sub(r"\s*\\\n[# ]*", " ", text).splitlines()
    found = [match.group(1).partition(" #")[0] for line in lines if "`" not in line and (match := COMMAND.match(line))]
    for line in [*found, *INLINE.findall(re.sub(r"\s*\n[# ]*", " ", text))]:
        stage, *words = shlex.split(line) if line.count("'") % 2 == 0 else line.rstrip("'").split()
        if stage in STAGES and stage != "whois":  # its option is given without a name
            yield stage, words


def problem_of(stage: str, words: list[str]) -> str:
    """Return the error of a command; empty for a command that can be run where its files exist."""
    given = [word for word in words if "=" in word and "=$" not in word]  # $H: the variable of a loop
    files = [PROJECT / word for word in words if word.startswith("configs/")]
    kind = find(stage).config_type
    named = {word.partition("=")[0] for word in given}
    absent = sorted({key.name for key in keys(kind) if key.default == "required"} - named)
    try:
        kind.load(files[0] if files else None, [*given, *(f"{name}=somewhere" for name in absent)])
    except MedvitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_options_of_the_commands_exist(path: Path) -> None:
    wrong = {" ".join([stage, *words]): problem_of(stage, words) for stage, words in commands_of(path)}
    assert {command: text for command, text in wrong.items() if text} == {}


def test_commands_are_found_and_a_wrong_one_is_noticed() -> None:
    assert sum(len(list(commands_of(path))) for path in PAGES) > 140
    assert "bogus" in problem_of("ingest", ["source=a", "dataset=b", "bogus=1"])
    assert "resamples" in problem_of("evaluate", ["resamples=many"])
