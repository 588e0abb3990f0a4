"""Training of an ensemble: one model after the other, each with its own fold, seed and best epoch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.files.atomic import write_text, write_weights
from medvit.models.ensemble import ensemble_states, of_each_model
from medvit.records import Row
from medvit.tracking import Tracker
from medvit.training.assembly import AssembledFinetuning, PositiveOf, assemble_finetuning, assigned, images_of
from medvit.training.ensembles.folds import FIGURES, EnsembleMember, members_of
from medvit.training.finetuning import BEST_METRIC, component_overlaps, mean_of_best, raised_by_largest
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.options import describe_patients, trained_on
from medvit.training.resume import BEST, RESUME

log = logging.getLogger("medvit")

COMPONENTS = "components.safetensors"
"""File with the overlaps of a model's masks with the truth on held-out images.

Overlaps are computed twice: with all components of a predicted mask, and with only the largest one.
"""


@dataclass(frozen=True)
class EnsembleTraining:
    """Training of the models of an ensemble on images; each model has its own folder within `folder`."""

    options: FinetuningOptions
    manifest: Manifest
    pretrained: Checkpoint | None
    positive_of: PositiveOf
    seed: int
    folder: Path
    tracker: Tracker

    @cached_property
    def members(self) -> list[EnsembleMember]:
        """Models to train."""
        return members_of(self.options.folds, self.options.num_members(seeds=1), self.seed)

    @cached_property
    def first(self) -> AssembledFinetuning:
        """Components of the first model; all models share its crop, planned backbone, head and selection of series.

        Raises:
            ConfigError: If several devices are requested.
        """
        if self.options.trainer.devices * self.options.trainer.nodes > 1:
            raise ConfigError(
                "models of an ensemble are trained one after the other on one device; remove trainer.devices and "
                "trainer.nodes, or folds and seeds"
            )
        first = self._assemble(self.members[0], self.options, Tracker())
        first.proposals.write(self._home(self.members[0]))  # for a resumed run
        return first

    @cached_property
    def rows(self) -> list[Row]:
        """Images on which the models are trained, or on which they select their best epoch."""
        held_out = bool(self.options.folds) or self.options.keep == "best"
        options = self.options
        images = images_of(options, self.members[0].split(self.manifest, *options.fold_labels))
        task = assigned(options, images, self.first.start.preprocess, with_val=held_out)
        return [*task.train, *task.val]

    def train(self) -> Checkpoint:
        """Train the models that are not finished, and return the ensemble, without saving it.

        Raises:
            DataError: If there are fewer patients than folds, or a split of a model is empty.
        """
        start = self.first.start.config
        planned = {"backbone": start} if self.pretrained is None and start.FOLLOWS_CROP else {}
        options = self.options.model_copy(update=self._fixed | planned)
        self.first.start.backbone.cpu()
        for member in self.members:
            if not (self._home(member) / FIGURES).is_file():
                log.info("finetune: model %d of %d", member.number + 1, len(self.members))
                self._train(member, options)
        saved = [Checkpoint.load(self._home(member)) for member in self.members]
        adapters = [one.stored_adapter() for one in saved]
        kept = [adapter for adapter in adapters if adapter is not None]
        return replace(
            saved[0],
            folder=self.folder,
            model={
                **saved[0].model,
                "members": len(saved),
                "largest_components": self._largest_components(),
                **of_each_model(saved),
            },
            state=ensemble_states([one.state for one in saved]),
            adapter=ensemble_states(kept) if len(kept) == len(saved) else None,
        )

    def figures(self) -> dict[str, float]:
        """Return the metrics of each finished model."""
        return {
            f"model {member.number + 1}: {name}": value
            for member in self.members
            for name, value in json.loads((self._home(member) / FIGURES).read_text(encoding="utf-8")).items()
        }

    def best_epochs(self) -> dict[str, float]:
        """Return the mean of the best validation metrics of all models, for MLflow."""
        return mean_of_best(self.first.module.metric_name, self.figures())

    def outcome(self, figures: Mapping[str, float]) -> dict[str, str]:
        """Return, for a summary, the numbers of images and patients, and the best validation metric of each model.

        A model without a validation metric is omitted.
        """
        task = self.first.task
        found = {f"model {member.number + 1}": f"model {member.number + 1}: {BEST_METRIC}" for member in self.members}
        texts = {name: f"{BEST_METRIC} {figures[key]:.3f}" for name, key in found.items() if key in figures}
        images = trained_on(self.rows) if self.options.folds else trained_on([*task.train], [*task.val])
        return images | texts

    def describe(self) -> dict[str, str]:
        """Return the training settings for the model card."""
        first, folds = self.first, self.options.folds
        divided = f"in {folds} folds of patients" if folds else "by the splits of the dataset"
        return {
            "images": f"{len(self.rows)}, {divided}",
            "patients": describe_patients(self.rows),
            "models": f"{len(self.members)}, whose predictions are averaged",
            **self.options.describe(first.optim, first.schedule, num_images=first.num_images),
            "seed": str(self.seed),
            **first.proposals.describe(),
        }

    @property
    def leftovers(self) -> list[str]:
        """Return the names of the folders for single models, which only an unfinished run needs."""
        return [self._home(member).name for member in self.members]

    @property
    def _fixed(self) -> dict[str, object]:
        """Options of the first model that all models share."""
        first, model = self.first, self.first.model.config
        return {
            "preprocess": first.start.preprocess,
            "crop": model.roi,
            "applies_to": model.applies_to,
            "head": model.head,
            "positive": model.positive,
            "loader": first.schedule.loader,
            "trainer": first.schedule.trainer,
            "foreground": first.foreground.share,
            "foreground_by": first.foreground.by,
        }

    def _largest_components(self) -> list[str]:
        """Return the classes whose Dice on held-out images rises if only the largest component is kept.

        The held-out images of all models count together.
        """
        if not self.options.largest_components:
            return []
        each = [load_file(self._home(member) / COMPONENTS)["overlaps"] for member in self.members]
        return list(raised_by_largest(torch.cat(each, dim=1), self.first.model.config.classes))

    def _train(self, member: EnsembleMember, options: FinetuningOptions) -> None:
        home = self._home(member)
        tracker = member.tracked(self.tracker, len(self.members), member.own_seed)
        parts = self._assemble(member, options, tracker)
        parts.trainer.fit(parts.module, *parts.loaders, ckpt_path=parts.resume_from)
        parts.module.restore_best()
        best = parts.model
        if options.largest_components and parts.validation is not None:
            write_weights(home / COMPONENTS, {"overlaps": component_overlaps(best, parts.validation)})
        adapter, preprocess = best.stored_adapter(), parts.start.preprocess.tree()
        Checkpoint(home, best.config.tree(), preprocess, best.merged_state(), adapter).save()
        write_text(home / FIGURES, json.dumps(parts.module.figures()))
        tracker.metrics(parts.module.best_epoch())
        tracker.finish("FINISHED")
        for name in (RESUME, BEST):
            (home / name).unlink(missing_ok=True)

    def _assemble(self, member: EnsembleMember, options: FinetuningOptions, tracker: Tracker) -> AssembledFinetuning:
        torch.manual_seed(member.own_seed)
        self._home(member).mkdir(parents=True, exist_ok=True)  # of the weights of the best epoch
        return assemble_finetuning(
            options,
            member.split(self.manifest, *options.fold_labels),
            self.pretrained,
            self.positive_of,
            seed=member.own_seed,
            folder=self._home(member),
            tracker=tracker,
        )

    def _home(self, member: EnsembleMember) -> Path:
        return self.folder / f".model-{member.number}"
