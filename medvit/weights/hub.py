"""Public weights into a transformer: from a local file, or from the hub where a model of it is named."""

from __future__ import annotations

import difflib
import logging

import timm
from torch import nn

from medvit.errors import CheckpointError
from medvit.weights import Fit, load_weights, read_weights
from medvit.weights.layouts import StateDict

log = logging.getLogger("medvit")

HUB = "hub:"


def load_public(model: nn.Module, grid: tuple[int, ...], weights: str) -> Fit:
    """How the public weights of a file or, by `hub:NAME`, of a timm model fit; what will not be as published is told.

    Raises:
        CheckpointError: If there are none, or they do not fit.
    """
    name = weights.removeprefix(HUB)
    state = _downloaded(name) if weights.startswith(HUB) else read_weights(weights)
    fit = load_weights(model, state, grid=grid, source=weights)
    if fit.advice:
        log.warning("%s; its features will not be those it was trained for: %s", fit.summary, ", ".join(fit.advice))
    return fit


def _downloaded(name: str) -> StateDict:
    """The one place where medvit downloads, and only because the user named a model of the hub."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*vit*"), n=3)
        raise CheckpointError(f"timm knows no model named {name!r}; nearest are {', '.join(close) or 'none'}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file on the hub, no public weights
        raise CheckpointError(
            f"{HUB}{name} could not be downloaded ({type(error).__name__}); give the path of a local file instead"
        ) from None
