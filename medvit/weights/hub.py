"""Loading of public weights into a transformer, from a local file or from the hub by model name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path

import timm
from torch import nn

from medvit.config import read_yaml
from medvit.errors import CheckpointError
from medvit.weights import Fit, load_weights, read_weights
from medvit.weights.layouts import StateDict

log = logging.getLogger("medvit")

HUB = "hub:"


def load_public(model: nn.Module, grid: tuple[int, ...], weights: str, file_grid: tuple[int, ...] | None = None) -> Fit:
    """Load public weights from a file or, for `hub:NAME`, from a timm model; return a report, and log mismatches.

    `file_grid` is the grid of learned positions in the file. If unset, the grid of the timm model is used or, for a
    file, the grid in the `model.yaml` next to it, if there is one.

    Raises:
        CheckpointError: If the weights do not exist, or do not match the transformer.
    """
    name = weights.removeprefix(HUB)
    if weights.startswith(HUB):
        state, described = _downloaded(name)
    else:
        state, described = read_weights(weights), _described_grid(Path(weights).parent / "model.yaml")
    fit = load_weights(model, state, grid=grid, source=weights, file_grid=file_grid or described)
    if fit.advice:
        log.warning(
            "%s; the features will differ from those of the public model unless you set: %s",
            fit.summary,
            ", ".join(fit.advice),
        )
    return fit


def _described_grid(path: Path) -> tuple[int, ...] | None:
    """Return the grid of learned positions in the `model.yaml` next to a weights file; None if it is not stated."""
    if not path.is_file():
        return None
    backbone = read_yaml(path).get("backbone")
    if not isinstance(backbone, Mapping) or backbone.get("positions") != "learned":
        return None
    ndim = backbone.get("ndim") or 3
    sides = (backbone.get("image_size") or 224, backbone.get("patch_size") or (16 if ndim == 2 else 8))
    images, patches = ([side] * ndim if isinstance(side, int) else side for side in sides)
    return tuple(image // patch for image, patch in zip(images, patches, strict=True))


def _downloaded(name: str) -> tuple[StateDict, tuple[int, ...] | None]:
    """Download a model that the user names; medvit downloads nothing anywhere else."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models("*vit*"), n=3)
        raise CheckpointError(f"timm has no model named {name!r}; nearest are {', '.join(close) or 'none'}")
    try:
        model = timm.create_model(name, pretrained=True)
        return model.state_dict(), getattr(getattr(model, "patch_embed", None), "grid_size", None)
    except (OSError, RuntimeError, ValueError) as error:  # no network, no such file on the hub, no public weights
        raise CheckpointError(
            f"{HUB}{name} could not be downloaded ({type(error).__name__}); give the path of a local file instead"
        ) from None
