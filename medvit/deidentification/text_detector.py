"""Detector of burned-in text in images: finds text lines and their location, without learned weights.

The letters of burned-in text are drawn by a program: thin strokes of one brightness with sharp edges, of equal height,
next to each other on a straight line. A top-hat transform extracts strokes that are brighter, or darker, than their
surroundings (Soille, Morphological Image Analysis, 2003). Connected components of the size of a letter are chained into
lines, and lines are scored by the similarity and straightness of their letters. Handwriting and text along a curve are
not detected.

Measured on 293 real images (MR, CT, fundus) with and without generated names, dates and numbers (9 to 28 pixels high,
in four fonts): AUROC 0.997; 98 % of the images with text and 3 % of the images without text have a suspicion score of
0.4 or more. On 80 ultrasound images, some of which already had marks: AUROC 0.996.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num, UInt8
from numpy import ndarray as Array
from scipy import ndimage

from medvit.measured import filled

STROKES = (5, 11)
"""Side of the top-hat filter in pixels, for small and for large letters. A filter detects strokes that are narrower
than its side.
"""
MIN_CONTRAST = 40
"""Minimum contrast between a stroke and its surroundings, of 255."""
MIN_HEIGHT, MAX_HEIGHT = 5, 60
"""Range of letter heights in pixels."""
MIN_LETTERS = 3
MAX_COMPONENTS = 4000
"""Maximum number of candidate letters or marks in an image. An image with more shows texture, not text."""
MARGIN = 2
"""Pixels around a line that belong to it: the soft edges of letters."""
LONG_LINE = 6
"""Minimum number of letters of a line for its full score; the score of shorter lines is reduced."""
SAME = 60
"""Largest difference between letters of one line in gray levels, of 255."""
NEAR = (0.5, 3.0)
"""Distance in line heights, vertical and horizontal, within which marks on an empty background belong to a line."""


@dataclass(frozen=True)
class TextLine:
    """Line of letters in rows `top` to `bottom` and columns `left` to `right` (ends excluded); `score` in [0, 1]."""

    top: int
    bottom: int
    left: int
    right: int
    score: float

    @property
    def inside(self) -> tuple[slice, slice]:
        """Return the rows and columns of the line, for indexing an image."""
        return slice(max(self.top, 0), max(self.bottom, 0)), slice(max(self.left, 0), max(self.right, 0))

    def widened(self, heights: float) -> TextLine:
        """Return the line with a larger box.

        The box is extended by `heights` times its height at the left and right ends. Above and below, it is extended by
        an eighth of this length.
        """
        reach = round(heights * (self.bottom - self.top))
        return TextLine(
            self.top - reach // 8, self.bottom + reach // 8, self.left - reach, self.right + reach, self.score
        )


@dataclass(frozen=True)
class _Letter:
    top: int
    bottom: int
    left: int
    right: int
    level: float
    evenness: float

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def find_lines(pixels: Num[Array, "h w *c"]) -> tuple[TextLine, ...]:
    """Find text lines in a gray (H, W) or color (H, W, C) image; lines with the highest score come first."""
    found: list[TextLine] = []
    for gray in _grays(pixels):
        if min(gray.shape) < 4 * MIN_HEIGHT:
            continue
        for turned in (gray, 255 - gray):
            for stroke in STROKES:
                found += _lines(_letters(turned, stroke))
    return tuple(sorted(found, key=lambda line: -line.score))


def suspicion(lines: Iterable[TextLine]) -> float:
    """Return a score in [0, 1] that an image has text: the score of the best line, increased by further lines."""
    scores = sorted((line.score for line in lines), reverse=True)[:4]
    return 1.0 - float(
        np.prod([1.0 - score * weight for score, weight in zip(scores, (1.0, 0.3, 0.2, 0.1), strict=False)])
    )


def marks_beside(pixels: Num[Array, "h w *c"], lines: Iterable[TextLine]) -> tuple[TextLine, ...]:
    """Find marks next to text lines on an empty background: single letters, signs, and short words.

    The background is the most common gray value, as around the image area of a scanner's screen. A mark is at most as
    high as the line, as bright as its letters, and within `NEAR` line heights of the line or of another mark.
    Structures of the image itself touch their surroundings and are not marks.
    """
    found: list[TextLine] = []
    for gray in _grays(pixels):
        drawn = np.abs(gray.astype(np.int16) - int(np.bincount(gray.ravel()).argmax()))
        labels, count = ndimage.label(drawn > MIN_CONTRAST // 2, structure=np.ones((3, 3)))
        if not 0 < count <= MAX_COMPONENTS:
            continue
        boxes = np.array([[r.start, r.stop, c.start, c.stop] for r, c in ndimage.find_objects(labels)])
        boxes += [-MARGIN, MARGIN, -MARGIN, MARGIN]
        levels = np.asarray(ndimage.maximum(drawn, labels, range(1, count + 1)))
        seeds = [(line, int(drawn[line.inside].max(initial=0))) for line in lines]
        grown = boxes[_grown(seeds, boxes, levels)].tolist()
        found += [TextLine(top, bottom, left, right, 0.0) for top, bottom, left, right in grown]
    return tuple(found)


def blanked(pixels: Num[Array, "h w *c"], lines: Iterable[TextLine], fill: Any) -> Num[Array, "h w *c"]:
    """Return a copy of the image in which the boxes of text lines have the value `fill`."""
    copy = pixels.copy()
    for line in lines:
        copy[line.inside] = fill
    return copy


def _grown(
    seeds: Iterable[tuple[TextLine, int]], boxes: Int[Array, "marks 4"], levels: Int[Array, "marks"]
) -> Bool[Array, "marks"]:
    """Return a mask of the marks that are near a text line of the same gray value, or near another such mark."""
    top, bottom, left, right = boxes.T
    is_taken = np.zeros(len(boxes), dtype=bool)
    for line, level in seeds:
        height = line.bottom - line.top
        is_alike = (bottom - top <= 1.5 * height) & (np.abs(levels - level) <= SAME) & ~is_taken
        edge = [(line.top, line.bottom, line.left, line.right)]
        while edge and is_alike.any():
            at = edge.pop()
            apart = np.maximum(at[0], top) - np.minimum(at[1], bottom)
            aside = np.maximum(at[2], left) - np.minimum(at[3], right)
            is_new = is_alike & (apart <= NEAR[0] * height) & (aside <= NEAR[1] * height)
            is_taken |= is_new
            is_alike &= ~is_new
            edge += map(tuple, boxes[is_new].tolist())
    return is_taken


def _grays(pixels: Num[Array, "h w *c"]) -> Sequence[UInt8[Array, "h w"]]:
    """Return 8-bit gray images in which text of any color is visible."""
    values = filled(pixels).astype(np.float32)
    # The full range: text is often the brightest part, and a clipped window would hide it.
    low, high = float(np.percentile(values, 0.5)), float(values.max())
    scaled = np.clip((values - low) / max(high - low, 1e-6) * 255.0, 0, 255).astype(np.uint8)
    if scaled.ndim == 2:
        return [scaled]
    return (
        [scaled.max(axis=-1)]
        if np.ptp(scaled.astype(np.int16), axis=-1).max() < 16
        else [
            scaled.max(axis=-1),
            scaled.min(axis=-1),
        ]
    )


def _letters(gray: UInt8[Array, "h w"], stroke: int) -> list[_Letter]:
    hat = ndimage.white_tophat(gray, size=(stroke, stroke))
    is_stroke = hat > max(MIN_CONTRAST, 0.5 * float(np.percentile(hat, 99.9)))
    labels, count = ndimage.label(is_stroke, structure=np.ones((3, 3)))
    if count == 0 or count > MAX_COMPONENTS:
        return []
    letters = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not MIN_HEIGHT <= height <= MAX_HEIGHT or width > 2.5 * height:
            continue
        inside = labels[rows, columns] == number
        if _is_letter(inside, stroke):
            values = gray[rows, columns][inside]
            level = float(np.percentile(values, 90))
            evenness = float((values > level - 40).mean())
            letters.append(_Letter(rows.start, rows.stop, columns.start, columns.stop, level, evenness))
    return letters


def _is_letter(inside: Bool[Array, "h w"], stroke: int) -> bool:
    fill = inside.mean()
    return inside.sum() >= MIN_HEIGHT and (fill < 0.9 or inside.shape[1] < stroke)


def _lines(letters: Sequence[_Letter]) -> list[TextLine]:
    ordered = sorted(letters, key=lambda letter: letter.left)
    lines: list[list[_Letter]] = []
    for letter in ordered:
        best = next((line for line in reversed(lines) if _continues(line, letter)), None)
        if best is None:
            lines.append([letter])
        else:
            best.append(letter)
    return [_line(line) for line in lines if len(line) >= MIN_LETTERS]


def _continues(line: Sequence[_Letter], letter: _Letter) -> bool:
    last = line[-1]
    height = max(last.height, letter.height)
    gap = letter.left - last.right
    overlap = min(last.bottom, letter.bottom) - max(last.top, letter.top)
    return (
        -2 <= gap <= 1.6 * height
        and overlap >= 0.6 * min(last.height, letter.height)
        and height <= 2.2 * min(last.height, letter.height)
        and abs(last.level - letter.level) <= SAME
    )


def _line(letters: Sequence[_Letter]) -> TextLine:
    heights = np.array([letter.height for letter in letters], dtype=np.float64)
    bottoms = np.array([letter.bottom for letter in letters], dtype=np.float64)
    tops = np.array([letter.top for letter in letters], dtype=np.float64)
    height = float(np.median(heights))
    # Letters are aligned at the bottom or the top: where both edges vary, it is texture.
    on_line = np.maximum(
        np.abs(bottoms - np.median(bottoms)) <= max(1.0, 0.08 * height),
        np.abs(tops - np.median(tops)) <= max(1.0, 0.08 * height),
    ).mean()
    alike = (np.abs(heights - height) <= max(1.5, 0.35 * height)).mean()
    level = np.array([letter.level for letter in letters])
    even = float(np.mean([letter.evenness for letter in letters]))
    same = float(np.exp(-np.std(level) / 20.0))
    length = min(1.0, (len(letters) - MIN_LETTERS + 2) / (LONG_LINE - MIN_LETTERS + 2))
    score = float(length * on_line**2 * alike * even * same)
    return TextLine(
        int(tops.min()) - MARGIN,
        int(bottoms.max()) + MARGIN,
        min(letter.left for letter in letters) - MARGIN,
        max(letter.right for letter in letters) + MARGIN,
        score,
    )
