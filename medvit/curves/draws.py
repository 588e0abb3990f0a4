"""Random draws of labeled patients, stratified by class; smaller draws are subsets of larger ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.records import Row


def nested_draws(classes: Mapping[str, str], amounts: Sequence[float], *, seed: int) -> dict[float, frozenset[str]]:
    """Draw labeled patients at random; return the patients for each amount.

    `classes` maps each patient to a class. An amount up to 1 is a fraction of the patients, and a larger amount is a
    number of patients. Patients of a smaller amount are also in every larger amount. Every amount has at least one
    patient of each class; apart from that, the proportions of the classes are kept.

    Raises:
        ConfigError: If an amount is larger than the number of patients.
    """
    order = _stratified_order(classes, seed)
    num_classes = len(set(classes.values()))
    found = {}
    for amount in amounts:
        number = round(amount * len(order)) if amount <= 1 else int(amount)
        if number > len(order):
            raise ConfigError(f"labeled={amount:g} asks for more than the {len(order)} labeled training patients")
        found[amount] = frozenset(order[: max(number, num_classes)])
    return found


def without_copies(train: Manifest, test: Manifest) -> Manifest:
    """Return the training images, except those with the same pixels as a test image."""
    pixels = {row.sha256 for row in test}
    return train.filter(lambda row: row.sha256 not in pixels)


def patient_classes(rows: Sequence[Row], label: str) -> dict[str, str]:
    """Return the class of each patient.

    If a patient has images of several classes, it is the class that is rarest among all images in `rows`. An image
    without the label has the class "".
    """
    counts = Counter(row.labels.get(label, "") for row in rows)
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row.patient_id].append(row.labels.get(label, ""))
    return {patient: min(names, key=lambda name: (counts[name], name)) for patient, names in sorted(found.items())}


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
