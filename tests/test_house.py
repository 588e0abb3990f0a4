"""Keeps the layout true: sizes of files, names, docstrings, who imports what, and configs that load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medvit.config import Config, keys, read_yaml
from pipelines.__main__ import STAGES, find

PROJECT = Path(__file__).parent.parent
SOURCES = sorted([*(PROJECT / "medvit").rglob("*.py"), *(PROJECT / "pipelines").rglob("*.py")])
TESTS = sorted((PROJECT / "tests").rglob("*.py"))
BENCHMARKS = sorted((PROJECT / "benchmarks").rglob("*.py"))
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))

METHODS = ("objectives", "losses", "peft", "heads", "backbones")
"""Rooms whose choices are published methods."""
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "core"}
HOMES = {
    "mlflow": ("medvit/tracking.py",),
    "timm": ("medvit/backbones/",),
    "lightning": ("medvit/training/",),
    "ray": ("medvit/engine/__init__.py",),
    "pydicom": ("medvit/readers/", "medvit/ingest/", "medvit/sources/", "medvit/inference/", "medvit/phantoms/"),
    "highdicom": ("medvit/readers/", "medvit/ingest/", "medvit/sources/", "medvit/inference/", "medvit/phantoms/"),
}
"""Third party -> where alone it is imported."""


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def undocumented(body: list[ast.stmt], prefix: str = "", *, may_inherit: bool = False) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None and not (may_inherit and isinstance(node, ast.FunctionDef)):
            yield f"{prefix}{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{prefix}{node.name}.", may_inherit=bool(node.bases))


def registered_choices() -> list[tuple[str, str]]:
    """The room and the name of every choice made by name."""
    choices = []
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(d) == "register" for d in node.decorator_list):
                fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and ast.unparse(f.target) == "name"]
                choices.append((path.parent.name, ast.literal_eval(fields[0].value)))
    return sorted(choices)


@each([*SOURCES, *TESTS, *BENCHMARKS])
def test_a_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@each([*SOURCES, *BENCHMARKS])
def test_a_function_has_at_most_60_lines(path: Path) -> None:
    functions = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > MAX_FUNCTION_LINES] == []


@each(SOURCES)
def test_every_public_name_is_documented(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree) is not None
    assert list(undocumented(tree.body)) == []


@each([*SOURCES, *TESTS, *BENCHMARKS])
def test_no_file_is_a_drawer_for_anything(path: Path) -> None:
    assert not FORBIDDEN_NAMES & {path.stem, *path.relative_to(PROJECT).parts}


@each(SOURCES)
def test_medvit_has_at_most_two_levels(path: Path) -> None:
    assert len(path.relative_to(PROJECT).parts) <= 3


@each([*SOURCES, *TESTS])
def test_third_parties_live_in_one_place(path: Path) -> None:
    homes = {party: HOMES[party] for party in set(imports_of(path)) & HOMES.keys()}
    if path in SOURCES:
        assert [party for party, home in homes.items() if not name_of(path).startswith(home)] == []


@each([path for path in SOURCES if path.parent.parent == PROJECT / "medvit" and path.name != "__init__.py"])
def test_occupants_of_a_room_never_import_each_other_in_a_circle(path: Path) -> None:
    room = path.parent
    siblings = {f"medvit.{room.name}.{p.stem}" for p in room.glob("*.py")} - {f"medvit.{room.name}.__init__"}
    imported = {n.module for n in ast.walk(tree_of(path)) if isinstance(n, ast.ImportFrom) and n.module in siblings}
    for module in imported:
        neighbor = tree_of(room / f"{module.rpartition('.')[2]}.py")
        back = {n.module for n in ast.walk(neighbor) if isinstance(n, ast.ImportFrom)}
        assert f"medvit.{room.name}.{path.stem}" not in back


@pytest.mark.parametrize(("room", "choice"), registered_choices())
def test_every_choice_has_a_test(room: str, choice: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in TESTS if path != Path(__file__)]
    assert any(re.search(rf"\b{re.escape(choice)}\b", text, re.IGNORECASE) for text in texts)


@each([p for p in SOURCES if p.parent.name in METHODS and "@register" in p.read_text(encoding="utf-8")])
def test_a_method_names_its_source(path: Path) -> None:
    documented = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    docstrings = " ".join(ast.get_docstring(node) or "" for node in documented)
    assert re.search(r"\b(19|20)\d\d\b", docstrings), "no docstring names a paper with its year"


@each(CONFIGS)
def test_a_config_loads_for_the_stage_its_file_is_named_after(path: Path) -> None:
    stage = find(path.stem.partition("-")[0])
    inputs = {key.name for key in keys(stage.config_type) if key.default == "required"} - read_yaml(path).keys()
    config = stage.config_type.load(path, [f"{key}=somewhere" for key in sorted(inputs)])
    assert isinstance(config, Config)
    assert stage.config_type.parse(config.tree()) == config


@each(CONFIGS)
def test_a_config_opens_with_what_it_is_its_command_and_an_override(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = "\n".join(lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))])
    assert len(opening.splitlines()) >= 3
    assert f"medvit {path.stem.partition('-')[0]} {name_of(path)}" in opening
    assert len(re.findall(r"[\w.]+=\S+", opening)) >= 2, "no override is shown"


def test_every_stage_is_in_the_list_of_the_command_line() -> None:
    recipes = {path.stem for path in (PROJECT / "pipelines").glob("[!_]*.py")}
    assert recipes == STAGES.keys()


def test_importing_medvit_imports_nothing_heavy() -> None:
    program = "import sys, medvit; print(sorted({'torch', 'numpy', 'pydantic', 'mlflow'} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_lock_holds_exact_versions_and_nothing_of_one_machine() -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lock if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9_.]*", pin)] == []
    assert not any(re.match(r"nvidia|cuda|triton", pin) for pin in pins)
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(pins)
