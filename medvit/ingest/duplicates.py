"""Images with identical pixels: all are kept, or duplicates are excluded and listed.

By default, no image is excluded. With `curation.duplicates=drop`, identical images are kept in one split only: the
strictest one (test, then val, then train). Within this split, one image is kept for each combination of labels and
label map, because medvit cannot decide which of different labels are right. Constant images do not count as duplicates
of one another.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from medvit.ingest.splits import LEAKAGE, PROTECTED
from medvit.records import Candidate, Refusal, Taken

log = logging.getLogger("medvit")

COPY = "duplicate"
"""Refusal code of a copy that is excluded because an equal image in the same split is kept."""

Copies = Sequence[Candidate]
"""Two or more candidates with identical pixels."""


def copies(candidates: Sequence[Candidate], taken: Mapping[str, Taken]) -> list[Copies]:
    """Return the groups of images with identical pixels, each in the order of the candidates."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        found = taken.get(candidate.key)
        if found is not None and "constant" not in (found.flags or ()):
            groups[found.sha256].append(candidate)
    return [group for group in groups.values() if len(group) > 1]


def tell(groups: Sequence[Copies], *, stay: bool) -> None:
    """Log how many images are duplicates, and warn about groups in several splits or with different labels.

    `stay` is True if all duplicates are kept in the dataset.
    """
    if not groups:
        return
    log.info("groups of images with identical pixels: %d, of %d images", len(groups), sum(map(len, groups)))
    crossing = sum(len({candidate.split for candidate in group}) > 1 for group in groups)
    if crossing and stay:
        log.warning(
            "groups of identical images in several splits: %d; curation.duplicates=drop keeps each group in one split",
            crossing,
        )
    contradicting = sum(len({_labels(candidate) for candidate in group}) > 1 for group in groups)
    if contradicting:
        log.warning(
            "groups of identical images with different labels: %d; check their labels, since they cannot all be right",
            contradicting,
        )


def left_out(groups: Sequence[Copies], taken: Mapping[str, Taken]) -> dict[str, Refusal]:
    """Return the refusals of excluded duplicates, keyed by `Candidate.key`."""
    return {candidate.key: refusal for group in groups for candidate, refusal in _left_out(group, taken)}


def _left_out(group: Copies, taken: Mapping[str, Taken]) -> Iterator[tuple[Candidate, Refusal]]:
    present = Counter(candidate.split for candidate in group)
    kept = next(split for split in PROTECTED if present[split])
    seen = set()
    for candidate in group:
        truth = (_labels(candidate), taken[candidate.key].mask)
        if candidate.split != kept:
            reason = f"an image in the {kept} split has the same pixels; this {candidate.split} image is excluded"
            yield candidate, candidate.refused(LEAKAGE, reason)
        elif truth in seen:
            yield candidate, candidate.refused(COPY, "another image has the same pixels, labels and label map")
        seen |= {truth} if candidate.split == kept else set()


def _labels(candidate: Candidate) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(candidate.labels.items()))
