"""Options that a dataset was made with, as its `config.yaml` holds them: grouped, or flat as of earlier versions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medvit.artifacts import CONFIG
from medvit.config import Tree, read_yaml


@dataclass(frozen=True)
class MadeWith:
    """Options that ingest or merge made a dataset with."""

    tree: Tree

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the options of a dataset folder.

        Raises:
            ConfigError: If it holds none.
        """
        return cls(read_yaml(folder / CONFIG))

    def group(self, name: str) -> Tree:
        """Return a group of options; empty if the dataset has none of that name."""
        group: Tree = self.tree.get(name) or {}
        return group

    def option(self, name: str) -> Any:
        """Return the option GROUP.KEY, which earlier versions stored as KEY alone; None if unset."""
        group, _, key = name.partition(".")
        return self.group(group).get(key) or self.tree.get(key)
