"""Page and JSON of a comparison of two sets of images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from medvit.document import Document, Section, Table
from medvit.drift.comparison import DriftResult
from medvit.drift.permutations import LEVEL, PERMUTATIONS, Shift
from medvit.files.atomic import write_text

HTML, JSON = "drift.html", "drift.json"
MEANING = (
    "An effect is the difference of the means (b - a) in standard deviations, over patients. The spread of a variable "
    f"is its squared distance from the mean. P-values are from {PERMUTATIONS} permutations of the patients, adjusted "
    f"for all variables together; the chance of any false alarm is {LEVEL:.0%}. A difference need not harm a model, "
    "and the absence of an alarm does not show that the sets are equal."
)


def shift_table(shifts: tuple[Shift, ...]) -> Table:
    """Return shifts as a table."""
    lines = [[one.name, one.group, f"{one.effect:+.2f}", f"{one.p:.4f}", "alarm" * one.is_alarm] for one in shifts]
    return Table(["variable", "group", "effect, b - a", "adjusted p", ""], lines)


def write_drift(folder: Path, found: DriftResult, names: tuple[str, str]) -> None:
    """Write `drift.json` and `drift.html` into a folder; `names` are those of the sets a and b."""
    outside = found.outside
    tree = {
        "sets": dict(zip("ab", names, strict=True)),
        "patients": dict(zip("ab", found.num_patients, strict=True)),
        "is_alarm": bool(found.alarms),
        "level": LEVEL,
        "shifts": [{**asdict(one), "is_alarm": one.is_alarm} for one in found.shifts],
        "outside": None if outside is None else asdict(outside),
        "notes": list(found.notes),
    }
    write_text(folder / JSON, json.dumps(tree, indent=2) + "\n")
    number = len(found.alarms)
    verdict = f"{number} of {len(found.shifts)} variables differ." if number else "No variable differs."
    counts = f"a: {names[0]}, {found.num_patients[0]} patients. b: {names[1]}, {found.num_patients[1]} patients."
    sections = [Section("Variables", [counts, shift_table(found.shifts), MEANING])]
    if outside is not None:
        sections.append(
            Section(
                "Distance from the training images of a",
                [
                    f"{outside.share:.1%} of the images of b are farther from the training images of a than 95 % of "
                    f"the validation images of a are (Mahalanobis distance above {outside.threshold:.2f}). The AUROC "
                    f"of the distance, b against the validation images of a, is {outside.auroc:.3f}; it is 0.5 if the "
                    "images of b are like these."
                ],
            )
        )
    sections += [Section("Notes", list(found.notes))] if found.notes else []
    Document("Drift", verdict, sections, "warning" if number else "plain").write_html(folder / HTML)
