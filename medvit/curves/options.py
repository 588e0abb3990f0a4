"""Options of a learning curve, and of the training runs it consists of."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medvit.config import AsWritten, Config, Count, Positive, Tree, read_yaml
from medvit.engine import EngineConfig
from medvit.errors import ConfigError
from medvit.records import Split
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.pretraining_options import PretrainingOptions

Arm = Literal["scratch", "pretrained", "given", "continued"]
Method = Literal["full", "lora", "frozen"]
OF_STAGES = ("dataset", "output", "seed", "resume", "tracking", "checkpoint")
"""Keys of a stage's file that a curve sets itself, except a checkpoint in the file of fine-tuning."""


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
    """Existing checkpoints to use instead of `pretrain`: pretrained on the training images of this dataset, one per
    seed.
    """
    arms: tuple[Arm, ...] | None = None
    """Initial weights to compare. scratch: random. pretrained: pretrained on all training images from random weights.
    given: those in `finetune`. continued: the given ones, pretrained further on all training images. Unset: scratch,
    and those for which files were given.
    """
    ways: tuple[Method, ...] = ("full", "lora", "frozen")
    """Fine-tuning methods of each arm; frozen trains only the head (linear probe)."""
    labeled: tuple[Positive, ...] = (0.01, 0.05, 0.2, 1.0)
    """Amounts of labeled training patients. Values up to 1 are fractions, larger values are numbers of patients."""
    draws: Count = 10
    """Random draws of labeled patients for each amount."""
    pretrainings: Count = 3
    """Number of pretraining runs, each with its own seed. The draws of labels are distributed evenly over them."""
    split: Split = "test"
    """Split with the test patients."""
    rates: tuple[Positive, ...] = (1e-4, 3e-4, 1e-3)
    """Candidate learning rates, the same for every arm."""
    lengths: tuple[Count, ...] = (100, 300, 1000)
    """Candidate numbers of steps, the same for every arm."""
    strengths: tuple[Positive, ...] = (1e-4, 1e-3, 1e-2)
    """Candidate values of the inverse regularization strength (C) of the baseline, a logistic regression on pixels."""
    tuning_draws: Count = 2
    """Number of draws used to choose learning rate and number of steps. Candidates are scored on training patients that
    are not in the draw.
    """
    tuning_images: Count = 500
    """Maximum number of images on which a candidate learning rate and number of steps are scored."""
    equal_steps: bool = True
    """Also train from scratch for as many steps as pretraining and fine-tuning take together."""
    resamples: Count = 10_000
    """Number of bootstrap resamples for the intervals."""
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _one_source_of_pretraining(self) -> CurveOptions:
        if self.pretrain is not None and self.pretrained:
            raise ValueError("pretrain and pretrained are both set; give the file or the checkpoints")
        if set(self.labeled) == {1}:
            raise ValueError(
                "labeled contains only 1 (all patients), which leaves no patient to choose settings by; add a smaller "
                "amount"
            )
        return self

    @property
    def num_pretrainings(self) -> int:
        """Number of pretraining runs of each pretrained arm."""
        return len(self.pretrained) or self.pretrainings

    @property
    def num_threads(self) -> int:
        """Number of torch threads per process, chosen so that all processes together use all cores of the machine."""
        return max(1, (os.cpu_count() or 1) // self.engine.num_processes)

    @cached_property
    def finetuning(self) -> Tree:
        """Return the options in the YAML file of fine-tuning, without the keys that the curve sets itself."""
        tree = read_yaml(self.finetune, scalars=AsWritten)
        given = {"checkpoint": tree["checkpoint"]} if tree.get("checkpoint") else {}
        return {key: value for key, value in tree.items() if key not in OF_STAGES} | given

    @cached_property
    def pretraining(self) -> Tree:
        """Return the options in the YAML file of pretraining, without the keys that the curve sets itself.

        The result is empty if there is no such file.
        """
        tree = {} if self.pretrain is None else read_yaml(self.pretrain, scalars=AsWritten)
        return {key: value for key, value in tree.items() if key not in OF_STAGES}

    def check(self) -> None:
        """Check the YAML files of pretraining and fine-tuning before any work starts.

        Raises:
            ConfigError: If a key or value is wrong, or an arm lacks its weights.
        """
        places = {"dataset": self.dataset, "output": self.output}
        FinetuningOptions.parse({**self.finetuning, **places}, source=str(self.finetune))
        PretrainingOptions.parse({**self.pretraining, **places}, source=str(self.pretrain))
        self.arms_in_force()

    def arms_in_force(self) -> tuple[Arm, ...]:
        """Return the arms (choices of initial weights) to compare.

        These are the arms in the option `arms`. If it is unset, they are all arms whose initial weights are available.

        Raises:
            ConfigError: If the initial weights of an arm in `arms` are not available.
        """
        finetuning = self.finetuning
        has_weights = bool(finetuning.get("checkpoint") or (finetuning.get("backbone") or {}).get("weights"))
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
