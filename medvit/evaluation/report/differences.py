"""Section of a report with the differences from another model, their tests, and the number of patients needed."""

from __future__ import annotations

from collections.abc import Mapping

from medvit.document import Bullets, Section, Table
from medvit.metrics import metric_title
from medvit.statistics.differences import POWER, SMALL, TESTS, Difference, tests_of

HEAD = ("metric", "this - other [95 % interval]", "p", "p, corrected", "test", f"patients for {SMALL}")


def difference_section(differences: Mapping[str, Difference], positive: str) -> Section:
    """Return a section with a table of all differences and an explanation of its columns."""
    lines = [_line(metric_title(key, positive), one) for key, one in differences.items()]
    return Section("Difference from the other report", [Table(HEAD, lines), Bullets(_explanation(differences))])


def _line(title: str, one: Difference) -> list[str]:
    needed = "" if one.num_patients_needed is None else f"{one.num_patients_needed:,}"
    return [title, one.text, one.p_text, one.p_corrected_text, one.test, needed]


def _explanation(differences: Mapping[str, Difference]) -> list[str]:
    num_tests = len(tests_of(differences))
    used = dict.fromkeys(one.test for one in differences.values() if one.test)
    found = [
        "p: if both models were equally good, the probability of a difference at least as large as this one. Below "
        "0.05, a difference is commonly called significant.",
        f"p, corrected: for the {num_tests} metrics compared (Holm, Scandinavian Journal of Statistics 1979), because "
        "with many metrics, one of them falls below 0.05 by chance. Cite this one, unless a single metric was chosen "
        "before the comparison.",
        *(f"Test {TESTS[name]}." for name in used),
    ]
    if any(one.num_patients_needed is not None for one in differences.values()):
        found.append(
            f"patients for {SMALL}: if one model were truly better by {SMALL}, the number of patients like these at "
            f"which a comparison would find a significant difference with a probability of {100 * POWER:.0f} %. It is "
            "estimated from how much the difference varies between the patients of this comparison."
        )
    return found
