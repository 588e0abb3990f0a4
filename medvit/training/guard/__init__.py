"""Guard of pretraining: it evaluates the weights at the start and after every epoch, and keeps the best ones.

Continued pretraining may fail silently: the loss remains flat while the features collapse. The guard compares every
probe evaluation with the best previous one, including that of the initial weights. If the new one is worse, the guard
ends the run with the best weights.

All probe evaluations use the same images and labels, so two scores are compared image by image. A lower score counts if
the difference exceeds both `drop` and twice the standard error of the mean paired difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import model_validator

from medvit.config import Amount, Config, Count, Share
from medvit.metrics.effective_rank import METRIC as EFFECTIVE_RANK

NAN = float("nan")
AlarmKind = Literal["low", "fall", "collapse"]


class GuardConfig(Config):
    """Check of the weights after each epoch (the guard), and response if they got worse."""

    action: Literal["rollback", "stop", "warn", "off"] = "rollback"
    """Response to weights that got worse. rollback: end the run and save the best weights, which may be the initial
    weights. stop: end the run as failed, but store its best weights. warn: only log a warning. off: do not evaluate the
    weights.
    """
    drop: Share = 0.05
    """Tolerated drop of the probe score (balanced accuracy) below the best score so far. Drops within twice the
    standard error of the difference are always tolerated.
    """
    rise: Amount = 0.2
    """Tolerated relative increase of the reconstruction error above the lowest error so far."""
    patience: Count = 2
    """Number of consecutive probe evaluations that must exceed `drop` or `rise` before the guard acts. At the end of
    the run, one such evaluation is enough.
    """
    rank_soft: Amount = 10.0
    """Effective rank of the features below which the guard warns."""
    rank_hard: Amount = 2.0
    """Effective rank of the features below which the guard acts at once, because the features have collapsed. With
    objectives that reconstruct pixels, low ranks are usual, and the guard acts only if the probe score also drops.
    """
    entropy: Share = 0.1
    """Entropy of the teacher's targets, as a fraction of the largest possible entropy, below which the guard acts at
    once, because the targets have collapsed.
    """

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class ProbeReading:
    """Result of a probe evaluation at a step; values that were not measured are NaN."""

    step: int
    score: float = NAN
    """Balanced accuracy: of a linear probe for objectives that reconstruct pixels, else of nearest neighbors; in [0,
    1].
    """
    noise: float = 0.0
    """Standard error of `score`; if there is no score, of `knn`."""
    hits: tuple[float, ...] = ()
    """Contribution of each query image to `score` (to `knn` if there is no score); the sum of the contributions is the
    score.
    """
    rank: float = NAN
    """Effective rank of the features of all probe images (`medvit.metrics.effective_rank`)."""
    cosine: float = NAN
    """Mean cosine similarity between the features of two probe images (`medvit.metrics.mean_cosine`)."""
    entropy: float = NAN
    """Entropy of the teacher's targets, as a share of its maximum, log K for K prototypes."""
    reconstruction: float = NAN
    """Reconstruction error on probe images, with the same patches hidden in every probe evaluation."""
    knn: float = NAN
    """Balanced accuracy of nearest neighbors; reported for every objective."""
    images: int = 0
    """Number of images from which the rank is computed; the rank cannot exceed it."""

    def figures(self) -> dict[str, float]:
        """Return the measured values, keyed by name."""
        names = ("score", "rank", "cosine", "entropy", "reconstruction", "knn")
        return {name: getattr(self, name) for name in names if not math.isnan(getattr(self, name))}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.figures().items())


@dataclass(frozen=True)
class Alarm:
    """Alarm of the guard about a probe evaluation.

    A `collapse` ends the run at once. A `fall` ends the run only if it persists, and `low` is only reported.
    """

    kind: AlarmKind
    text: str


