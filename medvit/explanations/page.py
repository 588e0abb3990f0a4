"""Page of explanations: the maps with their checks and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvit.document import Bullets, Document, Picture, Section, Table
from medvit.explanations.checks import MapChecks
from medvit.explanations.methods import DescribedMethod

SIMILAR = 0.5
"""Correlation with the map of random weights above which a map is reported as nearly independent of the weights."""
COLUMNS = (
    "image",
    "output",
    "value",
    "deletion",
    "deletion, random order",
    "insertion",
    "insertion, random order",
    "correlation with random weights",
)
GENERAL = (
    "A map describes the model, not the disease. It does not show that a marked area is abnormal, nor why the model "
    "uses it, nor that the prediction is right.",
    "A map that agrees with the expectation of a reader is not evidence that the model is right. A map that marks an "
    "area without medical meaning, such as a corner or a label, is a reason to examine the data.",
)


@dataclass(frozen=True)
class ShownExplanation:
    """An explanation of an image, to be listed: name of the image, output, its value, checks, and figure."""

    name: str
    output: str
    value: float
    checks: MapChecks
    picture: Picture
    truth: str = ""

    @property
    def numbers(self) -> tuple[float, ...]:
        """Numbers in the order of `COLUMNS`, after image and output."""
        checks = self.checks
        return (
            self.value,
            checks.deletion,
            checks.deletion_random,
            checks.insertion,
            checks.insertion_random,
            checks.correlation,
        )


def explanations_document(
    title: str,
    facts: Mapping[str, str],
    method: DescribedMethod,
    shown: Sequence[ShownExplanation],
    about_checks: str,
) -> Document:
    """Return the page; `about_checks` explains the columns of the checks."""
    doubts = doubts_about(shown)
    opening = f"{method.title}. {method.meaning} {method.not_shown}"
    return Document(
        title,
        opening,
        [
            Section("Limits of the maps", [Bullets([method.not_shown, *GENERAL])]),
            Section("Checks", [about_checks, Bullets(doubts), checks_table(shown)]),
            *(Section(_heading(one), [[one.picture]]) for one in shown),
        ],
        facts=facts,
    )


ABOUT_CHECKS = (
    "Deletion: mean of the output while the areas with the highest values are replaced by the baseline, one after the "
    "other; lower is better. Insertion: the reverse, from the baseline; higher is better. Random order: the same areas "
    "in a random order. Correlation with random weights: rank correlation of the map with that of the same model after "
    "its weights were permuted; near 1, the map hardly depends on what the model has learned."
)


def doubts_about(shown: Sequence[ShownExplanation]) -> list[str]:
    """Return sentences about the number of maps that pass the checks."""
    informative = sum(one.checks.is_informative for one in shown)
    similar = sum(one.checks.correlation > SIMILAR for one in shown)
    return [
        f"{informative} of {len(shown)} maps are better than a random order in deletion and in insertion.",
        f"{similar} of {len(shown)} maps have a correlation above {SIMILAR} with the map of random weights"
        + ("; these maps hardly depend on the learned weights." if similar else "."),
    ]


def checks_table(shown: Sequence[ShownExplanation]) -> Table:
    """Return the values and checks of all maps."""
    return Table(COLUMNS, [[one.name, one.output, *(f"{number:.3f}" for number in one.numbers)] for one in shown])


def _heading(one: ShownExplanation) -> str:
    truth = f"; labeled {one.truth}" if one.truth else ""
    return f"{one.name}: {one.output} {one.value:.3g}{truth}"
