"""Gains of self-supervised pretraining on real images, and savings by ExPLoRA, by frozen features on held-out images.

A small transformer is pretrained from scratch on the training images of all data sets together, with each objective and
seed. On the test images of three data sets, its frozen features are compared with those of random weights. Then a
transformer is pretrained without the images of one domain. Its pretraining is continued on this domain, either by
training all weights or by ExPLoRA.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gains_report import PROBES, costs_table, scores_table
from benchmarks.measured import Cost, run_once
from benchmarks.probes import METRICS, Answers, Labeled, compared, start_weights
from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.dataset.manifest import Manifest
from medvit.peft.explora import ExploraConfig
from medvit.training.initialization import backbone_of
from medvit.transforms.preprocess import Preprocess

SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "brain-tumor-mri-2d": (
        "brain-tumor-mri-2d",
        ("scanning.modality=MR", "labeling.from_folders=folder", "curation.duplicates=drop", "splits.val=0.2"),
    ),
    "busi-ultrasound": (
        "busi-ultrasound",
        (
            "scanning.modality=US",
            "labeling.from_folders=folder",
            "curation.duplicates=drop",
            "taking.burned_in=keep",
            "splits.val=0.2",
            "splits.test=0.3",
        ),
    ),
    "retinamnist": ("medmnist/retinamnist.npz", ("scanning.modality=OP",)),
    "brain-mr-dicom-studies": ("brain-mr-dicom-studies", ("splits.val=0", "splits.test=0")),
    "msd-hippocampus": ("msd-hippocampus", ("scanning.modality=MR",)),
    "drive": ("drive", ("scanning.modality=OP",)),
    "bbbc038-nuclei": ("bbbc038-nuclei", ("scanning.modality=SM",)),
    "totalseg-ct": ("totalseg-ct/ct_dicom", ("splits.val=0", "splits.test=0")),
    "totalseg-ct-nifti": ("totalseg-ct/example_ct.nii.gz", ("scanning.modality=CT", "splits.val=0", "splits.test=0")),
    "torchio-ct-series": ("torchio-ct-series", ("splits.val=0", "splits.test=0")),
    "dcm_qa_ct": ("dcm_qa_ct", ("scanning.geometry=resample", "splits.val=0", "splits.test=0")),
}
"""Folder of each data set below the folder of data, and its ingest options. All images of sets that are not probed are
used.
"""
PROBED = ("brain-tumor-mri-2d", "busi-ultrasound", "retinamnist")
BRAIN = ("brain-tumor-mri-2d", "brain-mr-dicom-studies", "msd-hippocampus")
"""Domain that is excluded, and then used for continued pretraining."""
SLICES = 4
"""Slices of each volume."""
MAE_STEPS = 3
"""MAE takes three times as many steps, since a step costs a third of one of DINOv2 here."""
VIEW = (64, 64)
"""Side of a global crop, and of probed images, in pixels."""
ROUNDS = 2
"""Number of epochs, after each of which the guard reads the weights."""
COMMON = (
    "preprocess.kind=image",
    "preprocess.channels=3",
    "preprocess.size=[80,80]",
    "backbone.size=tiny",
    "backbone.patch_size=8",
    f"objective.views.size=[{VIEW[0]},{VIEW[1]}]",
    "loader.batch_size=32",
    f"trainer.epochs={ROUNDS}",
    "trainer.precision=bf16-mixed",
)
OF_TEACHERS = (
    "objective.views.num_local=2",
    "objective.views.local_size=[32,32]",
    "objective.head.hidden=512",
    "objective.head.bottleneck=128",
    "optim.lr=5e-4",
    "optim.betas=[0.9,0.999]",
)
OBJECTIVES = {
    "mae": (
        "objective=mae",
        "objective.decoder_width=128",
        "objective.decoder_depth=2",
        "objective.decoder_heads=4",
        "optim.lr=1e-3",
    ),
    "dinov2": ("objective=dinov2", *OF_TEACHERS, "objective.head.prototypes=1024", "objective.momentum=0.98"),
    "simdinov2": ("objective=simdinov2", *OF_TEACHERS),
}
"""Options chosen in advance, for short runs; they were not tuned on any split."""
CONTINUED = "mae"
WAYS = ("full", "explora")


RESAMPLES = 1000


def run(data: Path, folder: Path, *, steps: int, seeds: int) -> None:
    """Run missing trainings, seed by seed; after each seed, write `gains.json` and `gains.md` into the folder."""
    gains = Gains(data, folder, steps)
    gains.datasets()
    costs: dict[str, Cost] = {}
    for num_seeds in range(1, seeds + 1):
        costs |= dict(gains.trainings(num_seeds - 1))
        found = gains.results(costs, num_seeds)
        (folder / "gains.json").write_text(json.dumps(found, indent=1) + "\n")
        text = _tables(found)
        (folder / "gains.md").write_text(text)
        print(f"\nafter {num_seeds} of {seeds} seeds\n\n{text}", flush=True)


def _tables(found: Mapping[str, Any]) -> str:
    parts = itertools.product(("pretrained", "continued"), METRICS, PROBES)
    return (
        "\n\n".join([*(scores_table(found[p], probe, m) for p, m, probe in parts), costs_table(found["costs"])]) + "\n"
    )


@dataclass(frozen=True)
class Gains:
    """The experiment: folder of data, working folder, length of trainings."""

    data: Path
    folder: Path
    steps: int

    def datasets(self) -> None:
        """Make the data sets and merge them: all of them, those of one domain, and all but those of this domain."""
        for name, (source, options) in SETS.items():
            words = (f"source={self.data / source}", f"key={self.folder / 'site.key'}", *options)
            run_once("ingest", self._dataset(name), *words, key="dataset")
        for name, members in self._unions().items():
            paths = ",".join(str(self._dataset(member)) for member in members)
            run_once("merge", self._dataset(name), f"datasets=[{paths}]", f"slices={SLICES}")

    def trainings(self, seed: int) -> Iterator[tuple[str, Cost]]:
        """Run every pretraining with a seed; yield its name and its cost.

        Continued pretraining starts from `others`, which was pretrained without the domain.
        """
        for objective in OBJECTIVES:
            yield self._pretrained(f"{objective}-{seed}", objective, "all", seed, self._steps(objective))
        yield self._pretrained("others", CONTINUED, "others", 0, self._steps(CONTINUED))
        for way in WAYS:
            words = (f"checkpoint={self.checkpoint('others')}", f"peft={way}", "optim.freeze=0.1", "optim.ramp=0.1")
            steps = self._steps(CONTINUED) // 2
            yield self._pretrained(f"{way}-{seed}", CONTINUED, "brain", seed, steps, *words)

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a pretraining."""
        return self.folder / "checkpoints" / name

    def results(self, costs: Mapping[str, Cost], num_seeds: int) -> dict[str, Any]:
        """Return, by method, the test scores of pretrained weights and of continued weights, and the costs."""
        described = Checkpoint.load(self.checkpoint("others"))
        union, preprocess = Manifest.read(self._dataset("all")), Preprocess.parse(described.preprocess)
        seeds = range(num_seeds)
        pretrained = {"random": [], **{name: [f"{name}-{seed}" for seed in seeds] for name in OBJECTIVES}}
        continued = {"start": ["others"], **{way: [f"{way}-{seed}" for seed in seeds] for way in WAYS}}
        parts: dict[str, Any] = {"pretrained": {}, "continued": {}}
        for name in PROBED:
            labeled = Labeled.of(union, name, preprocess, VIEW)
            images = {split: len(labels) for split, labels in labeled.labels.items()}
            starts = [self._answers(labeled, f"random-{seed}") for seed in seeds]
            answers = {method: [self._answers(labeled, run) for run in runs] for method, runs in pretrained.items()}
            found = compared(labeled, {**answers, "random": starts}, baseline="random", resamples=RESAMPLES)
            parts["pretrained"][name] = {"images": images, "probes": found}
            if name in BRAIN:
                answers = {method: [self._answers(labeled, run) for run in runs] for method, runs in continued.items()}
                found = compared(labeled, answers, baseline="start", resamples=RESAMPLES)
                parts["continued"][name] = {"images": images, "probes": found}
        return {**parts, "costs": self._costs(costs), "steps": self.steps, "seeds": num_seeds, "resamples": RESAMPLES}

    def _answers(self, labeled: Labeled, name: str) -> Answers:
        """Return the predictions of probes on pretrained weights, or on random weights.

        They are computed once and stored.
        """
        path = self.checkpoint(name).with_name(f"{name}.{labeled.name}.npz")
        if not path.is_file():
            method, _, seed = name.partition("-")
            if method == "random":
                backbone = start_weights(self.checkpoint("others"), int(seed))
            else:
                backbone = backbone_of(Checkpoint.load(self.checkpoint(name)))[1]
            np.savez(path, allow_pickle=False, **labeled.answers(backbone))
        return dict(np.load(path))

    def _costs(self, costs: Mapping[str, Cost]) -> dict[str, list[dict[str, Any]]]:
        """Return the runs of each method, each with cost, total and trained weights, steps, and a stop by the guard."""
        found = defaultdict(list)
        for name, cost in costs.items():
            method = name.partition("-")[0]
            backbone = backbone_of(Checkpoint.load(self.checkpoint(name)))[1]
            log = self.checkpoint(name).with_name(f"{name}.log").read_text(errors="replace")
            ended = re.search(r"the guard ended the training at step (\d+).*", log)
            planned = self._steps(method) if method in OBJECTIVES else self._steps(CONTINUED) // (1 + (method in WAYS))
            found["start" if method == "others" else method].append(
                asdict(cost)
                | {"weights": sum(weight.numel() for weight in backbone.parameters())}
                | {"trained": _trained(backbone, method)}
                | {"steps": int(ended[1]) if ended else planned, "guard": ended[0] if ended else ""}
            )
        return dict(found)

    def _pretrained(
        self, name: str, objective: str, dataset: str, seed: int, steps: int, *words: str
    ) -> tuple[str, Cost]:
        options = (
            *COMMON,
            *OBJECTIVES[objective],
            f"trainer.steps_per_epoch={steps // ROUNDS}",
            f"seed={seed}",
            *words,
        )
        return name, run_once("pretrain", self.checkpoint(name), f"dataset={self._dataset(dataset)}", *options)

    def _steps(self, objective: str) -> int:
        return self.steps * (MAE_STEPS if objective == "mae" else 1)

    def _dataset(self, name: str) -> Path:
        return self.folder / "datasets" / name

    @staticmethod
    def _unions() -> dict[str, tuple[str, ...]]:
        others = tuple(name for name in SETS if name not in BRAIN)
        return {"all": tuple(SETS), "others": others, "brain": BRAIN}


def _trained(backbone: Backbone, method: str) -> int:
    """Return the number of backbone weights that this method trains."""
    if method != "explora":
        return sum(weight.numel() for weight in backbone.parameters())
    peft = ExploraConfig().adapt(backbone)
    trained = peft.trained()
    return sum(weight.numel() for name, weight in peft.backbone.named_parameters() if name in trained)
