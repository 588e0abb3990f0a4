"""A choice is found because its file is in the room's folder, and a misspelt one is answered with the nearest name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.registry import Chosen, extend, extended, find, is_extended, names, occupants

THING = """
class Thing:
    name = "{name}"

THING = Thing()
"""

CHOICE = """
from typing import Literal
from medvit.config import Config
from medvit.registry import register

@register
class {kind}(Config):
    name: Literal["{name}"] = "{name}"
    size: int = 1
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package of two choices, as a room of medvit is."""
    folder = tmp_path_factory.mktemp("packages")
    package = folder / "room_of_shapes"
    package.mkdir()
    (package / "__init__.py").write_text('"""Shapes."""\n', encoding="utf-8")
    for name in ("circle", "square"):
        text = CHOICE.format(kind=name.title(), name=name)
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield package.name
    sys.path.remove(str(folder))


def options(room: str, *, optional: bool = False) -> type[Config]:
    class Options(Config):
        shape: Annotated[Config | None, Chosen(room, default="circle", optional=optional)] = Field(
            default=None if optional else {"name": "circle"}, validate_default=True
        )

    return Options


def test_choices_are_the_files_of_the_folder(room: str) -> None:
    assert names(room) == ["circle", "square"]


def test_a_new_file_is_a_new_choice(room: str) -> None:
    folder = Path(sys.modules[room].__path__[0])
    (folder / "triangle.py").write_text(CHOICE.format(kind="Triangle", name="triangle"), encoding="utf-8")
    assert "triangle" in names(room)
    (folder / "triangle.py").unlink()


def test_a_misspelt_name_is_answered_with_the_nearest(room: str) -> None:
    with pytest.raises(
        ValueError, match=r"no room_of_shape is named 'circel'; did you mean 'circle'\? known are circle"
    ):
        find(room, "circel")


def test_a_field_takes_a_name_or_a_mapping_or_a_config(room: str) -> None:
    kind = options(room)
    wanted = kind.parse({"shape": {"name": "square", "size": 3}})
    assert kind.parse({"shape": wanted.shape}) == wanted
    assert kind.parse({"shape": "square"}).shape.size == 1
    assert kind.parse({"shape": {"size": 4}}).shape.tree() == {"name": "circle", "size": 4}


def test_a_choice_is_saved_with_its_options(room: str) -> None:
    kind = options(room)
    config = kind.parse({"shape": {"name": "square", "size": 3}})
    assert config.tree() == {"shape": {"name": "square", "size": 3}}
    assert kind.parse(config.tree()) == config


def test_a_wrong_option_of_a_choice_is_told_with_its_full_key(room: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'shape\.sise'; did you mean 'size'\?"):
        options(room).parse({"shape": {"name": "square", "sise": 3}})
    with pytest.raises(ConfigError, match=r"shape\.size: input should be a valid integer"):
        options(room).parse({"shape": {"name": "square", "size": "big"}})


def test_what_is_neither_name_nor_mapping_is_told(room: str) -> None:
    with pytest.raises(ConfigError, match="expected a name or"):
        options(room).parse({"shape": 7})


def test_an_optional_choice_may_be_none(room: str) -> None:
    config = options(room, optional=True).parse({"shape": None})
    assert config.shape is None
    assert config.tree() == {"shape": None}


@pytest.mark.parametrize("name", ["medvit.peft", "medvit.heads", "medvit.objectives", "medvit.backbones"])
def test_every_room_of_choices_offers_some_and_each_accepts_its_own_name(name: str) -> None:
    assert names(name)
    for choice in names(name):
        assert find(name, choice).parse({"name": choice}).tree()["name"] == choice


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that do not belong to a room."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_of_another_package_joins_a_room_for_a_while(room: str, elsewhere: Path) -> None:
    text = CHOICE.format(kind="Star", name="star").replace("@register", f"@register(room={room!r})")
    (elsewhere / "my_star.py").write_text(text, encoding="utf-8")
    for _ in range(2):  # also when it has been imported before
        with extended(room, "my_star"):
            assert options(room).parse({"shape": {"name": "star", "size": 2}}).shape.tree() == {
                "name": "star",
                "size": 2,
            }
        assert "star" not in names(room)


def test_things_without_options_are_found_by_the_name_of_their_constant(room: str, elsewhere: Path) -> None:
    (elsewhere / "my_thing.py").write_text(THING.format(name="b"), encoding="utf-8")
    (Path(sys.modules[room].__path__[0]) / "thing.py").write_text(THING.format(name="a"), encoding="utf-8")
    with extended(room, "my_thing"):
        assert [thing.name for thing in occupants(room, "THING")] == ["a", "b"]
    assert [thing.name for thing in occupants(room, "THING")] == ["a"]


def test_an_installed_package_extends_a_room_by_its_entry_point(room: str, elsewhere: Path) -> None:
    (elsewhere / "installed_thing.py").write_text(THING.format(name="c"), encoding="utf-8")
    facts = elsewhere / "installed_thing-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-thing\nVersion: 1.0\n", encoding="utf-8")
    groups = "[medvit.things]\nc = installed_thing\n[room_of_things]\nc = installed_thing\n"
    (facts / "entry_points.txt").write_text(groups, encoding="utf-8")
    (elsewhere / "room_of_things").mkdir()
    (elsewhere / "room_of_things" / "__init__.py").touch()
    assert is_extended()
    assert [thing.name for thing in occupants("room_of_things", "THING")] == ["c"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CHOICE.format(kind="Other", name="circle").replace("@register", "@register(room=ROOM)"), "two choices named"),
        ("import no_such_module", "cannot be imported: No module named 'no_such_module'; fix or uninstall"),
    ],
)
def test_what_cannot_join_a_room_is_told_with_its_module(room: str, elsewhere: Path, text: str, expected: str) -> None:
    (elsewhere / "my_other.py").write_text(f"ROOM = {room!r}\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"(?s)my_other.*{expected}|{expected}.*my_other"):
        extend(room, "my_other")
    assert find(room, "circle").__module__ == f"{room}.circle"
