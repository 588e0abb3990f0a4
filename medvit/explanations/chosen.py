"""Choice of the images of a dataset that are explained."""

from __future__ import annotations

from collections import defaultdict

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.explanations.options import ExplainOptions
from medvit.records import Kind, Row


def chosen_rows(options: ExplainOptions, manifest: Manifest, kind: Kind, label: str) -> list[Row]:
    """Return the requested images, or the first ones of the split, alternating between the classes of a label.

    Raises:
        ConfigError: If a requested image is not in the dataset, or not of the kind that the model accepts.
        DataError: If the split has no image of this kind.
    """
    rows = [row for row in manifest if row.kind == kind]
    if options.images:
        known = {row.image_id: row for row in rows}
        missing = [name for name in options.images if name not in known]
        if missing:
            raise ConfigError(
                f"images names {missing[0]}, which is not among the {kind}s of {manifest.folder}; expected values of "
                "the column image_id of its manifest"
            )
        return [known[name] for name in options.images]
    by_class = defaultdict(list)
    for row in rows:
        if row.split == options.split:
            by_class[row.labels.get(label, "")].append(row)
    longest = max(map(len, by_class.values()), default=0)
    turns = [own[n] for n in range(longest) for own in by_class.values() if n < len(own)]
    if not turns:
        raise DataError(f"{manifest.folder}: the {options.split} split has no {kind}; give another split")
    return turns[: options.max_images]
