"""Cost of a training before it is started: weights, operations, memory, time and disk."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medvit.config import unknown_name
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.stage import Run, Stage, StageConfig, first_free
from medvit.tracking import Tracker
from medvit.training.plan import MEASURED_STEPS, TABLE, Plan, PlanRow, Sizes, image_rows, slide_rows
from medvit.training.profiling import Measured, Meter
from medvit.training.slide_heads import holds_slides
from medvit.training.slide_plan import PlannedSlides, plan_slides
from pipelines import finetune as finetuning
from pipelines import pretrain as pretraining

log = logging.getLogger("medvit")


class PlanConfig(StageConfig):
    """Options of `medvit plan` beside those of the training that is planned."""

    OUTPUT: ClassVar[str] = "plan"
    IS_DISTRIBUTED: ClassVar[bool] = False
    RESOLVED: ClassVar[tuple[str, ...]] = ()

    plan: Path | None = None
    """Folder to make for the table. Unset: the first free of plan-1, plan-2... in the current folder."""
    output: Path = Path("planned")
    """Folder that the training would make; nothing is written there, but the free space of its disk is told."""

    @property
    def folder(self) -> Path:
        """The folder the stage makes."""
        return self.plan or first_free("plan")


class PretrainPlanConfig(PlanConfig, pretraining.PretrainConfig):
    """Options of `medvit plan pretrain`."""


class FinetunePlanConfig(PlanConfig, finetuning.FinetuneConfig):
    """Options of `medvit plan finetune`."""


class PlanStage(Stage[Any, Plan]):
    """A stage whose options are those of the training that the first word of its command names."""

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.recipe.__doc__

    def about(self, words: Sequence[str]) -> tuple[Stage[Any, Plan], list[str]]:
        """Return the stage with the options of the training that the first word names, and the other words.

        Raises:
            ConfigError: If no stage that can be planned is named.
        """
        name = words[0] if words else ""
        if name not in PLANNED:
            raise ConfigError(unknown_name("stage to plan", name, list(PLANNED)))
        return PlanStage(self.name, PLANNED[name], self.recipe), list(words[1:])


PLANNED: Mapping[str, type[PlanConfig]] = {"pretrain": PretrainPlanConfig, "finetune": FinetunePlanConfig}


def _plan(config: Any, run: Run) -> Plan:
    """Estimate the cost of a pretraining or fine-tuning from a few measured steps; make only a table."""
    with tempfile.TemporaryDirectory() as folder:
        measuring = Run(run.stage, Path(folder), Tracker())  # nothing is kept of the training
        short = _shortened(config)
        if isinstance(config, FinetunePlanConfig) and holds_slides(Manifest.read(config.dataset), config.label):
            rows = _slide_rows(config, *_measure_slides(short, measuring))
        else:
            sizes, measured = _measure(short, measuring)
            rows = image_rows(config.trainer, config.loader, sizes, measured, output=config.output)
    run.inputs |= measuring.inputs
    run.parents |= measuring.parents
    for line in measuring.failures:
        log.warning("%s", line)
    plan = Plan(run.folder, rows)
    plan.write()
    print(plan)
    run.keep(TABLE)
    return plan


plan = PlanStage("plan", PretrainPlanConfig, _plan)


def _shortened(config: Any) -> Any:
    """Return the options of a training of a few steps on one device; compiled steps are not counted."""
    alone = {"devices": 1, "nodes": 1, "strategy": "auto"}
    short = alone | {"epochs": 1, "steps_per_epoch": MEASURED_STEPS, "compile": False}
    changes: dict[str, Any] = {"trainer": config.trainer.model_copy(update=short), "resume": False}
    if isinstance(config, PretrainPlanConfig) and config.guard.action != "off":
        changes["guard"] = config.guard.model_copy(update={"action": "warn"})
    return config.model_copy(update=changes)


def _slide_rows(
    config: FinetunePlanConfig, sizes: Sizes, measured: Measured, planned: PlannedSlides
) -> tuple[PlanRow, ...]:
    return slide_rows(
        config.trainer,
        config.loader,
        sizes,
        measured,
        planned,
        heads=config.bags.members,
        workers=config.tiles.num_workers,
        output=config.tiles.embeddings or config.dataset,
    )


def _measure_slides(config: finetuning.FinetuneConfig, run: Run) -> tuple[Sizes, Measured, PlannedSlides]:
    parts = finetuning.assemble_on_slides(config, run)
    planned = plan_slides(
        parts.slides,
        config.slides,
        embedder=parts.embedder,
        config=config.tiles,
        work=run.folder,
        failures=run.failures,
    )
    head = parts.training(config, planned.slides, seed=config.seed).assemble(0, run.folder, run.tracker)
    backbone, weights = parts.start.backbone, sum(weight.numel() for weight in head.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in backbone.parameters()),
        module=weights,
        trained=weights,
        images=head.num_slides,
        checkpoint_bytes=sum(weight.nbytes for weight in backbone.state_dict().values())
        + 2 * 4 * weights * config.bags.members,
    )
    meter = Meter()
    head.trainer.callbacks = [meter]  # nothing is kept of this run
    head.trainer.fit(head.module, head.loader, head.validation)
    return sizes, meter.measured, planned


def _measure(config: Any, run: Run) -> tuple[Sizes, Measured]:
    meter = Meter()
    parts: Any
    if isinstance(config, pretraining.PretrainConfig):
        parts = pretraining.assemble(config, run)
        backbone, loaders = parts.peft.backbone, [parts.loader]
    else:
        parts = finetuning.assemble(config, run)
        backbone, loaders = parts.module.model.backbone, [parts.loader, parts.validation]
    weights = list(parts.module.parameters())
    sizes = Sizes(
        backbone=sum(weight.numel() for weight in backbone.parameters()),
        module=sum(weight.numel() for weight in weights),
        trained=sum(weight.numel() for weight in weights if weight.requires_grad),
        images=parts.num_images,
        checkpoint_bytes=sum(weight.nbytes for weight in backbone.state_dict().values()),
    )
    parts.trainer.callbacks = [meter]  # nothing is kept of this run
    parts.trainer.fit(parts.module, *loaders)
    return sizes, meter.measured
