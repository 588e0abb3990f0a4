"""Random draws of labeled patients, stratified by class; smaller draws are subsets of larger ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from medvit.dataset.manifest import Manifest
from medvit.records import Row


def ordered_patients(classes: Mapping[str, Collection[str]], rarity: Sequence[str], *, seed: int) -> list[str]:
    """Return all patients in a random order, of which a draw of n labeled patients takes the first n.

    `classes` has the classes of the images of each patient, and `rarity` all classes, the rarest first. The first
    patients cover all classes; there are at most as many of them as classes. After them, the first n patients have
    classes in about the same proportions as all patients, for any n. A patient with images of several classes is
    counted in the rarest of these classes.
    """
    stratum = {patient: min(found, key=rarity.index) for patient, found in classes.items()}
    order = _stratified_order(stratum, seed)
    first, covered = [], set[str]()
    for patient in order:
        if not covered.issuperset(classes[patient]):
            first.append(patient)
            covered.update(classes[patient])
    rest = set(order) - set(first)
    return [*first, *(patient for patient in order if patient in rest)]


def without_copies(train: Manifest, test: Manifest) -> Manifest:
    """Return the training images, except those with the same pixels as a test image."""
    pixels = {row.sha256 for row in test}
    return train.filter(lambda row: row.sha256 not in pixels)


def patient_classes(rows: Sequence[Row], label: str) -> dict[str, frozenset[str]]:
    """Return the classes of the images of each patient. An image without the label has the class ""."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row.patient_id].add(row.labels.get(label, ""))
    return {patient: frozenset(names) for patient, names in sorted(found.items())}


def classes_by_rarity(rows: Sequence[Row], label: str) -> list[str]:
    """Return the classes of images, those with the fewest images first."""
    counts = Counter(row.labels.get(label, "") for row in rows)
    return sorted(counts, key=lambda name: (counts[name], name))


def _stratified_order(classes: Mapping[str, str], seed: int) -> list[str]:
    """Return all patients in a random order that is stratified by class.

    The first patients are one of each class. After them, the first n patients have the classes in about the same
    proportions as all patients, for any n.
    """
    generator = np.random.default_rng(seed)
    by_class: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(classes):
        by_class[classes[patient]].append(patient)
    ranked = []
    for name in sorted(by_class):
        members = by_class[name]
        order = generator.permutation(len(members))
        ranked += [(place > 0, (place + 0.5) / len(members), name, members[index]) for place, index in enumerate(order)]
    return [patient for *_, patient in sorted(ranked)]
