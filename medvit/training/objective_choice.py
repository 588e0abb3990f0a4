"""Objective of a pretraining run: the given one, else the one that trained the initial weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from medvit.artifacts import CONFIG, Checkpoint
from medvit.config import Config, Tree, read_yaml
from medvit.errors import ConfigError
from medvit.objectives import ObjectiveChoice, ObjectiveConfig
from medvit.weights.names import objective_of

log = logging.getLogger("medvit")

DEFAULT = "mae"
"""Default objective: for pretraining from scratch, and for weights whose objective is unknown."""
OF_ONE_RUN: Mapping[str, tuple[str, ...]] = {
    "": ("momentum", "center_momentum", "prototypes"),
    "head": ("prototypes", "weights"),
    "projector": ("weights",),
}
"""Option group -> options that depend on the data and the length of one run; they are not passed on to the next run."""
SIZES: Mapping[str, tuple[str, ...]] = {"views": ("size", "local_size"), "other_views": ("size", "local_size")}
"""Option group -> options of crop sizes, which may suit only the images of one run."""


class _Recorded(Config):
    objective: ObjectiveChoice


def choose_objective(
    given: ObjectiveConfig | None, checkpoint: Checkpoint | None, weights: str | None, *, keeps_size: bool
) -> ObjectiveConfig:
    """Return the objective of a pretraining run.

    The given objective comes first, then the one of the checkpoint, then the one that trained the public weights, then
    the default. The choice is logged. With `keeps_size`, an objective from a checkpoint keeps its crop sizes. If
    weights that were trained with a teacher are given an objective without a teacher, a warning is logged.
    """
    if checkpoint is not None:
        known, source = recorded_objective(checkpoint.folder), str(checkpoint.folder)
    else:
        known, source = _of_weights(weights), f"the name of {weights}"
    if given is not None:
        if known is not None and known.HAS_TEACHER and not given.HAS_TEACHER:
            log.warning(
                "objective=%s, which has no teacher, may degrade the features of weights that %s trained; leave "
                "objective unset to continue with %s",
                given.name,
                known.name,
                known.name,
            )
        return given
    if known is None:
        log.info("Objective: %s, the default", DEFAULT)
        return find_objective({"name": DEFAULT})
    log.info("Objective: %s, according to %s", known.name, source)
    return _for_next_run(known, keeps_size=keeps_size)


def recorded_objective(folder: Path) -> ObjectiveConfig | None:
    """Return the objective in the config of a checkpoint.

    The result is None if the checkpoint is not one of pretraining, or if its config is missing.
    """
    path = folder / CONFIG
    tree = read_yaml(path).get("objective") if path.is_file() else None
    if tree is None:
        return None
    try:
        return _Recorded.parse_saved({"objective": tree}, source=str(path)).objective
    except ConfigError as error:
        log.warning("the objective of the checkpoint cannot be read and is not continued: %s", error)
        return None


def find_objective(tree: Tree) -> ObjectiveConfig:
    """Return the objective that a tree of plain values describes."""
    return _Recorded.parse({"objective": tree}).objective


def _of_weights(weights: str | None) -> ObjectiveConfig | None:
    name = None if weights is None else objective_of(weights)
    return None if name is None else find_objective({"name": name})


def _for_next_run(objective: ObjectiveConfig, *, keeps_size: bool) -> ObjectiveConfig:
    """Return the options of an objective without those that were meant only for the earlier run.

    Crop sizes are also removed, unless `keeps_size` is set.
    """
    tree = objective.tree()
    for group, keys in (OF_ONE_RUN if keeps_size else {**OF_ONE_RUN, **SIZES}).items():
        options: Tree = tree.get(group, {}) if group else tree
        for key in keys:
            options.pop(key, None)
    return find_objective(tree)
