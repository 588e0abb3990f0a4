"""One configuration: its options with the reason for each, written as commented YAML."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from medvit.config import Tree

WIDTH = 110
"""Maximum length of a comment line, in characters."""


@dataclass(frozen=True)
class DraftOption:
    """Option by its dotted name, with the reason for its value; if `is_off`, it is written as a comment."""

    key: str
    value: Any
    comment: str = ""
    is_off: bool = False


@dataclass(frozen=True)
class Draft:
    """Configuration of a stage. The words in `command`, after `medvit`, are the command that runs it."""

    stage: str
    file_name: str
    about: str
    entries: tuple[DraftOption, ...]
    command: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Lines below the command, which are not wrapped."""
    is_private: bool = False
    """Whether the draft contains a path of the source, which may name patients."""

    def tree(self, *also: DraftOption) -> Tree:
        """Return the options of the YAML file as nested mappings.

        Options written as comments are not included, except those in `also`.
        """
        tree: Tree = {}
        for entry in [*(one for one in self.entries if not one.is_off), *also]:
            *groups, last = entry.key.split(".")
            place = tree
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = entry.value
        return tree

    def text(self) -> str:
        """Return the content of the YAML file."""
        commands = "".join(f"# {line}\n" for line in (f"Run: medvit {' '.join(self.command)}", *self.notes))
        return (
            _comment(self.about, "")
            + commands
            + "".join(_written([(tuple(one.key.split(".")), one) for one in self.entries], ""))
        )


def _written(entries: Sequence[tuple[tuple[str, ...], DraftOption]], pad: str) -> Iterator[str]:
    """Yield the text of the options in `entries`, indented by `pad`; options of the same group are written together."""
    for head in dict.fromkeys(parts[0] for parts, _ in entries):
        members = [(parts, entry) for parts, entry in entries if parts[0] == head]
        if all(len(parts) == 1 or entry.is_off for parts, entry in members):
            for parts, entry in members:
                yield _comment(entry.comment, pad)
                yield f"{pad}{'# ' if entry.is_off else ''}{_option(parts, entry.value)}\n"
            continue
        yield f"{pad}{head}:\n"
        yield from _written([(parts[1:], entry) for parts, entry in members], f"{pad}  ")


def _option(parts: tuple[str, ...], value: Any) -> str:
    """Return an option as one line of YAML.

    `parts` are the parts of the dotted name of the option. Groups below the first part are written in braces.
    """
    for part in reversed(parts[1:]):
        value = {part: value}
    text = yaml.safe_dump({parts[0]: value}, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.strip()[1:-1]


def _comment(text: str, pad: str) -> str:
    return "".join(f"{pad}# {line}\n" for line in textwrap.wrap(text, WIDTH - len(pad) - 2) if line)
