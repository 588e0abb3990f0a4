"""Meaning of label-map values, decided over all label maps of a source; ambiguous values are refused.

The user may name the values as classes (`labeling.mask_classes={0: background, 128: border, 255: lesion}`), ignore
values (`labeling.mask_ignore=[255]`), or declare them as instance numbers of one class
(`labeling.mask_values=instances`). Without these options, these rules apply:

- If the only values are 0 and 255, or 0 and 65535, they are the background and one class.
- If there are few values, as far apart as gray levels (0, 128 and 255), each is a class named by its value. Such values
  are refused if all pixels of one of them touch both a lower and a higher value: the value may be an edge made by
  smoothing or downscaling, or a border class, which only a person can decide.
- Other values are class numbers. They are refused as the smoothed map of one class if most of the foreground has the
  highest value, and the pixels of at least three other values touch both lower and higher values.
- 255 or 65535 together with small numbers is refused, since it may mean "not labeled".
- Many values near 0 and 255 are refused, since they are edges of images that were smoothed or lossily compressed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.records import IGNORED

log = logging.getLogger("medvit")

MaskValues = Literal["classes", "instances"]
"""Meaning of label-map values above 0: classes, or instances that all belong to one class."""
MaskClasses = dict[int, str] | tuple[str, ...]
"""Names of classes by the value in label maps, or of the values 0, 1, 2..."""

BACKGROUND = "background"
WHITES = (255, 65535)
"""Largest values of 8 and 16 bits: white in a picture."""
LEAST_GRAY = 64
"""Minimum of the highest value in label maps whose values are taken as gray levels: class numbers rarely reach it."""
MAX_LEVELS = 16
"""Maximum number of gray levels that are taken as classes."""
MAX_CLASSES = 256
"""Maximum number of different values that are taken as classes; more are instance numbers."""
EDGE = 32
"""Maximum distance from black or white of most gray levels that smoothing and lossy compression produce."""
MIN_INSTANCES, MIN_COUNTS = 8, 3
"""Values look like instance numbers if one label map has at least `MIN_INSTANCES` consecutive values from 1, and if the
highest values of all label maps are at least `MIN_COUNTS` different ones.
"""
BETWEEN = 0.9
"""Share of the pixels of a gray level that touch both lower and higher values, from which the level may be an edge."""
_BETWEEN = " between"
MIN_SMOOTHED = 3
"""Minimum number of values between background and the highest value for which label maps are refused as smoothed; with
fewer, they may be classes.
"""
SHADES = 0.125
"""Values that differ from 0 or from the highest value by less than this share of it count as equal to it: lossy
compression changes uniform areas by less.
"""
MAX_SEARCHED, NUM_SLABS = 2**22, 5
"""Label maps with more voxels around their foreground are searched for edges in this many evenly spaced slabs."""
SHOWN_VALUES = 12


@dataclass(frozen=True)
class MaskCounts:
    """Pixel counts of label maps.

    `values` has the number of pixels of each value. `between` has, for each value, how many of its pixels touch both a
    lower and a higher value.
    """

    values: Mapping[int, int]
    between: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of_texts(cls, counts: Mapping[str, int]) -> Self:
        """Return the counts from the output of `as_texts`."""
        values = {int(text): number for text, number in counts.items() if not text.endswith(_BETWEEN)}
        between = {int(t.removesuffix(_BETWEEN)): number for t, number in counts.items() if t.endswith(_BETWEEN)}
        return cls(values, between)

    def as_texts(self) -> dict[str, int]:
        """Return the counts as texts, for JSON."""
        values = {str(value): number for value, number in self.values.items()}
        return values | {f"{value}{_BETWEEN}": number for value, number in self.between.items()}


@dataclass(frozen=True)
class MaskMeaning:
    """Class of each label-map value.

    `classes` are (value, class number) pairs; it is None if every value is its class number. The values in `ignored`
    are not classes. If `are_instances`, all values above 0 are instances of one class.
    """

    classes: tuple[tuple[int, int], ...] | None = None
    names: tuple[str, ...] = ()
    """Names of the classes; empty if they have none."""
    ignored: tuple[int, ...] = ()
    are_instances: bool = False

    def option(self, names: Sequence[str]) -> MaskClasses:
        """Return the option `mask_classes` that assigns this meaning to classes with these names."""
        if self.classes is None or not names:
            return tuple(names)
        return {value: names[index] for value, index in self.classes}

    def of(self, labels: Int[Array, "*s"]) -> Int[Array, "*s"]:
        """Return a label map of class numbers, with `IGNORED` for ignored pixels.

        Raises:
            DataError: If the label map contains a value that is not a class.
        """
        counts = _pixels(labels)
        there = counts.keys() - set(self.ignored)
        classes = {value: self._class(value) for value in sorted(there)} | dict.fromkeys(self.ignored, IGNORED)
        if all(classes[value] == value for value in counts):
            return labels
        changed = np.zeros(labels.shape, dtype=np.min_scalar_type(max(classes.values())))
        for value in counts:
            changed[labels == value] = classes[value]
        return changed

    def require_annotated(self, labels: Int[Array, "*s"], annotated: Sequence[str] | None) -> None:
        """Check that a label map of class numbers contains only background, ignored pixels and annotated classes.

        Raises:
            DataError: If it contains another class.
        """
        if annotated is None:
            return
        others = {0, IGNORED} if self.ignored else {0}
        for value in sorted(_pixels(labels).keys() - others):
            if self.names[value] not in annotated:
                raise DataError(
                    f"the label map contains the class {self.names[value]}, but its annotated classes are "
                    f"{', '.join(annotated)}; correct labeling.annotated or the label map"
                )

    def _class(self, value: int) -> int:
        if value < 0:
            raise DataError(f"the label map contains the value {value}; expected class numbers from 0 upwards")
        if self.are_instances:
            return min(value, 1)
        if self.classes is not None:
            known = dict(self.classes)
            if value not in known:
                raise DataError(
                    f"the label map contains the value {value}; expected {_listed(known)}: name it in "
                    "labeling.mask_classes or labeling.mask_ignore"
                )
            return known[value]
        if self.names and value >= len(self.names):
            raise DataError(
                f"the label map contains the value {value}; labeling.mask_classes names {len(self.names)} classes, "
                f"expected 0 to {len(self.names) - 1}: a mapping names values, as "
                f"labeling.mask_classes={{0: background, {value}: lesion}}"
            )
        return value


def counted(labels: Int[Array, "*s"]) -> MaskCounts:
    """Count the pixels of each value in a label map, and those of them that are between other values.

    A pixel is between other values if it touches (also at a corner) both a lower and a higher value. Such pixels are
    counted only if the values may be gray levels or edges of smoothing.
    """
    values = _pixels(labels)
    is_gray = 3 <= len(values) <= MAX_LEVELS and max(values) >= LEAST_GRAY
    if not is_gray and len(values) < MIN_SMOOTHED + 2:
        return MaskCounts(values)
    return MaskCounts(values, _between(_foreground(labels)))


def _foreground(labels: Int[Array, "*s"]) -> Int[Array, "*t"]:
    """Return the bounding box of all values except the lowest, with a margin of one voxel."""
    is_there = labels > labels.min()
    for axis in range(labels.ndim):
        (places,) = np.nonzero(is_there.any(axis=tuple(other for other in range(labels.ndim) if other != axis)))
        kept = [slice(None)] * labels.ndim
        kept[axis] = slice(max(0, int(places[0]) - 1), int(places[-1]) + 2)
        labels, is_there = labels[tuple(kept)], is_there[tuple(kept)]
    return labels


def _between(labels: Int[Array, "*s"]) -> dict[int, int]:
    """Count, for each value, the voxels that touch both a lower and a higher value; large volumes are sampled."""
    depth = labels.shape[-1]
    if labels.size <= MAX_SEARCHED or labels.ndim < 3 or depth <= 3 * NUM_SLABS:
        return _pixels(labels[_is_between(labels)])
    there, found = Counter[int](), Counter[int]()
    for start in np.linspace(0, depth - 3, NUM_SLABS).round().astype(int):
        slab = labels[..., start : start + 3]
        there.update(_pixels(slab[..., 1]))
        found.update(_pixels(slab[..., 1][_is_between(slab)[..., 1]]))
    whole = _pixels(labels)
    return {value: round(number / there[value] * whole[value]) for value, number in found.items()}


def _is_between(labels: Int[Array, "*s"]) -> Bool[Array, "*s"]:
    from scipy.ndimage import maximum_filter, minimum_filter

    lowest, highest = minimum_filter(labels, 3, mode="nearest"), maximum_filter(labels, 3, mode="nearest")
    return np.asarray((lowest < labels) & (labels < highest))


def _pixels(labels: Int[Array, "*s"]) -> dict[int, int]:
    if labels.dtype == np.uint8:
        counts = np.bincount(labels.ravel(), minlength=256) if labels.size < 2**24 else _in_parts(labels)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def meaning_of(
    found: Sequence[MaskCounts],
    named: MaskClasses = (),
    *,
    values: MaskValues = "classes",
    ignored: Sequence[int] = (),
) -> MaskMeaning:
    """Return the meaning of the values over all label maps of a source, and log it.

    Raises:
        DataError: If values are ambiguous and `named` does not define them.
    """
    ignored = tuple(sorted(set(ignored)))
    totals, between = Counter[int](), Counter[int]()
    for counts in found:
        totals.update({value: number for value, number in counts.values.items() if value not in ignored and value >= 0})
        between.update(counts.between)
    there = sorted(totals)
    if isinstance(named, Mapping):
        meaning = _named(named, there)
    elif values == "instances":
        meaning = MaskMeaning(names=tuple(named), are_instances=True)
    elif named:
        binary = len(named) == 2 and there and there[-1] in WHITES and set(there) <= {0, there[-1]}
        meaning = MaskMeaning(((0, 0), (there[-1], 1)) if binary else None, tuple(named))
    else:
        meaning = _unasked(totals, between, found)
    if ignored and len(meaning.names) > IGNORED:
        raise DataError(
            f"label maps have {len(meaning.names)} classes; with labeling.mask_ignore, expected at most {IGNORED}"
        )
    if there:
        taken = f"; taken as {_named_classes(meaning.names)}" if meaning.names else ""
        hint = f"; {_example(there)} names them" if meaning.classes and not named else ""
        level = logging.WARNING if hint and len(there) > 2 else logging.INFO
        log.log(level, "the %d label maps contain the values %s%s%s", len(found), _listed(there), taken, hint)
    return replace(meaning, ignored=ignored)


def _named(named: Mapping[int, str], there: Sequence[int]) -> MaskMeaning:
    """Return the meaning of values from `named`, which maps values to class names.

    Classes are in the order of `named`. Values with the same name are one class. `there` are the values that the label
    maps contain; a named value that is not among them causes a warning.
    """
    names = tuple(dict.fromkeys(named.values()))
    absent = [value for value in named if value not in there]
    if there and absent:
        log.warning(
            "labeling.mask_classes names the values %s, which no label map contains; found %s",
            _listed(absent),
            _listed(there),
        )
    return MaskMeaning(tuple((value, names.index(name)) for value, name in named.items()), names)


def _unasked(totals: Counter[int], between: Counter[int], found: Sequence[MaskCounts]) -> MaskMeaning:
    there = sorted(totals)
    if not there:
        return MaskMeaning()
    top, below = there[-1], [value for value in there[:-1] if value > 0]
    if top in WHITES and not below:
        return MaskMeaning(((0, 0), (top, 1)), (BACKGROUND, "class 1"))
    if top in WHITES and below[-1] < LEAST_GRAY:
        raise DataError(
            f"the label maps contain the values {_listed(there)}; {top} may be a class or mean unlabeled: give "
            f"labeling.mask_ignore=[{top}], or name the classes, as {_example(there)}"
        )
    if _are_edges(totals):
        raise DataError(
            f"the label maps contain the values {_listed(there)}, most pixels near 0 and {top}, like images that were "
            "smoothed or lossily compressed (JPEG); expected class numbers: save them losslessly and without "
            "smoothing"
        )
    if top >= LEAST_GRAY and len(there) <= MAX_LEVELS and len(there) <= top:
        levels = there if there[0] == 0 else [0, *there]
        _refuse_edges(totals, between)
        names = (BACKGROUND, *(f"value {value}" for value in levels[1:]))
        return MaskMeaning(tuple((value, index) for index, value in enumerate(levels)), names)
    _refuse_smoothed(totals, between)
    _hint(found)
    if top >= MAX_CLASSES and len(there) < MAX_CLASSES:
        levels = there if there[0] == 0 else [0, *there]
        names = (BACKGROUND, *(f"value {value}" for value in levels[1:]))
        return MaskMeaning(tuple((value, index) for index, value in enumerate(levels)), names)
    return MaskMeaning()


def _are_edges(totals: Counter[int]) -> bool:
    """Return whether values are those of a two-valued image that was smoothed or lossily compressed.

    Such an image has at least half of its bright pixels near white. It also has either many values, or values near
    black and near white.
    """
    top = max(totals)
    near_black, near_white = (any(0 < value - low < EDGE for value in totals) for low in (0, top - EDGE))
    if not WHITES[0] - EDGE <= top <= WHITES[0] or not (len(totals) > MAX_LEVELS or (near_black and near_white)):
        return False
    bright = sum(number for value, number in totals.items() if value > EDGE)
    return sum(number for value, number in totals.items() if value >= top - EDGE) >= bright / 2


def _refuse_edges(totals: Counter[int], between: Counter[int]) -> None:
    """Refuse gray levels (such as 0, 128 and 255) if one of them may be an edge made by smoothing.

    A level may be an edge if nearly all of its pixels touch both a lower and a higher value.
    """
    thin = [value for value in sorted(totals) if between[value] >= BETWEEN * totals[value] > 0]
    if thin:
        raise DataError(
            f"the label maps contain the values {_listed(totals)}; {_listed(thin)} is found only between lower and "
            "higher values, like edges of images that were smoothed or downscaled: if these are classes, name them, "
            f"as {_example(thin)}; if not, save the label maps without smoothing, or give "
            f"labeling.mask_ignore=[{_joined(thin)}]"
        )


def _refuse_smoothed(totals: Counter[int], between: Counter[int]) -> None:
    """Refuse values that are shades of one class, as in a smoothed label map.

    The values are refused if at least half of the foreground has nearly the highest value, and if at least
    `MIN_SMOOTHED` other values occur only at the edges of the foreground.
    """
    top = max(totals)
    shades = [value for value in totals if SHADES * top < value < (1 - SHADES) * top]
    foreground = sum(number for value, number in totals.items() if value > SHADES * top)
    highest = sum(number for value, number in totals.items() if value >= (1 - SHADES) * top)
    are_edges = all(between[value] >= BETWEEN * totals[value] > 0 for value in shades)
    if len(shades) >= MIN_SMOOTHED and are_edges and highest >= foreground / 2:
        raise DataError(
            f"the label maps contain the values {_listed(totals)}; {_listed(shades)} are found only between "
            f"lower and higher values, as in a map of one class, 0 and {top}, that was smoothed or "
            f"downscaled: save the label maps without smoothing, or, if these are classes, name them, as "
            f"{_example(shades)}"
        )


def _hint(found: Iterable[MaskCounts]) -> None:
    """Warn if values may be instance numbers: they are 1 to n in each label map, and n differs between label maps."""
    tops = []
    for counts in found:
        values = [value for value in counts.values if value > 0]
        if values and len(values) != max(values):
            return
        tops.append(len(values))
    if max(tops, default=0) >= MIN_INSTANCES and len(set(tops)) >= MIN_COUNTS:
        log.warning(
            "each label map contains values 1 to n, where n differs (up to %d), as instance numbers do; set "
            "labeling.mask_values=instances to make them one class",
            max(tops),
        )


def _example(there: Sequence[int]) -> str:
    rest = [value for value in there if value > 0][:2]
    return "labeling.mask_classes={0: background, " + ", ".join(f"{value}: NAME" for value in rest) + "}"


def _named_classes(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN_VALUES else f"{len(names)} classes"


def _listed(values: Iterable[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > SHOWN_VALUES:
        return f"{len(ordered)} values ({', '.join(map(str, ordered[:3]))}, ..., {ordered[-1]})"
    return " and ".join(filter(None, (", ".join(map(str, ordered[:-1])), str(ordered[-1]))))


def _joined(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _in_parts(labels: Int[Array, "*s"]) -> Int[Array, "256"]:
    """Return the number of pixels of each 8-bit value.

    They are counted plane by plane, because `bincount` would convert the whole array to 64 bits.
    """
    return np.sum([np.bincount(plane.ravel(), minlength=256) for plane in labels], axis=0)
