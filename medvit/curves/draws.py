"""Draws of labeled patients: stratified by class, with each smaller amount within the larger ones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from medvit.errors import ConfigError
from medvit.records import Row


def nested_draws(classes: Mapping[str, str], amounts: Sequence[float], *, seed: int) -> dict[float, frozenset[str]]:
    """Return the labeled patients of each amount, from the class of each patient.

    An amount up to 1 is a fraction of the patients, above 1 a number of them. Every amount has at least one patient of
    each class, and the classes otherwise have their share.

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


def patient_classes(rows: Sequence[Row], label: str) -> dict[str, str]:
    """Return the class of each patient: of several, the one that the fewest images have; "" without labels."""
    counts = Counter(row.labels.get(label, "") for row in rows)
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row.patient_id].append(row.labels.get(label, ""))
    return {patient: min(names, key=lambda name: (counts[name], name)) for patient, names in sorted(found.items())}


def _stratified_order(classes: Mapping[str, str], seed: int) -> list[str]:
    """Return all patients in an order whose beginnings have the classes in their proportion, one of each first."""
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
