"""Momentum of moving averages that suits the batch and the number of steps.

An average with momentum m covers about 1 / (1 - m) steps, its horizon. For k times the batch, m becomes m^k (the EMA
scaling rule: Busbridge et al., NeurIPS 2023), so that the horizon in images is the published one. In a small batch or a
short run, that horizon may exceed the run: the average would keep its initial value. The horizon is therefore bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvit.types import RunLength

TEACHER_SHARE = 0.1
"""Largest horizon of a teacher's moving average, as a fraction of the steps; the horizon is 1 / (1 - momentum).

With a momentum that rises to 1 along a cosine, the initial weights then contribute exp(-5) to the final average.
"""
CENTER_SHARE = 0.01
"""Largest horizon of the center's moving average, as a fraction of the batches, but at least `CENTER_BATCHES`.

A center starts at zero, from which a long horizon would hardly move it.
"""
CENTER_BATCHES = 10
"""Horizon of the published center in batches: 1 / (1 - 0.9)."""


@dataclass(frozen=True)
class PublishedAverage:
    """Momentum of a moving average in a published recipe, and the number of images per step in that recipe."""

    momentum: float
    step_images: int

    def scaled(self, step_images: int) -> float:
        """Return the momentum for steps of `step_images` images.

        The moving average then covers as many images as in the published recipe.
        """
        return float(self.momentum ** (step_images / self.step_images))

    def for_teacher(self, length: RunLength) -> float:
        """Return the momentum of a teacher: the scaled one, but with a horizon of at most a tenth of the steps."""
        return min(self.scaled(length.step_images), momentum_of(TEACHER_SHARE * length.num_steps))

    def for_center(self, length: RunLength) -> float:
        """Return the momentum of a center: the scaled one, but with a bounded horizon.

        Every batch updates the center, even if a step accumulates several batches. The horizon is at most a hundredth
        of the batches in the run or 10 batches, whichever is more; in a run of fewer than 100 batches, it is at most a
        tenth of them.
        """
        run = length.in_batches
        longest = min(max(CENTER_SHARE * run.num_steps, CENTER_BATCHES), TEACHER_SHARE * run.num_steps)
        return min(self.scaled(run.step_images), momentum_of(longest))


def momentum_of(horizon: float) -> float:
    """Return the momentum of an average over `horizon` steps.

    For a horizon of one step or less, it is 0: the average equals the last value.
    """
    return 1.0 - 1.0 / max(1.0, horizon)


def described(momentum: float, images: int, *, noun: str = "steps") -> str:
    """Return a text for a log line: a momentum, and its horizon in steps (of `images` images) and in images."""
    steps = 1.0 / (1.0 - momentum)
    return f"{momentum:.6g}, an average over about {steps:.3g} {noun} or {steps * images:,.0f} images"
