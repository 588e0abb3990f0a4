"""Findings of an analysis of subgroups, as plain sentences: the largest gap, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import norm

from medvit.attributes import attribute_title
from medvit.evaluation.subgroups import Subgroup, SubgroupAnalysis
from medvit.metrics import is_lower_better, metric_title
from medvit.statistics import Estimate, Z
from medvit.statistics.multiplicity import holm
from medvit.summary import counted

LEVEL = 0.05
"""Level of significance, after correction for the number of comparisons."""


def findings(analysis: SubgroupAnalysis, what: str = "image") -> list[str]:
    """Return sentences on the largest gap, on the number of comparisons, and on small groups.

    `what` is the singular name of the evaluated items.
    """
    compared, small = analysis.compared, [group for group in analysis.groups if group.is_small]
    lines = [largest_gap(analysis, what)] if analysis.groups else []
    if compared:
        by_chance = f"{LEVEL * len(compared):.2g}"
        lines.append(
            f"Number of comparisons: {len(compared)}. Without any true difference, about {by_chance} of their 95 % "
            "intervals would exclude 0 by chance. A gap that is found here is a hypothesis, to be tested on other "
            "patients."
        )
    if small:
        are = "is" if len(small) == 1 else "are"
        reasons = "; ".join(sorted({doubt for group in small for doubt in group.doubts}))
        lines.append(
            f"{len(small)} of {counted(len(analysis.groups), 'group')} (marked *) {are} too small for reliable "
            f"numbers, and listed last: {reasons}."
        )
    if analysis.alike:
        text = ", ".join(f"{attribute_title(name)} ({value})" for name, value in analysis.alike.items())
        lines.append(f"The same in every {what}, and not compared: {text}.")
    return lines


def largest_gap(analysis: SubgroupAnalysis, what: str = "image") -> str:
    """Return a sentence on the group with the largest disadvantage, and whether it may be due to chance."""
    compared, main = analysis.compared, analysis.main
    if not compared:
        return "No group is large enough to be compared with all other images."
    worst = compared[0]
    gap = worst.gaps[main]
    if not is_worse(main, gap.value):
        return f"No group has a worse {metric_title(main)} than all other {what}s."
    sentence = (
        f"Largest gap: {worst}. Its {metric_title(main)} is {worst.metrics[main]} "
        f"({counted(worst.num_items, what)} of {worst.patients}), {abs(gap.value):.3f} "
        f"{'lower' if gap.value < 0 else 'higher'} than that of all other {what}s (gap {gap})."
    )
    adjusted = holm([p_value(group.gaps[main]) for group in compared])[0]
    if adjusted < LEVEL:
        return f"{sentence} The gap remains significant after correction for {_comparisons(compared)} (Holm)."
    if gap.low > 0 or gap.high < 0:
        return f"{sentence} The gap is no longer significant after correction for {_comparisons(compared)} (Holm)."
    return f"{sentence} The interval contains 0: the gap may be due to chance."


def is_worse(key: str, gap: float) -> bool:
    """Return whether a gap is a disadvantage, given the direction of the metric."""
    return gap > 0 if is_lower_better(key) else gap < 0


def p_value(gap: Estimate) -> float:
    """Return the two-sided p-value of a gap from its 95 % interval (Altman and Bland, BMJ 2011)."""
    error = (gap.high - gap.low) / (2 * Z)
    return float(2 * norm.sf(abs(gap.value) / error)) if error > 0 else float(gap.value == 0)


def _comparisons(compared: Sequence[Subgroup]) -> str:
    return counted(len(compared), "comparison")
