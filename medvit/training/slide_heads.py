"""Training of slide heads on embeddings of tiles: one head after the other, each with its own seed and best epoch."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.heads import HeadConfig
from medvit.heads.abmil import AbmilConfig
from medvit.losses.class_balance import Balance, ClassBalance
from medvit.losses.supervised import classification_loss
from medvit.models.slide import SAME_SCALE, BagModel, SlideModelConfig, TileSpec
from medvit.models.tile_embedder import EmbeddedSlide
from medvit.records import Row
from medvit.seeds import mixed_seed
from medvit.tasks import TaskName
from medvit.tracking import Tracker
from medvit.training.ensembles.folds import FIGURES, EnsembleMember
from medvit.training.finetuning import BEST_METRIC, Finetuning
from medvit.training.loading.bags import Bag, BagConfig, bag_loader, whole_bags
from medvit.training.loading.epochs import LoaderConfig
from medvit.training.optim import OptimConfig
from medvit.training.options import describe_patients, trained_on
from medvit.training.resume import BEST, RESUME, last_checkpoint, position_of
from medvit.training.trainer import Trainer, TrainerConfig, TrainerOptions
from medvit.types import RunLength
from medvit.wsi.tiles import TileFlag

log = logging.getLogger("medvit")


def warn_of_pixels(**options: object) -> None:
    """Warn about options of models trained on pixels, which have no effect on slides."""
    for key, value in options.items():
        log.warning("%s=%s is ignored: heads of slides are trained on embeddings of a frozen backbone", key, value)


def holds_slides(manifest: Manifest, label: str) -> bool:
    """Return whether the targets are labels of slides, not of other images."""
    kinds = {row.kind for row in manifest if label in row.labels} or {row.kind for row in manifest}
    return kinds == {"slide"}


def require_task_of_slides(task: TaskName | None) -> None:
    """Check that the task of whole slides is classification.

    Raises:
        ConfigError: If another task is requested.
    """
    if task not in (None, "classification"):
        raise ConfigError(
            f"task={task}, and the images are whole slides, which can only be classified by one label; remove task, "
            "labels and tasks, and give label=..."
        )


def bag_head(head: HeadConfig | None, trainer: TrainerOptions) -> HeadConfig:
    """Return the head for slides: the given one, else gated attention.

    Call it before tiles are embedded, which takes long, so that errors are found early.

    Raises:
        ConfigError: If the head does not accept bags (sets of tile embeddings), or several devices are requested.
    """
    if trainer.devices * trainer.nodes > 1:
        raise ConfigError("heads of slides are trained on one device; remove trainer.devices and trainer.nodes")
    chosen = head or AbmilConfig()
    chosen.build_for_bags(1, 2)
    return chosen


def labeled_slides(manifest: Manifest, label: str, failures: list[str], *, folds: int = 0) -> Manifest:
    """Return the slides of the train and val splits with a known class.

    `failures` gets a line for each slide of an unknown class.

    Without `folds`, each of the two splits must have a slide. With `folds`, val may be empty, because validation slides
    are taken from both splits.

    Raises:
        DataError: If there are fewer than two classes, or if a split is empty.
    """
    classes = manifest.facts.classes.get(label, ())
    if len(classes) < 2:
        keys = ", ".join(sorted({key for row in manifest for key in row.labels})) or "none"
        raise DataError(
            f"{manifest.folder}: slides need at least two classes of {label!r}, found {', '.join(classes) or 'none'} "
            f"(labels found: {keys}); give label=..., or ingest the labels"
        )
    labeled = manifest.filter(lambda row: row.kind == "slide" and row.split in ("train", "val") and label in row.labels)
    for row in labeled:
        if row.labels[label] not in classes:
            reason = f"has {label} = {row.labels[label]!r}, expected one of {', '.join(classes)}; it is excluded"
            failures.append(f"{row}: {reason}")
    known = labeled.filter(lambda row: row.labels[label] in classes)
    known.split("train")
    if not folds:
        known.split("val")
    return known


def common_tiles(slides: Sequence[EmbeddedSlide], skip: Sequence[TileFlag]) -> TileSpec:
    """Return the tile size and scale that all slides share; scales may differ slightly between scanners.

    Raises:
        DataError: If the sizes or scales of the tiles differ.
    """
    sizes, mpps = {slide.grid.size for slide in slides}, [slide.grid.mpp for slide in slides]
    if len(sizes) > 1 or max(mpps) > SAME_SCALE * min(mpps):
        found = f"{min(sizes)} to {max(sizes)} pixels at {min(mpps):.4g} to {max(mpps):.4g} microns"
        raise DataError(f"the slides have tiles of {found}; ingest all of them with the same tiles.*")
    facts = slides[0].grid.facts
    given = {key: facts[key] for key in ("overlap", "min_tissue") if key in facts}
    return TileSpec.parse({"size": sizes.pop(), "mpp": float(np.median(mpps)), "skip": skip, **given})


@dataclass(frozen=True)
class AssembledHead:
    """Training of one head on `num_slides` slides, ready to start or to resume."""

    module: Finetuning
    loader: DataLoader[object]
    validation: DataLoader[object]
    trainer: Trainer
    resume_from: Path | None
    num_slides: int


@dataclass(frozen=True)
class SlideTraining:
    """Components for training the heads of a slide model; `train` returns the weights of each."""

    model: SlideModelConfig
    slides: Sequence[EmbeddedSlide]
    bags: BagConfig
    members: Sequence[EnsembleMember]
    optim: OptimConfig
    loader: LoaderConfig
    trainer: TrainerConfig
    balance: Balance
    smoothing: float
    seed: int

    @cached_property
    def rows(self) -> list[Row]:
        """Rows of the slides in the manifest."""
        return [slide.row for slide in self.slides]

    def train(self, folder: Path, tracker: Tracker) -> tuple[list[dict[str, Tensor]], dict[str, float]]:
        """Return the weights of each head at its best epoch, and metrics; finished heads of a run are reused.

        Raises:
            DataError: If a class has no training slide, or training or validation slides are missing.
        """
        figures: dict[str, float] = {}
        for member in range(len(self.members)):
            if not (_home(folder, member) / FIGURES).is_file():
                log.info("finetune: head %d of %d", member + 1, len(self.members))
                own_seed = mixed_seed(self.seed, 5, member) % 2**31
                own_tracker = self.members[member].tracked(tracker, len(self.members), own_seed, "head")
                self._train_member(member, folder, own_tracker)
            own = json.loads((_home(folder, member) / FIGURES).read_text(encoding="utf-8"))
            figures |= {f"head {member + 1}: {name}": value for name, value in own.items()}
        return [load_file(_home(folder, member) / BEST) for member in range(len(self.members))], figures

    def outcome(self, figures: Mapping[str, float]) -> dict[str, str]:
        """Return texts for a summary: the best validation metric of each head, and the step of that metric.

        `figures` are the metrics that `train` returns.
        """
        names = [f"head {member + 1}" for member in range(len(self.members))]
        train, val = ([row for row in self.rows if row.split == split] for split in ("train", "val"))
        return trained_on(train, val) | {
            name: (
                f"val_auroc {figures.get(f'{name}: {BEST_METRIC}', float('nan')):.3f}, "
                f"step {figures[f'{name}: step of the kept epoch']:.0f} of {self.trainer.steps}"
            )
            for name in names
        }

    def describe(self) -> dict[str, str]:
        """Return the training settings for the model card."""
        splits = Counter(row.split for row in self.rows)
        length = self._length(splits["train"])
        seen = length.described(length.num_steps, noun="slides")
        folds = self.members[0].folds
        chosen = f"one of {folds} folds of patients" if folds else "the val split"
        return {
            "slides": f"{splits['train']} of the train split, {splits['val']} of the val split",
            "patients": describe_patients(self.rows),
            "tiles": f"{sum(len(slide.embeddings) for slide in self.slides):,}, embedded by the frozen backbone",
            "heads": f"{len(self.members)}, whose logits are averaged; each chose its epoch on {chosen}",
            "steps": f"{length.num_steps} of {length.step_images} slides for each head: {seen}",
            "learning rate": f"{self.optim.lr:g}",
            "seed": str(self.seed),
        }

    @property
    def leftovers(self) -> list[str]:
        """Return the names of the folders for single heads, which only an unfinished run needs."""
        return [_home(Path(), member).name for member in range(len(self.members))]

    def assemble(self, member: int, folder: Path, tracker: Tracker) -> AssembledHead:
        """Return the components for training one head.

        If the folder contains an interrupted run, training continues where it stopped. Each head has its own subfolder,
        so that it never resumes from the state of another head.

        Raises:
            DataError: If training or validation slides are missing.
        """
        home = _home(folder, member)
        home.mkdir(parents=True, exist_ok=True)
        bags = [self._bag(slide) for slide in self.slides]
        classes = [bag.target for bag in bags]
        fold = self.members[member]
        learning, held_out = fold.divide(self.rows, classes)
        if not learning or not held_out:
            raise DataError(f"head {member + 1} has no slides for training or validation; reduce folds={fold.folds}")
        seed = mixed_seed(self.seed, 5, member) % 2**31
        torch.manual_seed(seed)
        model = BagModel(self.model, self.slides[0].embeddings.width)
        counts = Counter(bags[n].target for n in learning)
        balance = ClassBalance(self.balance, [counts[index] for index in range(len(self.model.classes))])
        odds = balance.odds
        module = Finetuning(
            model,
            classification_loss(balance, smoothing=self.smoothing),
            self.optim.for_batch(self.trainer.step_images(self.loader.batch_size)),
            length=self._length(len(learning)),
            seed=seed,
            folder=home,
        )
        resume_from = last_checkpoint(home)
        loader = bag_loader(
            self.loader,
            [bags[n] for n in learning],
            max_tiles=self.bags.tiles,
            num_batches=self.trainer.batches_per_epoch,
            seed=seed,
            start=position_of(resume_from),
            weights=None if odds is None else [float(odds[bags[n].target]) for n in learning],
        )
        validation = whole_bags([bags[n] for n in held_out])
        trainer = self.trainer.build(home, tracker, self.optim.clip)
        return AssembledHead(module, loader, validation, trainer, resume_from, len(learning))

    def _length(self, num_slides: int) -> RunLength:
        return RunLength(num_slides, self.trainer.step_images(self.loader.batch_size), self.trainer.steps)

    def _train_member(self, member: int, folder: Path, tracker: Tracker) -> None:
        parts = self.assemble(member, folder, tracker)
        parts.trainer.fit(parts.module, parts.loader, parts.validation, ckpt_path=parts.resume_from)
        write_text(_home(folder, member) / FIGURES, json.dumps(parts.module.figures()))  # full name of the head
        (_home(folder, member) / RESUME).unlink(missing_ok=True)
        tracker.metrics(parts.module.best_epoch())
        tracker.finish("FINISHED")

    def _bag(self, slide: EmbeddedSlide) -> Bag:
        return Bag(slide, self.model.classes.index(slide.row.labels[self.model.label]))


def _home(folder: Path, member: int) -> Path:
    return folder / f".head-{member}"
