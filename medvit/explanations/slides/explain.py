"""Explanation of the prediction for one slide: a value for each tile, with checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor, nn

from medvit.errors import DataError
from medvit.explanations.checks import MapChecks, order_of, random_orders, rank_correlation, with_random_weights
from medvit.explanations.explain import ExplanationOptions
from medvit.explanations.outputs import ExplainedOutput, output_named
from medvit.explanations.slides.bags import TileBag, bag_score
from medvit.explanations.slides.methods import SlideMethod, TilePlaces
from medvit.heads import BagHead
from medvit.inference.slide_predictor import SlidePredictor
from medvit.models.embedding_store import Embeddings
from medvit.models.slide import SlideReading

ABOUT_SLIDE_CHECKS = (
    "Deletion: mean of the probability while tiles are left out, those with the highest values first, until one tile "
    "remains; lower is better. Insertion: the reverse, from one tile; higher is better. Random order: the same in a "
    "random order of the tiles. Correlation with random weights: rank correlation of the map with that of the same "
    "model after the weights of its heads were permuted; near 1, the map hardly depends on what the heads have "
    "learned. This check does not change the embeddings of the tiles."
)


@dataclass(frozen=True)
class SlideExplanation:
    """Value of each tile (N,), the explained class with its probability, checks, and the prediction for the slide."""

    values: Float[Array, "n"]
    output: str
    value: float
    checks: MapChecks
    reading: SlideReading


def explain_slide(
    predictor: SlidePredictor,
    embeddings: Embeddings,
    places: TilePlaces,
    method: SlideMethod,
    options: ExplanationOptions,
    *,
    seed: int = 0,
) -> SlideExplanation:
    """Return the explanation of the prediction for a slide whose tiles are embedded.

    All heads of the model are explained together, since their logits are averaged.

    Raises:
        ConfigError: If the model has no such class.
        DataError: If the slide has a single tile, or a value is not finite.
    """
    if len(embeddings) < 2:
        raise DataError("the slide has a single tile; a map needs at least two")
    reading = predictor.read(embeddings)
    classes = predictor.config.classes
    chosen = options.target or classes[int(reading.probabilities.argmax())]
    output = output_named(chosen, classes, classes)
    bag, heads = TileBag.of(embeddings, predictor.device), predictor.model.heads
    values = method.values_of(heads, bag, output.index, places, options)
    if not bool(values.isfinite().all()):
        raise DataError("the map of the explanation has values that are not finite; check the embeddings of the slide")
    checks = slide_checks(heads, bag, output, values, places, method, options, seed)
    probability = float(reading.probabilities[output.index])
    return SlideExplanation(values.numpy().astype(np.float32), output.name, probability, checks, reading)


def slide_checks(
    heads: Sequence[BagHead],
    bag: TileBag,
    output: ExplainedOutput,
    values: Float[Tensor, "n"],
    places: TilePlaces,
    method: SlideMethod,
    options: ExplanationOptions,
    seed: int,
) -> MapChecks:
    """Return deletion and insertion of the tiles by their values and in random orders, and the check of the weights."""
    own = deletion_and_insertion_of_tiles(heads, bag, output, order_of(values), steps=options.check_steps)
    others = [
        deletion_and_insertion_of_tiles(heads, bag, output, order, steps=options.check_steps)
        for order in random_orders(len(bag), options.random_orders, seed)
    ]
    random = [head for head in with_random_weights(nn.ModuleList(heads), seed).children() if isinstance(head, BagHead)]
    return MapChecks(
        deletion=own[0],
        deletion_random=float(np.mean([deletion for deletion, _ in others])),
        insertion=own[1],
        insertion_random=float(np.mean([insertion for _, insertion in others])),
        correlation=rank_correlation(values, method.values_of(random, bag, output.index, places, options)),
    )


@torch.no_grad()
def deletion_and_insertion_of_tiles(
    heads: Sequence[BagHead], bag: TileBag, output: ExplainedOutput, order: Int[Array, "n"], *, steps: int
) -> tuple[float, float]:
    """Return the mean probability while tiles are left out, and while they are inserted, in an order of tiles.

    Both means include the slide with all tiles and with a single tile.
    """
    edges = np.linspace(1, len(order), steps + 1).round().astype(int)
    ranked = torch.from_numpy(order)

    def mean_of(bags: Iterator[TileBag]) -> float:
        scores = [bag_score(heads, one, output.index).sigmoid() for one in bags]
        return float(torch.cat(scores).double().mean())

    deleted = mean_of(bag.only(ranked[len(order) - edge :]) for edge in edges.tolist())
    inserted = mean_of(bag.only(ranked[:edge]) for edge in edges.tolist())
    return deleted, inserted
