"""Configuration: frozen pydantic models, YAML, `key=value`, and errors a person can read.

Unknown keys are refused with the nearest known one. The text under a field is its help. Nothing is written back into a
config: what is saved is what was given and defaulted, and it runs again unchanged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Self, Union, get_args, get_origin, runtime_checkable

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from medvit.errors import ConfigError

Tree = dict[str, Any]

Count = Annotated[int, Field(ge=1)]
"""At least one."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""Of a whole, in [0, 1]."""
Below = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Of a whole, but not all of it."""
Amount = Annotated[float, Field(ge=0.0)]
"""Not negative."""
Positive = Annotated[float, Field(gt=0.0)]
"""Above zero."""
Axis = Annotated[int, Field(ge=0, le=2)]
"""A spatial axis: H, W of an image, R, A, S of a volume."""


class Config(BaseModel):
    """A frozen set of options; unknown keys are refused, and values may come as text: `1e-4` as well as 0.0001."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        coerce_numbers_to_str=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _with_lists(cls, value: Any) -> Any:
        """One name where a list of names is expected is a list of one: `modality=CT` as well as `modality=[CT]`.

        Not so where it has a comma: several names are a list, as in `modality=[CT,MR]`.
        """
        if not isinstance(value, Mapping):
            return value
        return {
            key: (given,) if _is_one_name(given) and key in cls.model_fields and _are_names(cls, key) else given
            for key, given in value.items()
        }

    @classmethod
    def parse(cls, tree: Mapping[str, Any], *, source: str = "the configuration") -> Self:
        """The config of a tree of plain values.

        Raises:
            ConfigError: One sentence for every key that is unknown, missing or has a wrong value; `source` is named.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{source}: " + "; ".join(_explain(error, cls))) from None

    @classmethod
    def load(cls, path: Path | None, overrides: Iterable[str] = ()) -> Self:
        """The config in a YAML file, if any, with `key.subkey=value` on top."""
        tree = {} if path is None else read_yaml(path, scalars=AsWritten)
        for override in overrides:
            _assign(tree, override)
        return cls.parse(tree, source="the arguments" if path is None else str(path))

    def tree(self, *, private: bool = True) -> Tree:
        """Plain values, as for YAML. Without `private`, keys that may name a patient (raw sources) are left out."""
        tree: Tree = self.model_dump(mode="json")
        if not private:
            for key, field in type(self).model_fields.items():
                if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("private"):
                    tree.pop(key)
                elif isinstance(group := getattr(self, key), Config):
                    tree[key] = group.tree(private=False)
        return tree

    def to_yaml(self, *, private: bool = True) -> str:
        """The resolved config as YAML; `load` gives it back unchanged."""
        return to_yaml(self.tree(private=private))


def to_yaml(tree: Tree) -> str:
    """Plain values as YAML, in their order."""
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _is_one_name(given: Any) -> bool:
    return isinstance(given, str) and given != "" and "," not in given


def _are_names(kind: type[BaseModel], key: str) -> bool:
    """Whether an option is a list of texts; one number for a list of them would be a guess at how many."""
    annotation = kind.model_fields[key].annotation
    if get_origin(annotation) in (Union, UnionType):
        (annotation, *_) = [each for each in get_args(annotation) if each is not NoneType]
    if get_origin(annotation) is not tuple or get_args(annotation)[1:] != (Ellipsis,):
        return False
    (member, _) = get_args(annotation)
    while get_origin(member) is Annotated:
        (member, *_) = get_args(member)
    return member in (str, Path) or (
        get_origin(member) is Literal and all(isinstance(a, str) for a in get_args(member))
    )


class AsWritten(yaml.SafeLoader):
    """Leaves scalars as they are written, but for null: the type of an option says what `2024-01-31` or `007` means."""


AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path, scalars: type[yaml.SafeLoader] = yaml.SafeLoader) -> Tree:
    """The mapping a YAML file holds; `scalars` says how its values are typed.

    Raises:
        ConfigError: If the file is missing, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}; give a YAML file or key=value")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), scalars)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected keys and values")
    return tree


