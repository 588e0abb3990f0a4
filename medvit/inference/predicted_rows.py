"""Prediction of the images of a dataset, one after the other; an image that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import MedvitError, unexpected
from medvit.progress import with_progress
from medvit.records import Row
from medvit.types import Image, Prediction


def predicted(
    manifest: Manifest, rows: Sequence[Row], predict: Callable[[Image], Prediction], failures: list[str], *, title: str
) -> Iterator[tuple[Row, Image, Prediction]]:
    """Yield each image with its prediction, showing progress; an image that fails adds a line to `failures`."""
    for row in with_progress(rows, total=len(rows), title=title, unit="image"):
        try:
            image = load(manifest, row)
            prediction = predict(image)
        except MedvitError as error:
            failures.append(f"{row}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # a damaged array, an image too large for the device
            failures.append(f"{row}: {unexpected(error)}")
        else:
            yield row, image, prediction
