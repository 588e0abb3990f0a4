"""Help of a stage, and the check of its options, from the generated list of options, without slow imports."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from medvit.config import RENAMED, Key, nearest
from medvit.registry import is_extended

OPTIONS = Path(__file__).with_name("options.json")
WIDTH = 100
LAST = ("seed", "resume", "tracking")
"""Options common to all stages, which help shows last."""


@cache
def options(stage: str) -> tuple[Key, ...]:
    """Return every option of a stage, including all variants; `plan pretrain` has the options of both stages."""
    own, _, planned = stage.partition(" ")
    keys = [Key(*line) for line in listed()[own]["keys"]]
    names = {key.name for key in keys}
    others = (Key(*line) for line in listed()[planned]["keys"]) if planned else ()
    return (*(key for key in others if key.name not in names), *keys)


def groups(stage: str) -> dict[str, str]:
    """Return the names of the option groups of a stage, with their descriptions."""
    return {group: about for name in stage.split() for group, about in dict(listed()[name]["groups"]).items()}


def page(stage: str, words: Sequence[str], *, first: Iterable[str], head: Iterable[str]) -> str:
    """Return the help of a stage: the lines in `head`, then its options in sections.

    The options named in `first` form the first section. The `words` of the command line, such as `head=dense`, choose
    the variants that are shown. Without such a word, the default variant is shown, if there is one.
    """
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    shown = [key for key in options(stage) if key.type != RENAMED and _is_chosen(key, chosen, options(stage))]
    main = [key for name in first for key in shown if key.name in (name, f"{name}.name")]
    main = [*(key for key in shown if key.default == "required" and key not in main), *main]
    sections = {"main options": main} if main else {}
    about = groups(stage)
    rest = [key for key in shown if key not in main]
    for key in sorted(rest, key=lambda key: (key.name.partition(".")[0] in LAST, _has_group(key, about))):
        group = key.name.partition(".")[0]
        title = f"{group}: {about[group]}" if group in about else "other options"
        title = "options common to all stages" if group in LAST else title
        sections.setdefault(title, []).append(key)
    lines = [line for title, keys in sections.items() for line in _section(stage, title, keys, chosen)]
    return "\n".join([*head, *lines])


def misspelt(stage: str, words: Iterable[str]) -> str:
    """Return an error message for the first option that no variant of a stage has, with the nearest known option.

    The message is empty if all options are known.
    """
    known = [key.name for key in options(stage)]
    mappings = [key.name for key in options(stage) if "mapping" in key.type]
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or name in known or any(one.startswith(f"{name}.") for one in known):
            continue
        if any(name.startswith(f"{one}.") for one in mappings):
            continue
        group = name.rpartition(".")[0]
        parents = {one.rpartition(".")[0] for one in known}
        siblings = [one for one in known if (group in parents and one.startswith(f"{group}.")) or not group]
        if is_extended():
            return ""  # the stage itself knows the options of other packages, and takes longer to answer
        now = {key.name: key.default for key in options(stage) if key.type == RENAMED}
        tops = dict.fromkeys(_below(one, group) for one in siblings or known)
        earlier = {one: now[one] for one in tops if one in now}
        return f"the arguments: unknown key {name!r}{nearest(name, [one for one in tops if one not in now], earlier)}"
    return ""


def _below(name: str, group: str) -> str:
    depth = group.count(".") + 2 if group else 1
    return ".".join(name.split(".")[:depth])


def _is_chosen(key: Key, chosen: dict[str, str], known: Sequence[Key]) -> bool:
    """Return whether an option exists in the chosen variants.

    `chosen` gives the variant of some choices, such as `head`. For every other choice, the default variant counts.
    """
    if not key.variant:
        return True
    field, _, name = key.variant.partition("=")
    owner = next(one for one in known if one.name == f"{field}.name" and _is_chosen(one, chosen, known))
    return _choice(owner, chosen) == name


def _choice(owner: Key, chosen: dict[str, str]) -> str:
    """Return the chosen variant of a choice such as `head.name`.

    If `chosen` does not contain the choice, the result is its default, which may be `unset`.
    """
    return chosen.get(owner.name.removesuffix(".name"), chosen.get(owner.name, owner.default))


def _has_group(key: Key, about: dict[str, str]) -> bool:
    return key.name.partition(".")[0] in about


def _section(stage: str, title: str, keys: Sequence[Key], chosen: dict[str, str]) -> Iterator[str]:
    yield from ("", f"{title}:")
    for key in keys:
        value = "required" if key.default == "required" else f"default {key.default}"
        name = key.name.removesuffix(".name") if _is_choice(stage, key) else key.name
        yield f"  {name}  ({key.type}, {value})"
        yield textwrap.indent(textwrap.fill(key.help, WIDTH), " " * 6)
        if _is_choice(stage, key):
            yield from _note(stage, key, _choice(key, chosen))


def _is_choice(stage: str, key: Key) -> bool:
    field = key.name.removesuffix(".name")
    return field != key.name and any(one.variant.startswith(f"{field}=") for one in options(stage))


def _note(stage: str, key: Key, shown: str) -> Iterator[str]:
    """Yield lines that state which variant of a choice the page shows, and how to show another one."""
    field = key.name.removesuffix(".name")
    variants = [one.variant.partition("=")[2] for one in options(stage) if one.variant.startswith(f"{field}=")]
    others = [one for one in dict.fromkeys(variants) if one != shown]
    if not others:
        return
    if shown in variants:
        yield f"      This page shows the options of {field}={shown}. For those of another choice, run for example:"
    else:
        yield "      Some choices have options of their own. To see them, run for example:"
    yield f"        medvit {stage} {field}={others[0]} --help"


@cache
def listed() -> dict[str, dict[str, list[list[str]]]]:
    """Return the generated list: a mapping from each stage to its option groups and its options."""
    return dict(json.loads(OPTIONS.read_text(encoding="utf-8")))