def _assign(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"found the argument {override!r}; expected key=value, as in trainer.epochs=10")
    try:
        value = yaml.load(text, AsWritten)
    except yaml.YAMLError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if isinstance(child, str) and child.isidentifier():  # `objective: mae` is short for `objective: {name: mae}`
            child = tree[parent] = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {parent} is a single value and has no keys of its own")
        tree = child
    tree[last] = value


def _explain(error: ValidationError, kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ChoiceError):
            yield from _explain(cause.error, cause.kind, f"{key}.")
        elif problem["type"] == "extra_forbidden":
            group = key.removeprefix(prefix).rpartition(".")[0]
            yield f"unknown key {key!r}{_nearest(key.removeprefix(prefix), _names_in(kind, group))}"
        elif problem["type"] == "missing":
            yield f"{key} is missing; give {key}=..."
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            found = "" if isinstance(cause, ValueError) else f" (found {_quoted(problem['input'])})"
            yield f"{key}: {message}{found}" if key else message


def _quoted(value: object) -> str:
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value)
    return str(value) if is_number else repr(value)


class ChoiceError(ValueError):
    """Carries the errors of a choice made by name through pydantic, so that their keys are told in full."""

    def __init__(self, error: ValidationError, kind: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error, self.kind = error, kind


def _names_in(kind: type[BaseModel], group: str) -> list[str]:
    """The keys of one group of options, such as `trainer`; of all groups' names where there is none."""
    start = f"{group}." if group else ""
    names = (key.name.removeprefix(start) for key in keys(kind) if key.name.startswith(start))
    return list(dict.fromkeys(start + name.partition(".")[0] for name in names))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if len(known) <= 12 else ""


def unknown_name(what: str, name: object, known: list[str]) -> str:
    """One sentence for a misspelt name: the nearest known one, and the list."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {what} is named {name!r}; {hint}known are {', '.join(known)}"


@dataclass(frozen=True)
class Key:
    """One option as help shows it."""

    name: str
    type: str
    default: str
    help: str


@runtime_checkable
class OffersChoices(Protocol):
    """The mark of a field whose value is a choice made by name (see `medvit.registry`)."""

    default: str

    def names(self) -> list[str]:
        """The names on offer."""

    def find(self, name: str) -> type[Config]:
        """The config class under a name."""


def keys(kind: type[BaseModel], prefix: str = "") -> list[Key]:
    """Every option of a config type, nested ones with dots, in the order they are written."""
    found: list[Key] = []
    for name, field in kind.model_fields.items():
        text = " ".join((field.description or "").split())
        choice = next((m for m in field.metadata if isinstance(m, OffersChoices)), None)
        if choice is not None:
            found.append(Key(f"{prefix}{name}.name", " or ".join(choice.names()), choice.default, text))
            found += [
                k for k in keys(choice.find(choice.default), f"{prefix}{name}.") if k.name != f"{prefix}{name}.name"
            ]
            continue
        nested = _nested(field.annotation)
        default = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
        if nested is not None and not isinstance(default, Mapping):
            found += keys(nested, f"{prefix}{name}.")
            continue
        shown = "required" if default is PydanticUndefined else _show(default)
        found.append(Key(f"{prefix}{name}", _type_name(field.annotation), shown, text))
    return found


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The config type of a field that holds one, optional or not."""
    candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
    return candidates[0] if candidates else None


def _show(value: Any) -> str:
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", type(value).__name__))
    if isinstance(value, Mapping):
        return str(value.get("name", dict(value)))
    return "none" if value in (None, "", ()) else str(value)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_type_name, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join('...' if a is Ellipsis else _type_name(a) for a in get_args(annotation))}]"
    if isinstance(annotation, type) and not get_args(annotation):
        return "none" if annotation is NoneType else annotation.__name__
    return str(annotation).replace("pathlib.", "")
