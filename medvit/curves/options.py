"""Options of a learning curve, and of the training runs it consists of."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medvit.config import AsWritten, Config, Count, Positive, Tree, read_yaml
from medvit.curves.amounts import ALL, LabelAmount
from medvit.engine import EngineConfig
from medvit.errors import ConfigError
from medvit.records import Split
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.pretraining_options import PretrainingOptions

Arm = Literal["scratch", "pretrained", "given", "continued"]
Method = Literal["full", "lora", "frozen"]
OF_STAGES = ("dataset", "output", "seed", "resume", "tracking", "checkpoint")
"""Keys that a curve sets itself and ignores in the YAML files of its stages; only the `checkpoint` in the file of
fine-tuning is used.
"""

log = logging.getLogger("medvit")


class TrainingEngine(EngineConfig):
    """Parallel processing of trainings, on this machine or on a Ray cluster."""

    item_timeout_s: Positive | None = None
    """Time limit in seconds for one training run. It applies only with several processes. Unset: no limit."""


class CurveOptions(Config):
    """Options of a curve, without those common to all stages."""

    dataset: Path
    """Dataset folder made by ingest, with labels or label maps. Labels are drawn from its train split."""
    output: Path
    """New folder for the figure, the tables and the scores of all runs."""
    finetune: Path
    """YAML file of `medvit finetune` with the task. The arms `given` and `continued` start from the weights that this
    file sets as `checkpoint` or `backbone.weights`.
    """
    pretrain: Path | None = None
    """YAML file of `medvit pretrain` for the pretraining on all training images, labeled or not. Unset: no
    pretraining is run; the checkpoints in `pretrained`, if any, are used.
    """
    pretrained: tuple[Path, ...] = ()
    """Existing checkpoints, one per seed, to use instead of the pretraining in `pretrain`. They must have been
    pretrained on the training images of this dataset.
    """
    arms: tuple[Arm, ...] | None = None
    """Initial weights to compare. scratch: random. pretrained: pretrained on all training images from random weights.
    given: the weights set in `finetune`. continued: these weights after further pretraining on all training images.
    Unset: scratch, given and continued if `finetune` sets weights, else scratch and pretrained; arms that require
    pretraining are omitted if there is none.
    """
    ways: tuple[Method, ...] = ("full", "lora", "frozen")
    """Fine-tuning methods, which are all run for each of the initial weights in `arms`. full: all weights are trained.
    lora: low-rank updates. frozen: only the head is trained (linear probe).
    """
    labeled: tuple[LabelAmount, ...] = (0.01, 0.05, 0.2, ALL)
    """Amounts of labeled training patients: fractions below 1, whole numbers of patients, or the word all. At least as
    many patients are drawn as there are classes. The value all does not leave patients for choosing the learning rate
    and the number of steps; for all patients, the settings that were chosen for the largest of the other amounts are
    used.
    """
    draws: Count = 10
    """Number of random draws of labeled patients for each amount."""
    pretrainings: Count = 3
    """Number of pretraining runs, each with its own seed. The draws of labels are distributed evenly over them."""
    split: Split = "test"
    """Split with the test patients."""
    rates: tuple[Positive, ...] = (1e-4, 3e-4, 1e-3)
    """Candidate learning rates for fine-tuning, the same for every arm."""
    lengths: tuple[Count, ...] = (100, 300, 1000)
    """Candidate numbers of fine-tuning steps, the same for every arm."""
    strengths: tuple[Positive, ...] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    """Candidate values of the inverse regularization strength (C) of the baseline, a logistic regression on pixels."""
    tuning_draws: Count = 2
    """Number of draws used to choose learning rate and number of steps, in addition to `draws`. Candidates are scored
    on training patients that are not in the draw.
    """
    tuning_images: Count = 500
    """Maximum number of images on which a candidate learning rate and number of steps are scored."""
    equal_steps: bool = True
    """Add a baseline: training from scratch for as many steps as pretraining and fine-tuning take together."""
    resamples: Count = 10_000
    """Number of bootstrap resamples for the intervals."""
    engine: TrainingEngine = Field(default_factory=TrainingEngine)

    @field_validator("arms", "ways", "labeled", "rates", "lengths", "strengths", "pretrained")
    @classmethod
    def _differ(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        twice = [value for place, value in enumerate(values or ()) if value in (values or ())[:place]]
        if twice:
            raise ValueError(f"{twice[0]} is listed twice; list each once")
        return values

    @field_validator("arms", "ways", "labeled", "rates", "lengths", "strengths")
    @classmethod
    def _has_some(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and not values:
            raise ValueError("the list is empty; list at least one, or remove the option")
        return values

    @model_validator(mode="after")
    def _one_source_of_pretraining(self) -> CurveOptions:
        if self.pretrain is not None and self.pretrained:
            raise ValueError("pretrain and pretrained are both set; give the file or the checkpoints")
        if self.labeled == (ALL,):
            raise ValueError(
                "labeled contains only all, which does not leave a patient to choose settings by; add a smaller amount"
            )
        return self

    @property
    def num_pretrainings(self) -> int:
        """Number of pretraining runs for each arm (choice of initial weights) with pretraining."""
        return len(self.pretrained) or self.pretrainings

    @property
    def num_threads(self) -> int:
        """Number of torch threads per process, chosen so that all processes together use all cores of the machine."""
        return max(1, (os.cpu_count() or 1) // self.engine.num_processes)

    @cached_property
    def finetuning(self) -> Tree:
        """Return the options in the YAML file of fine-tuning, without the keys that the curve sets itself."""
        checkpoint = read_yaml(self.finetune, scalars=AsWritten).get("checkpoint")
        return self._for_runs(self.finetune) | ({"checkpoint": checkpoint} if checkpoint else {})

    @cached_property
    def pretraining(self) -> Tree:
        """Return the options in the YAML file of pretraining, without the keys that the curve sets itself.

        The result is empty if there is no such file.
        """
        return {} if self.pretrain is None else self._for_runs(self.pretrain)

    @cached_property
    def task(self) -> FinetuningOptions:
        """Return the fine-tuning options in force, which runs complete by initial weights, labels and settings.

        Raises:
            ConfigError: If the file sets a task other than classification; the dataset decides between classification
                and segmentation.
        """
        options = FinetuningOptions.parse({**self.finetuning, **self._places}, source=str(self.finetune))
        if options.task not in (None, "classification"):
            raise ConfigError(
                f"{self.finetune} has task={options.task}; a curve compares only classifications and segmentations, "
                "which it infers from the dataset; remove task"
            )
        return options

    @cached_property
    def objective(self) -> PretrainingOptions:
        """Return the options of pretraining in force, before the initial weights are chosen."""
        return PretrainingOptions.parse({**self.pretraining, **self._places}, source=str(self.pretrain))

    @property
    def given_weights(self) -> Tree:
        """Return the options of the file of fine-tuning that set initial weights; empty if there are none."""
        if self.task.checkpoint is not None:
            return {"checkpoint": str(self.task.checkpoint)}
        keys = ("weights", "weights_grid")
        return {} if self.public_weights is None else {key: getattr(self.task.backbone, key) for key in keys}

    @property
    def public_weights(self) -> str | None:
        """Return `backbone.weights` of the file of fine-tuning, unless it sets a checkpoint."""
        return None if self.task.checkpoint is not None else getattr(self.task.backbone, "weights", None)

    def check(self) -> None:
        """Check the YAML files of pretraining and fine-tuning before any work starts.

        Raises:
            ConfigError: If a key or value is wrong, an arm lacks its weights, or no arm uses a given file.
        """
        if self.pretrain is not None:
            self._check_pretraining(self.pretrain)
        arms = self.arms_in_force()
        unused = {
            "pretrained": bool(self.pretrained) and "pretrained" not in arms,
            "pretrain": self.pretrain is not None and not {"pretrained", "continued"} & set(arms),
        }
        for key, is_unused in unused.items():
            if is_unused:
                raise ConfigError(
                    f"{key} is set, and none of the arms {', '.join(arms)} uses it; name the arms to compare, as in "
                    f"arms=[scratch,pretrained], or remove {key}"
                )

    def _check_pretraining(self, path: Path) -> None:
        """Check that the file of pretraining sets no weights; the file of fine-tuning sets the weights of all arms."""
        set_here = {
            "checkpoint": read_yaml(path).get("checkpoint"),
            "backbone.weights": getattr(self.objective.backbone, "weights", None),
            "self_distillation.teacher": self.objective.self_distillation.teacher,
        }
        for key, value in set_here.items():
            if value:
                raise ConfigError(
                    f"{path} sets {key}; the arm pretrained starts from random weights, and the arms given and "
                    f"continued from those in {self.finetune}: remove {key} here, and set initial weights there"
                )

    @property
    def _is_parallel(self) -> bool:
        return self.engine.num_processes > 1 or self.engine.name == "ray"

    @property
    def _places(self) -> Tree:
        return {"dataset": self.dataset, "output": self.output}

    def _for_runs(self, path: Path) -> Tree:
        """Return the options in the YAML file of a stage, without the keys that the curve sets itself."""
        tree = read_yaml(path, scalars=AsWritten)
        kept = {key: value for key, value in tree.items() if key not in OF_STAGES}
        loader = kept.get("loader")
        if self._is_parallel and isinstance(loader, dict) and loader.get("num_workers", "0") != "0":
            log.info("loader.num_workers of %s is 0 here, because several trainings run at a time", path)
            kept["loader"] = {**loader, "num_workers": 0}  # processes of the engine may not start others
        return kept

    def arms_in_force(self) -> tuple[Arm, ...]:
        """Return the arms (choices of initial weights) to compare.

        These are the arms in the option `arms`. If it is unset, they are `scratch`, `given` and `continued` if the file
        of fine-tuning sets weights, else `scratch` and `pretrained`. Without pretraining, `continued` and `pretrained`
        are omitted.

        Raises:
            ConfigError: If the initial weights of an arm in `arms` are not available.
        """
        has_weights = bool(self.given_weights)
        has_pretraining = bool(self.pretrained) or self.pretrain is not None
        possible: dict[Arm, bool] = {
            "scratch": True,
            "pretrained": has_pretraining,
            "given": has_weights,
            "continued": has_weights and self.pretrain is not None,
        }
        if self.arms is None:
            default = {**possible, "pretrained": has_pretraining and not has_weights}
            return tuple(arm for arm, is_possible in default.items() if is_possible)
        needs = {
            "pretrained": "pretrain=FILE or pretrained=[FOLDER,...]",
            "given": f"checkpoint or backbone.weights in {self.finetune}",
            "continued": f"pretrain=FILE, and checkpoint or backbone.weights in {self.finetune}",
        }
        if "scratch" not in self.arms:
            raise ConfigError("arms lacks scratch, which the effects of the other arms are measured against; add it")
        for arm in self.arms:
            if not possible[arm]:
                raise ConfigError(f"arms contains {arm}, which needs {needs[arm]}")
        return self.arms
