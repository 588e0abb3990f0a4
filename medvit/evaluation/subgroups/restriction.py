"""Restriction of an evaluation to the images with given values of attributes, such as one site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.evaluation.subgroups.grouping import available, group_names
from medvit.patients import PatientCount
from medvit.records import Row


def restricted(
    measured: Manifest, where: Mapping[str, Collection[str]], predicted: Collection[str] = ()
) -> tuple[Manifest, list[str]]:
    """Return the images whose attributes have the given values, and notes with their numbers.

    Values are those of the groups in a report, such as `60 to 79` for an age, or of the manifest. `predicted` are the
    labels that the model predicts.

    Raises:
        ConfigError: If no image has an attribute or a value, or no image has all of the values.
    """
    rows, kept = measured.rows, set(range(len(measured)))
    known = available(rows, predicted)
    for attribute, values in where.items():
        if attribute not in known:
            raise ConfigError(f"where={{{attribute}: ...}}: no image has this attribute; they have {', '.join(known)}")
        own = [(name, _stored(row, attribute)) for name, row in zip(group_names(rows, attribute), rows, strict=True)]
        for value in values:
            if not any(value in pair for pair in own):
                counts = Counter(name for name, _ in own)
                shown = ", ".join(f"{name} ({number})" for name, number in counts.most_common())
                raise ConfigError(f"where={{{attribute}: {value}}}: no image has this value; the values are {shown}")
        kept &= {index for index, pair in enumerate(own) if set(pair) & set(values)}
    if not where:
        return measured, []
    text = " and ".join(f"{attribute}={' or '.join(values)}" for attribute, values in where.items())
    if not kept:
        raise ConfigError(f"where: no image has {text}")
    images = {rows[index].image_id for index in kept}
    part = measured.filter(lambda row: row.image_id in images)
    evaluated = f"{len(part)} of {len(measured)} images, {PatientCount.of(part)} of {PatientCount.of(measured).total}"
    return part, [f"only images with {text} are evaluated: {evaluated}"]


def _stored(row: Row, attribute: str) -> str | None:
    return row.attributes.get(attribute) or row.labels.get(attribute)
