"""Methods that compute the dependence of an output on each tile of a slide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor

from medvit.errors import ConfigError
from medvit.explanations.methods import DescribedMethod, MethodOptions
from medvit.explanations.slides.bags import TileBag, bag_score
from medvit.heads import BagHead
from medvit.heads.mean_pool import MeanHead
from medvit.models.slide import CHUNK


@dataclass(frozen=True)
class TilePlaces:
    """Upper left corners (N, 2) of tiles as x and y in pixels of level 0, the side of a tile, and (H, W) of the slide.

    They are needed to hide neighboring tiles together.
    """

    xy: Int[Array, "n 2"]
    side: float
    shape: tuple[int, int]


TileFunction = Callable[[Sequence[BagHead], TileBag, int, TilePlaces, MethodOptions], Tensor]


@dataclass(frozen=True)
class SlideMethod(DescribedMethod):
    """Method of explanation of the prediction for a slide."""

    values_of: TileFunction
    """Function from the heads, the bag, the index of the class, the places of the tiles and the options to the values
    (N,) of the tiles.
    """


@torch.no_grad()
def tile_attention(
    heads: Sequence[BagHead], bag: TileBag, index: int, places: TilePlaces, options: MethodOptions
) -> Float[Tensor, "n"]:
    """Return the mean of all attention maps over the heads; it sums to 1 and is the same for every class."""
    return torch.cat([head.stream(bag, CHUNK).attention[0].float() for head in heads]).mean(dim=0).cpu()


def input_x_gradient(
    heads: Sequence[BagHead], bag: TileBag, index: int, places: TilePlaces, options: MethodOptions
) -> Float[Tensor, "n"]:
    """Return the sum over the embedding of each tile times the gradient of the output, computed by Captum."""
    from captum.attr import InputXGradient

    def score_of(tiles: Float[Tensor, "1 n d"]) -> Float[Tensor, "1"]:
        return bag_score(heads, TileBag(tiles[0]), index)

    found = InputXGradient(score_of).attribute(bag.tiles.detach().clone()[None].requires_grad_())
    assert isinstance(found, Tensor)
    return found[0].sum(dim=-1).detach().float().cpu()


@torch.no_grad()
def leave_tiles_out(
    heads: Sequence[BagHead], bag: TileBag, index: int, places: TilePlaces, options: MethodOptions
) -> Float[Tensor, "n"]:
    """Return the mean fall of the output over all areas that contain the center of a tile, without their tiles.

    An area is a square whose side is a share of the longer side of the slide (`options.window`), but at least one tile.
    An area that contains all tiles is skipped.
    """
    whole = bag_score(heads, bag, index)
    total, count = torch.zeros(len(bag)), torch.zeros(len(bag))
    for inside in hidden_areas(places, options.window):
        hidden = torch.from_numpy(inside)
        if bool(hidden.all()):
            continue
        fall = whole - bag_score(heads, bag.only(torch.nonzero(~hidden)[:, 0]), index)
        total[hidden] += float(fall)
        count[hidden] += 1.0
    return total / count.clamp(min=1.0)


def hidden_areas(places: TilePlaces, window: float) -> list[Bool[Array, "n"]]:
    """Return which tiles are in each of the square areas that are hidden: those whose center is in the area.

    Areas overlap by half of their side. Areas with the same tiles are returned once. If an area is not larger than a
    tile, each tile is hidden alone.
    """
    side = window * max(places.shape)
    if side <= places.side:
        return list(np.eye(len(places.xy), dtype=bool))
    centers, (height, width) = places.xy + places.side / 2.0, places.shape
    found: dict[bytes, Bool[Array, n]] = {}
    for top in np.arange(-side / 2.0, height, side / 2.0):
        for left in np.arange(-side / 2.0, width, side / 2.0):
            corner = np.array([left, top])
            inside = np.asarray(((centers >= corner) & (centers < corner + side)).all(axis=1))
            if inside.any():
                found.setdefault(inside.tobytes(), inside)
    return list(found.values())


METHODS = (
    SlideMethod(
        name="attention",
        title="Attention of the head",
        meaning="Weight of each tile in the pooled feature from which the head computes its outputs; the weights of "
        "all tiles add up to 1.",
        not_shown="It shows which tiles are pooled, not whether they are evidence for or against the class: the map is "
        "the same for all classes.",
        is_signed=False,
        values_of=tile_attention,
    ),
    SlideMethod(
        name="input_x_gradient",
        title="Gradient times input",
        meaning="Embedding of each tile times the gradient of the output: a linear estimate of the contribution of the "
        "tile; negative values are evidence against the class.",
        not_shown="It is exact only for a linear model. It is relative to an embedding of zeros, which no tile has. "
        "It says nothing about where in a tile the evidence is.",
        is_signed=True,
        values_of=input_x_gradient,
    ),
    SlideMethod(
        name="occlusion",
        title="Occlusion by leaving tiles out",
        meaning="Fall of the output when the model gets the slide without the tiles of an area; negative values are "
        "areas whose absence raises the output.",
        not_shown="It shows the effect of leaving out one area at a time: if several areas show the same finding, each "
        "of them gets little.",
        is_signed=True,
        values_of=leave_tiles_out,
    ),
)
"""Methods for models of slides, sorted by name."""


def slide_method_of(name: str, heads: Sequence[BagHead]) -> SlideMethod:
    """Return the method of a name; `auto` is attention, or occlusion if the head does not weight tiles.

    Raises:
        ConfigError: If there is no such method for slides, or it does not apply to the head.
    """
    known = {one.name: one for one in METHODS}
    is_uniform = any(isinstance(head, MeanHead) for head in heads)
    if name == "auto":
        return known["occlusion" if is_uniform else "attention"]
    if name not in known:
        raise ConfigError(f"method={name} is not a method for models of slides; known are auto, {', '.join(known)}")
    if name == "attention" and is_uniform:
        raise ConfigError(
            "method=attention: the head mean gives all tiles the same weight; give method=occlusion or "
            "method=input_x_gradient"
        )
    return known[name]
