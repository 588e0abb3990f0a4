"""Options that a dataset was made with, read from its `config.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medvit.artifacts import CONFIG
from medvit.config import Tree, read_yaml


@dataclass(frozen=True)
class MadeWith:
    """Options with which ingest or merge made a dataset.

    Earlier versions stored options without groups; both layouts are read.
    """

    tree: Tree

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the options of a dataset folder.

        Raises:
            ConfigError: If the folder has no `config.yaml`.
        """
        return cls(read_yaml(folder / CONFIG))

    def group(self, name: str) -> Tree:
        """Return the options of a group; empty if the dataset has no group of that name."""
        group: Tree = self.tree.get(name) or {}
        return group

    def option(self, name: str) -> Any:
        """Return the option GROUP.KEY, which earlier versions stored as KEY without a group; None if unset."""
        group, _, key = name.partition(".")
        return self.group(group).get(key) or self.tree.get(key)
