"""Table of several finished curves, with p-values corrected over all of their tasks.

A curve corrects the p-values of its own comparisons. If several tasks were tried, such as several labels or datasets, a
small p-value occurs by chance more often, so the correction must cover the comparisons of all tasks:

    python -m medvit.curves.tasks runs/curve-a runs/curve-b
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from medvit.curves.results import CurvePoint, is_better, with_gains
from medvit.errors import DataError, MedvitError

FILE = "curve.json"
HEAD = ("curve", "labeled patients", "arm", "method", "difference", "p", "p corrected over all", "gain")


def over_tasks(folders: Sequence[Path]) -> list[tuple[Path, CurvePoint]]:
    """Return the tested effects of finished curves, each with its curve; p-values are corrected over all these effects.

    Raises:
        DataError: If a folder is not a finished curve of this version, or is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("a curve is given twice; give each once, because the correction counts its comparisons")
    found = [(folder, point) for folder in folders for point in _points(folder) if point.is_tested]
    corrected = with_gains([point for _, point in found])
    return [(folder, point) for (folder, _), point in zip(found, corrected, strict=True)]


def markdown(found: Sequence[tuple[Path, CurvePoint]]) -> str:
    """Return the effects of several curves as a Markdown table."""
    lines = [HEAD, ["---"] * len(HEAD)]
    for folder, point in found:
        assert point.effect is not None
        effect = point.effect
        lines.append(
            [
                folder.name,
                str(point.num_patients),
                point.arm,
                point.way,
                f"{effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}]",
                f"{effect.p:.4f}",
                f"{point.corrected_p:.4f}",
                "yes" if point.is_gain else point.obstacle if is_better(point) else "",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _points(folder: Path) -> list[CurvePoint]:
    path = folder / FILE
    if not path.is_file():
        raise DataError(f"{folder} is not a finished curve: no {FILE} in it; give the output of medvit curve")
    try:
        return [CurvePoint.of(tree) for tree in json.loads(path.read_text(encoding="utf-8"))]
    except (TypeError, KeyError, ValueError):
        raise DataError(f"{path} is damaged or of another version; draw the curve again") from None


def main(arguments: Sequence[str]) -> int:
    """Print the table of the given curves; return the exit status."""
    if not arguments:
        print("usage: python -m medvit.curves.tasks FOLDER ...", file=sys.stderr)  # noqa: T201 (a command of its own)
        return 2
    try:
        print(markdown(over_tasks([Path(argument) for argument in arguments])))  # noqa: T201
    except MedvitError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
