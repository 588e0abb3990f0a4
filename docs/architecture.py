"""Generated parts of docs/architecture.md: run `python -m docs.architecture` after moving a module or renaming a room.

Rooms and records are described by the first lines of their docstrings, layers by the contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "architecture.md"
RECORDS = ("Item", "Candidate", "Taken", "Row")
"""Records of an image in the order in which they are made."""


def rendered(page: str) -> str:
    """Return the page with every generated part made again.

    A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.

    Raises:
        KeyError: If the page asks for a part that does not exist.
    """
    parts = {"rooms": _rooms, "modules": _modules, "layers": _layers, "records": _records}
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + "\n".join(parts[found[2]]()) + "\n" + found[3],
        page,
        flags=re.DOTALL,
    )


def _rooms() -> Iterator[str]:
    """Yield the lines of a table of rooms and their contents; a nested room comes below its parent."""
    yield from ("| room | contents |", "| --- | --- |")
    for path in sorted((PROJECT / "medvit").glob("*/**/__init__.py"), key=lambda path: path.parent.parts):
        name = path.parent.relative_to(PROJECT / "medvit").as_posix()
        yield f"| [`{name}/`](../medvit/{name}/__init__.py) | {_first_line(_tree(path))} |"


def _modules() -> Iterator[str]:
    """Lines of a table: the modules beside the rooms."""
    yield from ("| module | contents |", "| --- | --- |")
    for path in sorted((PROJECT / "medvit").glob("[!_]*.py")):
        yield f"| [`{path.name}`](../medvit/{path.name}) | {_first_line(_tree(path))} |"


def _layers() -> Iterator[str]:
    """Lines of a block: the layers, highest first."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    yield from ("```", "pipelines")
    yield from next(contract["layers"] for contract in contracts if contract.get("containers") == ["medvit"])
    yield "```"


def _records() -> Iterator[str]:
    """Lines of a list: the records of an image."""
    classes = {
        node.name: node for node in _tree(PROJECT / "medvit" / "records.py").body if isinstance(node, ast.ClassDef)
    }
    for number, name in enumerate(RECORDS, 1):
        yield f"{number}. `{name}`: {_first_line(classes[name])}"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(node: ast.Module | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
