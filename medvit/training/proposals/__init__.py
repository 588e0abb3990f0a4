"""Proposals: values for unset options of fine-tuning, from the fingerprint of the training images, with their reasons.

A given option is never changed. One module for each subject: `preprocessing`, `crops` (with the levels of a network and
the share of crops on foreground), and `batches` (with the steps). The proposals are logged, shown by `medvit plan`,
and stored in `fingerprint.json` and the model card.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medvit.artifacts import FINGERPRINT
from medvit.config import Config, Tree, to_yaml_flow
from medvit.dataset.fingerprint import Fingerprint, digest_of
from medvit.dataset.manifest import Manifest
from medvit.errors import OutputError
from medvit.files.atomic import write_text

log = logging.getLogger("medvit")

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Proposal:
    """Proposed value of an unset option, and the reason for it, as a clause that can follow "because"."""

    key: str
    value: Any
    """Plain value, as in YAML."""
    reason: str

    @property
    def shown(self) -> str:
        """The value as YAML."""
        return to_yaml_flow(self.value)

    def __str__(self) -> str:
        return f"{self.key}={self.shown}, because {self.reason}"


class Proposals:
    """Proposals for the unset options of a training, in the order in which they are made.

    The fingerprint is measured when it is first needed. `earlier` contains the proposals of an interrupted run in the
    same folder. Of these, the proposals that depend on the machine are used again.
    """

    def __init__(
        self, training: Manifest, measured: Fingerprint | None = None, earlier: Mapping[str, Proposal] | None = None
    ) -> None:
        self._training, self._measured = training, measured
        self.made: list[Proposal] = []
        self.earlier = earlier or {}

    @classmethod
    def of(cls, training: Manifest, folder: Path) -> Proposals:
        """Return an empty collection of proposals for training images; `folder` is the output folder of the run.

        If an interrupted run has stored the fingerprint of these images in the folder, it is not measured again.

        Raises:
            OutputError: If the stored file is damaged.
        """
        path = folder / FINGERPRINT
        tree = _read(path)
        if not tree or tree["fingerprint"]["digest"] != digest_of(training):
            return cls(training)
        earlier = {one["key"]: Proposal(**one) for one in tree["proposals"]}
        return cls(training, Fingerprint.parse_saved(tree["fingerprint"], source=str(path)), earlier)

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the training images."""
        if self._measured is None:
            self._measured = Fingerprint.of(self._training)
        return self._measured

    def add(self, key: str, value: Any, reason: str) -> None:
        """Add a proposal, and log it."""
        proposal = Proposal(key, json.loads(json.dumps(_plain(value))), reason)
        self.made.append(proposal)
        log.info("proposed: %s", proposal)

    def fill(self, key: str, given: ValueT | None, propose: Callable[[], tuple[ValueT, str]]) -> ValueT:
        """Return the given value of an option or, if it is unset, the proposed one, which is added."""
        if given is not None:
            return given
        value, reason = propose()
        self.add(key, value, reason)
        return value

    def fill_number(self, key: str, given: int | None, propose: Callable[[], tuple[int, str]]) -> int:
        """Fill an option that depends on the machine: a resumed run uses the earlier proposal again."""
        before = self.earlier.get(key)
        return self.fill(key, given, propose if before is None else lambda: (int(before.value), before.reason))

    def write(self, folder: Path) -> None:
        """Write `fingerprint.json` into a folder."""
        tree = {"fingerprint": self.fingerprint.tree(), "proposals": [vars(one) for one in self.made]}
        write_text(folder / FINGERPRINT, json.dumps(tree, indent=1) + "\n")

    def describe(self) -> dict[str, str]:
        """Return the proposals as texts for the model card."""
        return {f"proposed {one.key}": f"{one.shown}, because {one.reason}" for one in self.made}

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield the proposals as rows of a table: option, value and reason."""
        yield from ((f"proposed {one.key}", one.shown, one.reason) for one in self.made)


def _read(path: Path) -> Tree:
    if not path.is_file():
        return {}
    try:
        tree: Tree = json.loads(path.read_text(encoding="utf-8"))
        return {"fingerprint": dict(tree["fingerprint"]), "proposals": list(tree["proposals"])}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise OutputError(f"{path} is damaged ({type(error).__name__}); remove it and resume again") from None


def _plain(value: Any) -> Any:
    """Return a value as in YAML; of a group of options, its name and the options that differ from their defaults."""
    if not isinstance(value, Config):
        return value
    tree, changed = value.tree(), value.model_dump(mode="json", exclude_defaults=True)
    named = {key: tree[key] for key in ("name", "method") if key in tree} | changed
    return named["name"] if set(named) == {"name"} else named
