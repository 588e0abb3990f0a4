"""Registry of components, such as metrics, which users choose by name and medvit finds by their files.

A room is a package whose files offer components to choose from, such as `medvit.objectives`. To add a component, add a
file. There are two kinds of components. For a component with options, the file defines a config class with a `name` and
a `build` method:

    @register
    class Mae(ObjectiveConfig):
        name: Literal["mae"] = "mae"

A config field of the type `Annotated[ObjectiveConfig, Chosen("medvit.objectives", default="mae")]` then accepts
`{name: mae, mask_ratio: 0.9}`. For a component without options, the file defines a constant with a `name`, such as
`READER` in `medvit.readers`; `occupants("medvit.readers", "READER")` returns all of them.

The file may also be in another installed package, whose pyproject.toml declares it as an entry point of the room:

    [project.entry-points."medvit.objectives"]
    rotation = "my_package.rotation"

The config class in that file names its room: `@register(room="medvit.objectives")`. `extend` adds a module for the
current process only, `extended` for a `with` block.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoints, distributions, entry_points
from types import ModuleType
from typing import Any, TypeVar, overload

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from medvit.config import ChoiceError, Config, unknown_name
from medvit.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)

_rooms: dict[str, dict[str, type[Config]]] = {}
_joined: dict[str, list[str]] = {}
"""Modules that were added to a room (a package of components) in this process, keyed by room."""
_occupants: dict[tuple[str, str], tuple[Any, ...]] = {}


@overload
def register(config: type[ConfigT]) -> type[ConfigT]: ...
@overload
def register(*, room: str) -> Callable[[type[ConfigT]], type[ConfigT]]: ...
def register(config: type[ConfigT] | None = None, *, room: str = "") -> Any:
    """Register a config class as a component of a room (a package such as `medvit.objectives`).

    The name of the component is the default value of the field `name` of the class. Use it as a decorator: `@register`,
    or `@register(room="medvit.objectives")` in another package. If `room` is unset, the room is the package that
    contains the file of the class.

    Raises:
        ConfigError: If the room has another component of this name.
    """
    if config is None:
        return lambda given: _register(given, room)
    return _register(config, config.__module__.rpartition(".")[0])


def _register(config: type[ConfigT], room: str) -> type[ConfigT]:
    name = config.model_fields["name"].default
    taken = _rooms.setdefault(room, {}).setdefault(name, config)
    if (taken.__module__, taken.__qualname__) != (config.__module__, config.__qualname__):
        raise _named_twice(room, name, taken.__module__, config.__module__)
    return config


def extend(room: str, module: str) -> None:
    """Add the components of a module of another package to a room (a package of components), for this process only.

    To add a module for every process, declare an entry point.

    Raises:
        ConfigError: If the module cannot be imported, or adds a name that the room already has.
    """
    _imported(room, module)
    _joined.setdefault(room, []).append(module)
    for known, constant in list(_occupants):
        if known == room:
            del _occupants[room, constant]
            try:
                occupants(room, constant)
            except ConfigError:
                _leave(room, module)
                raise


@contextmanager
def extended(room: str, module: str) -> Iterator[None]:
    """Return a context in which the components of `module` belong to a room; for tests, for example."""
    extend(room, module)
    try:
        yield
    finally:
        _leave(room, module)


def is_extended() -> bool:
    """Return whether any other installed package adds components to medvit."""
    return any(entry.group.startswith("medvit.") for package in distributions() for entry in package.entry_points)


def occupants(room: str, constant: str) -> tuple[Any, ...]:
    """Return the components of a room (a package such as `medvit.readers`), sorted by their attribute `name`.

    A component is the value of a module's constant, such as `METRIC`; `constant` is the name of that constant.

    Raises:
        ConfigError: If two components have the same `name`, or a module of another package cannot be imported.
    """
    if (room, constant) not in _occupants:
        found: dict[str, tuple[str, Any]] = {}
        for module in _modules(room):
            occupant = getattr(module, constant, None)
            if occupant is not None and found.setdefault(occupant.name, (module.__name__, occupant))[1] is not occupant:
                raise _named_twice(room, occupant.name, found[occupant.name][0], module.__name__)
        _occupants[room, constant] = tuple(found[name][1] for name in sorted(found))
    return _occupants[room, constant]


def names(room: str) -> list[str]:
    """Return the names of the components of a room (a package such as `medvit.objectives`), sorted."""
    return sorted(_load(room))


def find(room: str, name: str) -> type[Config]:
    """Return the config class of the component of a room with a given name.

    Raises:
        ValueError: If the room does not have this component. The message lists the names, with the nearest one.
    """
    choices = _load(room)
    if name not in choices:
        raise ValueError(unknown_name(room.rpartition(".")[2].removesuffix("s"), name, sorted(choices)))
    return choices[name]


@dataclass(frozen=True)
class Chosen:
    """Annotation of a config field whose value is a component of a room (a package such as `medvit.objectives`).

    The user gives the name of the component; `default` is used if no name is given. An `optional` field may also be
    unset, and the stage then chooses the component.
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
        """Return the names of the components of the room."""
        return names(self.room)

    def find(self, name: str) -> type[Config]:
        """Return the config class of the component with a given name."""
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
    for _ in _modules(room):
        pass  # a module registers its choices as it is imported
    return _rooms.get(room, {})


def _leave(room: str, module: str) -> None:
    _joined[room].remove(module)
    _rooms[room] = {name: kind for name, kind in _rooms.get(room, {}).items() if kind.__module__ != module}
    sys.modules.pop(module, None)  # its next import registers its choices again
    for key in [key for key in _occupants if key[0] == room]:
        del _occupants[key]


def _modules(room: str) -> Iterator[ModuleType]:
    """Yield the modules in the package `room`, and the modules that other packages add to the room."""
    package = importlib.import_module(room)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):  # code shared by the choices of a room
            yield importlib.import_module(f"{room}.{module.name}")
    for entry in _entry_points(room):
        yield _imported(room, entry.value)
    for name in _joined.get(room, ()):
        yield importlib.import_module(name)


@cache
def _entry_points(room: str) -> EntryPoints:
    return entry_points(group=room)


def _imported(room: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the module {module}, which another package offers to {room}, cannot be imported: {error}; fix or "
            "uninstall that package"
        ) from error


def _named_twice(room: str, name: str, *modules: str) -> ConfigError:
    return ConfigError(f"{room} has two choices named {name!r}, in {' and '.join(modules)}; rename one of them")
