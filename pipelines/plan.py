"""Cost of a training run before it is started: parameters, FLOPs, memory, time and disk space."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medvit.artifacts import FINGERPRINT
from medvit.config import unknown_name
from medvit.dataset.fingerprint import lines_of
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.stage import Run, Stage, StageConfig, first_free
from medvit.tracking import Tracker
from medvit.training.loading.schedule import Schedule
from medvit.training.planning.table import TABLE, Plan, PlanRow, image_rows, slide_rows
from medvit.training.planning.trial import shortened, try_images, try_slides
from medvit.training.proposals.batches import propose_duration
from medvit.training.slide_assembly import SEEDS
from medvit.training.slide_heads import holds_slides
from pipelines import finetune as finetuning
from pipelines import pretrain as pretraining

log = logging.getLogger("medvit")


class PlanConfig(StageConfig):
    """Options of `medvit plan` in addition to those of the planned training run."""

    OUTPUT: ClassVar[str] = "plan"
    IS_DISTRIBUTED: ClassVar[bool] = False
    RESOLVED: ClassVar[tuple[str, ...]] = ()

    plan: Path | None = None
    """New folder for the table. Unset: the first unused name of plan-1, plan-2... in the current folder."""
    output: Path = Path("planned")
    """Output folder of the planned training run. Nothing is written into it; the plan reports the free space of its
    disk.
    """

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.plan or first_free("plan")


class PretrainPlanConfig(PlanConfig, pretraining.PretrainConfig):
    """Options of `medvit plan pretrain`."""


class FinetunePlanConfig(PlanConfig, finetuning.FinetuneConfig):
    """Options of `medvit plan finetune`."""


class PlanStage(Stage[Any, Plan]):
    """Stage `plan`: the first word of its command names a training stage, whose options it accepts."""

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.recipe.__doc__

    def about(self, words: Sequence[str]) -> tuple[Stage[Any, Plan], list[str]]:
        """Return the plan stage for the training stage that the first word names, and the other words.

        Raises:
            ConfigError: If the first word is not a stage that can be planned.
        """
        name = words[0] if words else ""
        if name not in PLANNED:
            raise ConfigError(unknown_name("stage to plan", name, list(PLANNED)))
        return PlanStage(self.name, PLANNED[name], self.recipe), list(words[1:])


PLANNED: Mapping[str, type[PlanConfig]] = {"pretrain": PretrainPlanConfig, "finetune": FinetunePlanConfig}


def _plan(config: Any, run: Run) -> Plan:
    """Estimate time, memory and disk space of pretraining or fine-tuning from a few measured steps."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker()  # the training is not recorded
        tracker.wants_pictures = True  # but drawing pictures takes time
        measuring = Run(run.stage, Path(folder), tracker)
        if isinstance(config, PretrainPlanConfig):
            rows = _pretraining_rows(config, measuring)
        elif holds_slides(Manifest.read(config.dataset), config.label):
            rows = _slide_rows(config, measuring)
        else:
            rows = _finetuning_rows(config, measuring, run.folder)
    run.inputs |= measuring.inputs
    run.parents |= measuring.parents
    for line in measuring.failures:
        log.warning("%s", line)
    plan = Plan(run.folder, rows)
    plan.write()
    print(plan)
    run.keep(TABLE, FINGERPRINT)
    return plan


plan = PlanStage("plan", PretrainPlanConfig, _plan)


def _shortened(config: Any) -> Any:
    """Return the options for a training run of a few steps, which the guard does not stop."""
    changes: dict[str, Any] = {"trainer": shortened(config.trainer), "resume": False}
    if isinstance(config, PretrainPlanConfig) and config.guard.action != "off":
        changes["guard"] = config.guard.model_copy(update={"action": "warn"})
    return config.model_copy(update=changes)


def _pretraining_rows(config: PretrainPlanConfig, run: Run) -> tuple[PlanRow, ...]:
    """Return the table for pretraining."""
    sizes, measured = try_images(pretraining.assemble(_shortened(config), run))
    return image_rows(config.schedule, sizes, measured, models=1, output=config.output)


def _finetuning_rows(config: FinetunePlanConfig, run: Run, folder: Path) -> tuple[PlanRow, ...]:
    """Return the table for fine-tuning on images or volumes, and write their fingerprint and all proposals."""
    short, models = _shortened(config), config.num_members(seeds=1)
    parts = finetuning.ensemble_training(short, run).first if models > 1 else finetuning.assemble(short, run)
    proposals = parts.proposals
    trainer = config.trainer.model_copy(update={"accumulate": parts.schedule.trainer.accumulate})
    images = trainer.over({}).step_images(parts.schedule.loader.batch_size)
    duration = propose_duration(proposals, trainer, parts.task.kind, parts.num_images, images)
    proposals.write(folder)
    sizes, measured = try_images(parts)
    schedule = Schedule(parts.schedule.loader, trainer.over(duration))
    rows = image_rows(schedule, sizes, measured, models=models, output=config.output)
    return (*lines_of(proposals.fingerprint), *proposals.rows(), *rows)


def _slide_rows(config: FinetunePlanConfig, run: Run) -> tuple[PlanRow, ...]:
    """Return the table for training on slides."""
    short = _shortened(config)
    parts = finetuning.assemble_on_slides(short, run)
    found = try_slides(parts, short, seed=config.seed, folder=run.folder, tracker=run.tracker, failures=run.failures)
    return slide_rows(
        Schedule(config.loader.over({}), config.trainer.over({})),
        *found,
        heads=config.num_members(seeds=SEEDS),
        workers=config.tiles.num_workers,
        output=config.tiles.embeddings or config.dataset,
    )
