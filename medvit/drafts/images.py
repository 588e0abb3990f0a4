"""Inputs of drafts: the images to train on, the machine, and the output folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from medvit.drafts.draft import Draft, DraftOption
from medvit.hardware import Device, resolve_device
from medvit.ingest.survey.found import Survey
from medvit.ingest.survey.images import ImageGroup

MANY_FILES, MANY_PROCESSES = 2000, 8
"""Number of files from which ingest is drafted with several processes, and maximum number of these processes."""


@dataclass(frozen=True)
class Machine:
    """Machine that the drafted training runs are intended for."""

    has_gpu: bool
    num_cpus: int = 1

    @classmethod
    def this(cls, device: Device) -> Self:
        """Return this machine; `device` decides whether `has_gpu` is set."""
        num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(has_gpu=resolve_device(device).type != "cpu", num_cpus=num_cpus)


@dataclass(frozen=True)
class Project:
    """Project for which runs are drafted: the source, which may name patients, and the output folder."""

    source: str = field(repr=False)
    output: Path
    modality: str = ""
    machine: Machine = field(default_factory=lambda: Machine(has_gpu=False))
    num_processes: int = 1

    @classmethod
    def of(
        cls, survey: Survey, *, source: str, output: Path, modality: str, machine: Machine, num_processes: int
    ) -> Self:
        """Return the project of a surveyed source, with several processes if the source has many files."""
        is_large = survey.num_files >= MANY_FILES
        num_processes = max(num_processes, min(machine.num_cpus, MANY_PROCESSES) if is_large else 1)
        return cls(source, output, modality, machine, num_processes)

    def place(self, name: str) -> str:
        """Return the path of a file or folder of the project."""
        return str(self.output / name)

    def draft(
        self,
        stage: str,
        about: str,
        entries: Sequence[DraftOption],
        *,
        suffix: str = "",
        more: str = "",
        note: str = "",
    ) -> Draft:
        """Return a draft of a stage, with the options `entries`.

        The words in `more` are added to the end of the command that runs the draft; the YAML file cannot contain them.
        """
        name = f"{stage}{suffix}.yaml"
        command = (stage, shlex.quote(self.place(name)), *filter(None, [more]))
        notes = tuple(filter(None, [note]))
        return Draft(stage, name, about, tuple(entries), command, notes, is_private=stage == "ingest")


@dataclass(frozen=True)
class Images:
    """Images for the drafted training runs: of one kind, and of one or several modalities."""

    group: ImageGroup
    """Images of the chosen kind. The modality of the group is empty if the images have several modalities, or do not
    state any.
    """
    others: tuple[str, ...]
    """Number and kind of the other images of the source, in words."""

    @classmethod
    def of(cls, survey: Survey) -> Images:
        """Return the kind of images that has labels or label maps, or else the most frequent one.

        Slides without labels are not chosen if there are ordinary images; pretraining then does not use the slides.
        """
        weights: dict[str, tuple[bool, int]] = {}
        for group in survey.groups:
            is_labeled, weight = weights.get(group.kind, (False, 0))
            weights[group.kind] = (is_labeled or bool(group.num_masks or group.num_labeled), weight + group.weight)
        if "image" in weights and not weights.get("slide", (True, 0))[0]:
            del weights["slide"]
        kind = max(weights, key=lambda name: weights[name])
        chosen = [group for group in survey.groups if group.kind == kind]
        codes = {group.modality for group in chosen}
        merged = ImageGroup(
            chosen[0].kind,
            codes.pop() if len(codes) == 1 else "",
            tuple(one for group in chosen for one in group.candidates),
            tuple(one for group in chosen for one in group.extents),
        )
        others = (f"{len(group.candidates)} of kind {group.kind}" for group in survey.groups if group.kind != kind)
        return cls(merged, tuple(others))

    @property
    def are_slides_mixed(self) -> bool:
        """Whether the source has both slides and ordinary images, and one of these kinds was chosen."""
        return self.group.kind in ("image", "slide") and any("slide" in one or "image" in one for one in self.others)

    @property
    def is_fundus(self) -> bool:
        """Whether the images are photographs of the fundus."""
        return self.group.kind == "image" and self.group.modality == "OP"

    @property
    def is_oct(self) -> bool:
        """Whether the images are OCT volumes, on which models are trained B-scan by B-scan."""
        return self.group.kind == "volume" and self.group.modality == "OPT"

    @property
    def is_3d(self) -> bool:
        """Whether models are trained on whole volumes."""
        return self.group.kind == "volume" and not self.is_oct

    @property
    def flipped_axes(self) -> list[int]:
        """Axes along which a mirrored image is as plausible as the original."""
        if self.group.kind == "slide" or self.group.modality == "SM":
            return [0, 1]
        return [1] if self.is_fundus or self.is_oct else []

    def slices(self) -> Iterator[DraftOption]:
        """Yield the options that cut OCT volumes into B-scans."""
        if self.is_oct:
            yield DraftOption(
                "slices.planes", ["acquired"], "OCT is read B-scan by B-scan, with its neighbors as channels."
            )
            yield DraftOption("slices.neighbors", 1)
