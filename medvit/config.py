"""Configuration: frozen pydantic models, YAML files, `key=value` arguments, and readable error messages.

Unknown keys are refused with the nearest known one. The docstring below a field is its help text. A config is never
modified: the saved config contains the given values and the defaults, and running it again repeats the run.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, Union, get_args, get_origin, runtime_checkable

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from medvit.errors import ConfigError

Tree = dict[str, Any]
log = logging.getLogger("medvit")
_is_saved: ContextVar[bool] = ContextVar("is_saved", default=False)
"""Whether the options being read were written by medvit, and not by a person."""

Count = Annotated[int, Field(ge=1)]
"""Whole number of at least one."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""Share in [0, 1]."""
Below = Annotated[float, Field(ge=0.0, lt=1.0)]
"""Share in [0, 1)."""
Amount = Annotated[float, Field(ge=0.0)]
"""Number that is not negative."""
Positive = Annotated[float, Field(gt=0.0)]
"""Number above zero."""
Axis = Annotated[int, Field(ge=0, le=2)]
"""Spatial axis: H, W of an image, R, A, S of a volume."""


class Config(BaseModel):
    """Frozen set of options. Unknown keys are refused.

    Values may be text, as from YAML or the command line: `"1e-4"` is accepted as 0.0001.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        coerce_numbers_to_str=True,
    )

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Earlier name of an option -> its present name, which may be in a group, such as `labeling.table`."""

    @model_validator(mode="before")
    @classmethod
    def _with_lists(cls, value: Any) -> Any:
        """Accept a single name where a list of names is expected: `modality=CT` as well as `modality=[CT]`.

        A name with a comma is refused, with the hint that several names are written as a list: `modality=[CT,MR]`.
        """
        if not isinstance(value, Mapping):
            return value
        return {
            key: (given,) if _is_one_name(given) and key in cls.model_fields and _are_names(cls, key) else given
            for key, given in _as_named_now(cls, value).items()
        }

    @classmethod
    def parse(cls, tree: Mapping[str, Any], *, source: str = "the configuration") -> Self:
        """Return the config described by nested mappings of plain values, as read from YAML.

        Raises:
            ConfigError: If a key is unknown, missing or has a wrong value. The message names `source` and has one
                sentence for every such key.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ConfigError(f"{source}: " + "; ".join(_explain(error, cls))) from None

    @classmethod
    def parse_saved(cls, tree: Mapping[str, Any], *, source: str) -> Self:
        """Return the config that medvit saved in an artifact. Earlier option names are accepted without a warning.

        Raises:
            ConfigError: As `parse`.
        """
        token = _is_saved.set(True)
        try:
            return cls.parse(tree, source=source)
        finally:
            _is_saved.reset(token)

    @classmethod
    def load(cls, path: Path | None, overrides: Iterable[str] = ()) -> Self:
        """Return the config in a YAML file, if one is given, with `key.subkey=value` overrides applied on top.

        Whole groups are applied before their keys, so that `backbone.size=micro backbone=channel_vit` sets both.
        """
        tree = {} if path is None else read_yaml(path, scalars=AsWritten)
        for override in sorted(overrides, key=lambda text: text.partition("=")[0].count(".")):
            _assign(tree, override)
        return cls.parse(tree, source="the arguments" if path is None else str(path))

    def tree(self, *, private: bool = True) -> Tree:
        """Return plain values, ready for YAML.

        Without `private`, options that may name a patient (such as `source`) are omitted.
        """
        tree: Tree = self.model_dump(mode="json")
        if not private:
            for key, field in type(self).model_fields.items():
                if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("private"):
                    tree.pop(key)
                elif isinstance(group := getattr(self, key), Config):
                    tree[key] = group.tree(private=False)
        return tree

    def to_yaml(self, *, private: bool = True) -> str:
        """Return the resolved config as YAML, from which `load` restores the same config."""
        return to_yaml(self.tree(private=private))


def to_yaml(tree: Tree) -> str:
    """Return plain values as YAML, in their order."""
    return str(yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True))


def _as_named_now(kind: type[Config], given: Mapping[str, Any]) -> Tree:
    """Return options under their present names, and log a warning for each earlier name.

    The value `none`, as in earlier versions, becomes `off` if `off` is a choice of the option, and null if the option
    may be None. A null given to any other option is dropped, so that its default applies.

    Raises:
        ValueError: If an option is given under both its earlier and its present name.
    """
    named: Tree = {}
    for name, value in _moved(kind, given).items():
        if name not in kind.model_fields:
            named[name] = value
            continue
        annotation = kind.model_fields[name].annotation
        is_optional = annotation is Any or NoneType in get_args(annotation)
        members = {member for one in (annotation, *get_args(annotation)) for member in _members(one)}
        if value == "none" and "off" in members:
            _warn(f"{name}=none is now called {name}=off; the next version refuses none")
            value = "off"
        elif value == "none" and is_optional:
            _warn(f"{name}=none is now called {name}=null; the next version refuses none")
            value = None
        if value is not None or is_optional:
            named[name] = value
    return named


def _moved(kind: type[Config], given: Mapping[str, Any]) -> Tree:
    """Return options with each renamed option under its present name; an option may move into a group.

    Raises:
        ValueError: If an option is given under both its earlier and its present name.
    """
    tree = {key: value for key, value in given.items() if key not in kind.RENAMED}
    for key, value in given.items():
        if key in kind.RENAMED:
            name = kind.RENAMED[key]
            if not _put(tree, name.split("."), value):
                raise ValueError(f"{key} is now called {name}, and both are given; remove {key}")
            _warn(f"{key} is now called {name}; the next version refuses the old name")
    return tree


def _put(tree: Tree, path: Sequence[str], value: Any) -> bool:
    """Store a value in nested options, at the path of group and option names; groups are merged option by option.

    Return False if the path already has another value.
    """
    name, *rest = path
    if not rest and name not in tree:
        tree[name] = value
        return True
    group, added = _options(tree.get(name)), {".".join(rest): value} if rest else _options(value)
    if group is None or added is None:
        return False
    tree[name] = group
    return all(_put(group, key.split("."), one) for key, one in added.items())


def _options(group: Any) -> Tree | None:
    """Return the options given for a group as a new dict; None if a single value was given instead."""
    if isinstance(group, Config):
        return {name: getattr(group, name) for name in group.model_fields_set}
    return {} if group is None else dict(group) if isinstance(group, Mapping) else None


def _warn(sentence: str) -> None:
    if not _is_saved.get():
        log.warning("%s", sentence)


def _members(annotation: Any) -> tuple[Any, ...]:
    while get_origin(annotation) is Annotated:
        (annotation, *_) = get_args(annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _is_one_name(given: Any) -> bool:
    return isinstance(given, str) and given != "" and "," not in given


def _are_names(kind: type[BaseModel], key: str) -> bool:
    """Return whether an option is a list of texts.

    A single value is accepted only for a list of texts: the length of a list of numbers would be a guess.
    """
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


class AsWritten(yaml.CSafeLoader):
    """YAML loader that keeps scalars as text, except null.

    The type of the option decides whether `2024-01-31` or `007` becomes a date, a number or a text.
    """


AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path, scalars: type[yaml.CSafeLoader] = yaml.CSafeLoader) -> Tree:
    """Return the mapping that a YAML file contains; `scalars` is the YAML loader that decides the type of its values.

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
        raise ConfigError(f"{path} is a {type(tree).__name__}; expected keys and values")
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
            raise ConfigError(f"{key}: {parent} is a single option, not a group of options")
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
            yield f"unknown key {key!r}{nearest(key.removeprefix(prefix), _names_in(kind, group))}"
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
    """Error in the options of a component that was chosen by name, such as an objective (`objective=dino`).

    It carries the validation error of the component (`error`) and its config class (`kind`) through pydantic, so that
    messages can give the full names of the wrong options.
    """

    def __init__(self, error: ValidationError, kind: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error, self.kind = error, kind


def _names_in(kind: type[BaseModel], group: str) -> list[str]:
    """Return the option names of one group, such as `trainer`; if `group` is empty, all top-level names."""
    start = f"{group}." if group else ""
    names = (key.name.removeprefix(start) for key in keys(kind) if key.name.startswith(start))
    return list(dict.fromkeys(start + name.partition(".")[0] for name in names))


def nearest(name: str, known: list[str], renamed: Mapping[str, str] | None = None) -> str:
    """Return the end of an error sentence about an unknown name: the nearest known name.

    If no known name is near, return the list of known names, or nothing if the list is long.

    `renamed` maps earlier names to present ones; for an earlier name, the sentence gives the present one.
    """
    now = renamed or {}
    close = difflib.get_close_matches(name, [*known, *now], n=1)
    if close:
        return f"; did you mean {now.get(close[0], close[0])!r}?"
    return f"; known are {', '.join(known)}" if len(known) <= 12 else ""


def unknown_name(what: str, name: object, known: list[str]) -> str:
    """Return an error sentence for a misspelled name, with the nearest known name and the list of names."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {what} is named {name!r}; {hint}known are {', '.join(known)}"


RENAMED = "renamed"
"""Value of `Key.type` for an earlier option name; `Key.default` is then the present name of the option."""


@dataclass(frozen=True)
class Key:
    """One option, as the help text shows it."""

    name: str
    type: str
    default: str
    help: str
    variant: str = ""
    """Choice that has this option, such as head=dense; empty for options that always exist."""


@runtime_checkable
class OffersChoices(Protocol):
    """Interface of the annotation of a field that takes a component by its name (see `medvit.registry.Chosen`)."""

    default: str

    def names(self) -> list[str]:
        """Return the names of the available components."""

    def find(self, name: str) -> type[Config]:
        """Return the config class of the component with this name."""


def keys(kind: type[BaseModel], prefix: str = "", variant: str = "", *, every_variant: bool = False) -> list[Key]:
    """Return every option of a config type in the order of definition; nested options have dotted names.

    For a field that takes a component by its name, such as an objective, the options of the default component are
    returned. With `every_variant`, the options of all components are returned, and also the earlier names of options.
    """
    found: list[Key] = []
    for name, field in kind.model_fields.items():
        text = " ".join(_help(kind).get(name, "").split())
        default = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
        choice = next((m for m in field.metadata if isinstance(m, OffersChoices)), None)
        if choice is not None:
            shown = "unset" if default is None else choice.default
            found.append(Key(f"{prefix}{name}.name", " or ".join(choice.names()), shown, text, variant))
            for one in choice.names() if every_variant else [choice.default]:
                inner = keys(choice.find(one), f"{prefix}{name}.", f"{prefix}{name}={one}", every_variant=every_variant)
                found += [key for key in inner if key.name != f"{prefix}{name}.name"]
            continue
        nested = _nested(field.annotation)
        if nested is not None and not isinstance(default, Mapping):
            found += keys(nested, f"{prefix}{name}.", variant, every_variant=every_variant)
            continue
        shown = "required" if default is PydanticUndefined else _show(default)
        found.append(Key(f"{prefix}{name}", _type_name(field.annotation), shown, text, variant))
    return [*_earlier(kind, found, prefix, variant), *found] if every_variant and issubclass(kind, Config) else found


def _earlier(kind: type[Config], found: Sequence[Key], prefix: str, variant: str) -> Iterator[Key]:
    """Yield a `Key` for each earlier option name; its default is the present name of the option.

    An option in a renamed group has an earlier name too, which begins with the earlier name of the group.
    """
    for old, now in kind.RENAMED.items():
        yield Key(prefix + old, RENAMED, prefix + now, "", variant)
        for key in found:
            if key.name.startswith(f"{prefix}{now}."):
                name = key.default if key.type == RENAMED else key.name
                yield Key(prefix + old + key.name.removeprefix(prefix + now), RENAMED, name, "", key.variant)


def groups(kind: type[BaseModel]) -> dict[str, str]:
    """Return the top-level option groups of a config type with their descriptions.

    The description is the first line of the docstring of the group's class. If two groups have the same class, the
    description of the second group is the first sentence of the help text of its field. The same applies to a group
    that takes a component by its name.
    """
    found: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        nested = _nested(field.annotation)
        if any(isinstance(mark, OffersChoices) for mark in field.metadata):
            found[name] = _first_sentence(_help(kind).get(name, ""))
        elif nested is not None and not isinstance(field.get_default(call_default_factory=True), Mapping):
            about = (nested.__doc__ or "").strip().splitlines()[0].rstrip(".")
            found[name] = _first_sentence(_help(kind).get(name, "")) if about in found.values() else about
    return found


def _first_sentence(text: str) -> str:
    return re.split(r"[.;] ", " ".join(text.split()))[0].rstrip(".")


@cache
def _help(kind: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each option of a config type, or else below the same option of its base class.

    Not pydantic's `use_attribute_docstrings`, because it reads the source of all config types while they are imported
    (measured: a fifth of the time of importing the stages), and only help texts need it.
    """
    bases = [base for base in reversed(kind.__mro__) if issubclass(base, BaseModel) and base is not BaseModel]
    return {name: text for base in bases for name, text in _docstrings(base)}


def _docstrings(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of each option that the source of a config type defines with a docstring."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in pairwise(definition.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


def _nested(annotation: Any) -> type[BaseModel] | None:
    """Return the config type in the annotation of a field, such as `C` in `C | None`; None without a config type.

    The types of the elements of a list, as in `tuple[C, ...]`, do not count: they have no keys of their own.
    """
    if get_origin(annotation) is tuple:
        return None
    candidates = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
    return candidates[0] if candidates else None


def _show(value: Any) -> str:
    """Return a default as it is written in YAML; `unset` for None."""
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", type(value).__name__))
    if isinstance(value, Mapping):
        return str(value.get("name", to_yaml_flow(dict(value))))
    if isinstance(value, str):
        return value or '""'
    return "unset" if value is None else to_yaml_flow(value)


def to_yaml_flow(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    return str(yaml.safe_dump(plain, default_flow_style=True, width=10**6)).removesuffix("\n").removesuffix("\n...")


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_type_name, get_args(annotation)))
    if get_origin(annotation) in (dict, Mapping):
        return f"mapping[{', '.join(map(_type_name, get_args(annotation)))}]"
    if get_origin(annotation) is tuple:
        return f"tuple[{', '.join('...' if a is Ellipsis else _type_name(a) for a in get_args(annotation))}]"
    if isinstance(annotation, type) and not get_args(annotation):
        return "unset" if annotation is NoneType else annotation.__name__
    return str(annotation).replace("pathlib.", "")
