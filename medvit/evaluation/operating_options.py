"""Options of operating points: the wished sensitivity, specificity or predictive value, and the prevalence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from medvit.config import Config
from medvit.errors import ConfigError

Inside = Annotated[float, Field(gt=0.0, lt=1.0)]
Goal = Literal["sensitivity", "specificity", "ppv"]
TASKS = ("classification", "ordinal", "multilabel", "slide")
"""Tasks of models, or kinds of models, that have operating points."""
GOALS: tuple[Goal, ...] = ("sensitivity", "specificity", "ppv")


class OperatingOptions(Config):
    """Operating points of a classification. Thresholds are chosen on the val split, and evaluated on `split`."""

    sensitivity: tuple[Inside, ...] = ()
    """Wished sensitivity, such as 0.95, or several. For each one, the highest threshold is chosen that has at least
    this sensitivity in the val split.
    """
    specificity: tuple[Inside, ...] = ()
    """Wished specificity, or several. For each one, the lowest threshold is chosen that has at least this specificity
    in the val split.
    """
    ppv: tuple[Inside, ...] = ()
    """Wished positive predictive value at `prevalence`, or several. For each one, the lowest threshold is chosen that
    has at least this value in the val split.
    """
    prevalence: Inside | None = None
    """Share of patients with the condition where the model will be used: for predictive values, the decision curve, and
    metrics of patients resampled to this share. Unset: the share in the val split, without resampling.
    """
    positive: tuple[str, ...] = ()
    """Classes that count as positive together, such as the grades [2,3,4], against all others; for several labels, the
    labels to choose points for. Empty: the positive one of two classes, or each class or label against the rest.
    """
    level: Literal["image", "eye", "visit", "patient"] = "image"
    """Aggregation level of the calls. medvit predict makes calls for each image and needs points of the level image."""
    report: Path | None = None
    """Earlier report of the same model, whose operating points are evaluated instead of choosing new ones: for the same
    thresholds on the data of another hospital.
    """

    @field_validator("sensitivity", "specificity", "ppv", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | float) else value

    @property
    def is_used(self) -> bool:
        """Whether operating points, or results at a prevalence, are requested.

        Raises:
            ConfigError: If options are given that have no effect, because no value is wished and no report is given.
        """
        if self.report is not None and self.goals:
            raise ConfigError("operating.report has operating points already; remove the wished values, or the report")
        is_used = self.report is not None or bool(self.goals) or self.prevalence is not None
        if not is_used and self.model_fields_set:
            key = sorted(self.model_fields_set)[0]
            raise ConfigError(f"operating.{key} needs a wished value, such as operating.sensitivity=0.95")
        return is_used

    @property
    def goals(self) -> list[tuple[Goal, float]]:
        """Pairs of a goal and the wished value."""
        return [(goal, value) for goal in GOALS for value in getattr(self, goal)]


def require_classes(task: str) -> None:
    """Check that a task has classes for which thresholds can be chosen.

    Raises:
        ConfigError: If it does not, as for a segmentation.
    """
    if task not in TASKS:
        raise ConfigError(f"operating points are for {', '.join(TASKS)}; the model is a {task}: remove operating.*")
