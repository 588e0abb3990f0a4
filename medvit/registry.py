"""Registry of choices made by `name` in YAML, found because their files are in the room's folder.

A room is a package such as `medvit.objectives`. A file in it holds a config class with a `name` and a `build` method:

    @register
    class Mae(ObjectiveConfig):
        name: Literal["mae"] = "mae"

and a field of the type `Annotated[ObjectiveConfig, Chosen("medvit.objectives", default="mae")]` takes
`{name: mae, mask_ratio: 0.9}`. Adding a choice is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from medvit.config import ChoiceError, Config, unknown_name

ConfigT = TypeVar("ConfigT", bound=Config)

_rooms: dict[str, dict[str, type[Config]]] = {}


def register(config: type[ConfigT]) -> type[ConfigT]:
    """Make a config class a choice of the room its file is in, under the default of its field `name`."""
    room = config.__module__.rpartition(".")[0]
    name = config.model_fields["name"].default
    taken = _rooms.setdefault(room, {}).setdefault(name, config)
    assert taken is config or taken.__qualname__ == config.__qualname__, f"{room} has two choices named {name!r}"
    return config


def names(room: str) -> list[str]:
    """Return the names a room offers, sorted."""
    return sorted(_load(room))


def find(room: str, name: str) -> type[Config]:
    """Return the config class a room offers under a name.

    Raises:
        ValueError: With the nearest known name and the list.
    """
    choices = _load(room)
    if name not in choices:
        raise ValueError(unknown_name(room.rpartition(".")[2].removesuffix("s"), name, sorted(choices)))
    return choices[name]


@dataclass(frozen=True)
class Chosen:
    """Marks a config field whose value names a choice of a room; `default` is meant when no name is given.

    An `optional` field may also be none: the stage then chooses.
    """

    room: str
    default: str
    optional: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialize = core_schema.plain_serializer_function_ser_schema(
            lambda config: None if config is None else config.model_dump(mode="json")
        )
        return core_schema.no_info_plain_validator_function(self._resolve, serialization=serialize)

    def names(self) -> list[str]:
        """Return the names the room offers."""
        return names(self.room)

    def find(self, name: str) -> type[Config]:
        """Return the config class the room offers under a name."""
        return find(self.room, name)

    def _resolve(self, value: Any) -> Config | None:
        if isinstance(value, Config) or (value is None and self.optional):
            return value
        tree = {"name": value} if isinstance(value, str) else value
        if not isinstance(tree, Mapping):
            raise ValueError(f"expected a name or {{name: ..., ...}}, found {value!r}")
        kind = self.find(tree.get("name", self.default))
        try:
            return kind.model_validate(tree)
        except ValidationError as error:
            raise ChoiceError(error, kind) from None


def _load(room: str) -> dict[str, type[Config]]:
    package = importlib.import_module(room)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):  # code shared by the choices of a room
            importlib.import_module(f"{room}.{module.name}")
    return _rooms.get(room, {})