class Guard:
    """Detector of degradation, which turns probe evaluations into alarms.

    `best` is the probe evaluation whose weights are kept.

    `verdict` is the reason why the run ends early. If the initial weights are random, a falling score is reported, but
    it does not end the run, because early learning fluctuates. A collapse, or a rising reconstruction error, still ends
    the run.
    """

    def __init__(self, config: GuardConfig, *, starts_random: bool = False) -> None:
        self.config = config
        self.starts_random = starts_random
        self.start: ProbeReading | None = None
        self.best: ProbeReading | None = None
        self.last: ProbeReading | None = None
        self.verdict = ""
        self._falls = 0
        self._highest_rank, self._lowest_error = 0.0, math.inf

    def take(self, reading: ProbeReading) -> list[Alarm]:
        """Return the alarms for a new probe evaluation, and update `best` and `verdict`.

        If `best` is the new evaluation afterwards, the current weights should be kept.
        """
        alarms = list(self._alarms(reading))
        kinds = {alarm.kind for alarm in alarms}
        self._falls = self._falls + 1 if "fall" in kinds else 0
        if self.start is None:
            self.start = self.best = reading
        elif not kinds & {"fall", "collapse"} and self._is_best(reading):
            self.best = reading
        if self._floor is not None:
            self._highest_rank = max(self._highest_rank, _number(reading.rank, 0.0))
        self._lowest_error = min(self._lowest_error, _number(reading.reconstruction, math.inf))
        self.last = reading
        if "collapse" in kinds or self._falls >= self.config.patience:
            self.verdict = "; ".join(alarm.text for alarm in alarms if alarm.kind != "low")
        return alarms

    def close(self) -> str:
        """Return why the best weights must be saved at the end of a run instead of the last ones.

        The text is empty if the last weights may be saved.
        """
        if not self.verdict and self._falls and self.last is not None:
            self.verdict = "; ".join(alarm.text for alarm in self._alarms(self.last) if alarm.kind != "low")
        return self.verdict if self.config.action == "rollback" else ""

    def describe_rollback(self) -> str:
        """Return why the run ended early, and which weights are saved instead of the last ones.

        The text is empty if the last weights are saved.
        """
        best, last, reason = self.best, self.last, self.close()
        if best is None or last is None or not reason:
            return ""
        which = "the initial weights" if best.step == 0 else f"the weights of step {best.step}"
        return f"the guard ended the training at step {last.step}: {reason}; {which} are passed on"

    def describe(self) -> dict[str, str]:
        """Return the probe evaluations and the verdict of the guard, for the model card."""
        if self.start is None or self.last is None:
            return {"guard": "off"}
        readings = {"start": self.start, "last step": self.last}
        description = {f"guard at the {name}": str(reading) for name, reading in readings.items()}
        verdict = self.describe_rollback() or self.verdict
        return description | {"guard": verdict or "no alarm; the last weights are passed on"}

    def state(self) -> dict[str, Any]:
        """Return the state as plain values, for the checkpoint to resume from."""
        readings = {name: getattr(self, name) for name in ("start", "best", "last")}
        return {name: None if reading is None else asdict(reading) for name, reading in readings.items()} | {
            "verdict": self.verdict,
            "falls": self._falls,
            "best_is_start": self.best is self.start,
            "highest_rank": self._highest_rank,
            "lowest_error": self._lowest_error,
        }

    def recall(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state` returned."""
        for name in ("start", "best", "last"):
            setattr(self, name, None if state[name] is None else _reading(state[name]))
        if state["best_is_start"]:
            self.best = self.start
        self.verdict, self._falls = str(state["verdict"]), int(state["falls"])
        self._highest_rank, self._lowest_error = float(state["highest_rank"]), float(state["lowest_error"])

    @property
    def _worse(self) -> AlarmKind:
        """Kind of alarm for a worse score: `fall`, or only `low` if training began with random weights."""
        return "low" if self.starts_random else "fall"

    @property
    def _floor(self) -> ProbeReading | None:
        """Probe evaluation that new ones are compared with: the best previous one.

        The result is None if the best evaluation is that of randomly initialized weights before training.
        """
        return None if self.starts_random and self.best is self.start else self.best

    def _is_best(self, reading: ProbeReading) -> bool:
        """Return whether a probe evaluation is the best so far, by its score.

        If it has no score, the reconstruction error decides. Of two equal evaluations, the later one is the best.
        """
        if self._floor is None or self.best is None:
            return True
        if not math.isnan(reading.score):
            return reading.score >= self.best.score
        if not math.isnan(reading.reconstruction):
            return reading.reconstruction <= self.best.reconstruction
        return True

    def _alarms(self, reading: ProbeReading) -> Iterator[Alarm]:
        config, before = self.config, self._floor or reading
        allowed = max(config.drop, 2.0 * paired_error(before, reading))
        if reading.images and math.isnan(reading.rank):
            yield Alarm("collapse", "features are not finite")
        if reading.rank < config.rank_hard:
            yield Alarm(self._of_rank(reading, before, allowed), f"the {EFFECTIVE_RANK.title} is {reading.rank:.2f}")
        elif reading.rank < config.rank_soft <= reading.images / 2:
            yield Alarm("low", f"the {EFFECTIVE_RANK.title} is {reading.rank:.2f}")
        if reading.entropy < config.entropy:
            text = f"the teacher's entropy is {reading.entropy:.3f} of its largest"
            yield Alarm("collapse" if reading.step else "low", text)
        if reading.score < before.score - allowed:
            text = f"the score is {reading.score:.3f}, after {before.score:.3f} at step {before.step}"
            yield Alarm(self._worse, text)
        if reading.reconstruction > self._lowest_error * (1.0 + config.rise):
            yield Alarm(
                "fall", f"the reconstruction error is {reading.reconstruction:.3g}, after {self._lowest_error:.3g}"
            )

    def _of_rank(self, reading: ProbeReading, before: ProbeReading, allowed: float) -> AlarmKind:
        """Return the kind of alarm for an effective rank below `rank_hard`.

        The alarm is only `low` if the rank was never above `rank_hard`. It is also `low` if the images can be
        reconstructed and other scores have not become worse.
        """
        if self._highest_rank < self.config.rank_hard:
            return "low"
        if math.isnan(reading.reconstruction):
            return "collapse"
        if math.isnan(reading.score):
            return self._worse if reading.knn < before.knn - allowed else "low"
        return self._worse if reading.score < before.score else "low"


def _reading(state: Mapping[str, Any]) -> ProbeReading:
    return ProbeReading(**{**state, "hits": tuple(state.get("hits", ()))})


def paired_error(before: ProbeReading, after: ProbeReading) -> float:
    """Return the standard error of the difference of two scores on the same images.

    If the contribution of each image is unknown, the result is the larger one of the standard errors of the scores.
    """
    count = len(after.hits)
    if count < 2 or len(before.hits) != count:
        return max(before.noise, after.noise)
    differences = [new - old for old, new in zip(before.hits, after.hits, strict=True)]
    mean = sum(differences) / count
    # Images are drawn, so the sum of n differences has n times their variance.
    return math.sqrt(count / (count - 1) * sum((difference - mean) ** 2 for difference in differences))


def _number(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
