"""Tiles of a slide as GeoJSON (RFC 7946) for QuPath 0.4 and later: in pixels of level 0, with measurements.

QuPath reads a FeatureCollection whose features have an `objectType`, a `classification` of name and color, and
`measurements` by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from medvit.records import Item
from medvit.writers import COLORS, ModelTask, SlideContext
from medvit.writers.slide_maps import SlideFinding

DIGITS = 6
"""Decimals of a measurement."""


def write_geojson(path: Path, finding: SlideFinding) -> None:
    """Write one feature per tile: its square, most probable class, attention, and the probability of each class."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(_features(finding)):
            file.write((",\n" if number else "\n") + json.dumps(feature))
        file.write("\n]}\n")


def _features(finding: SlideFinding) -> Iterator[dict[str, Any]]:
    side, reading = finding.side, finding.reading
    for number, (x, y) in enumerate(finding.grid.xy.tolist()):
        right, bottom = round(x + side, 2), round(y + side, 2)
        label = int(reading.scores[number].argmax())
        measured = {"attention": reading.attention[number]}
        measured |= {f"p({name})": reading.scores[number, n] for n, name in enumerate(finding.classes)}
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE_OID, f"medvit tile {x} {y}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]],
            },
            "properties": {
                "objectType": "tile",
                "classification": {"name": finding.classes[label], "color": list(COLORS[label % len(COLORS)])},
                "measurements": {name: round(float(value), DIGITS) for name, value in measured.items()},
            },
        }


class GeojsonWriter:
    """Writer of `tiles.geojson`."""

    name, title = "geojson", "GeoJSON of the tiles"
    tasks: Sequence[ModelTask] = ("slide",)

    def applies(self, item: Item, prediction: SlideFinding) -> bool:
        """Return True, because the format applies to every slide."""
        return True

    def write(self, context: SlideContext, folder: Path) -> Sequence[str]:
        """Write the tiles."""
        write_geojson(context.path(folder, "tiles", ".geojson"), context.prediction)
        return ()


WRITER = GeojsonWriter()
