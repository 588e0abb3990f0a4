"""Prototypes follow the number of images; momentum follows the batch and the number of steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.files.atomic import write_weights
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives._averages import PublishedAverage
from medvit.objectives._prototypes import fitting_prototypes
from medvit.registry import find
from medvit.types import RunLength

Make = Callable[..., Objective]
LONG = RunLength(num_images=1000, step_images=1024, num_steps=100_000)
DINO = PublishedAverage(0.996, step_images=1024)


def options(name: str, **given: Any) -> Any:
    found: type[Config] = find("medvit.objectives", name)
    return found.parse(given)


def horizon(momentum: float) -> float:
    return 1.0 / (1.0 - momentum)


def test_a_thousand_images_have_4096_prototypes_and_the_number_is_a_power_of_two_within_bounds() -> None:
    assert fitting_prototypes(1000) == 4096
    assert fitting_prototypes(1) >= 256
    assert fitting_prototypes(10**9) == 65536
    numbers = [fitting_prototypes(round(1.3**power)) for power in range(80)]
    assert all(number & (number - 1) == 0 and 256 <= number <= 65536 for number in numbers)
    assert numbers == sorted(numbers)
    assert fitting_prototypes(1_281_167) == 32768, "ImageNet: the published 65,536 to a factor of two"


def test_the_published_batch_in_a_long_run_has_the_published_momentum() -> None:
    assert DINO.for_teacher(LONG) == pytest.approx(0.996)
    assert PublishedAverage(0.9, 1024).for_center(LONG) == pytest.approx(0.9)


@pytest.mark.parametrize("factor", [1 / 64, 1 / 2, 4])
def test_an_average_covers_equally_many_images_whatever_the_batch(factor: float) -> None:
    """The horizon in images to a hundredth: 1 / (1 - m^k) is 1 / (k (1 - m)) to first order."""
    images = round(1024 * factor)
    scaled = DINO.for_teacher(RunLength(1000, images, 10**7))
    assert scaled == pytest.approx(0.996**factor)
    assert horizon(scaled) * images == pytest.approx(horizon(0.996) * 1024, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 10, 100, 1000, 10**5])
def test_an_average_over_a_short_run_covers_at_most_a_tenth_of_it(steps: int) -> None:
    small = RunLength(1000, 8, steps)
    for momentum in (DINO.for_teacher(small), PublishedAverage(0.9, 1024).for_center(small)):
        assert 0.0 <= momentum < 1.0
        assert horizon(momentum) <= max(1.0, steps / 10) + 1e-6


def test_the_center_covers_ten_steps_or_a_hundredth_of_them() -> None:
    center = PublishedAverage(0.9, 1024)
    assert horizon(center.for_center(RunLength(1000, 8, 500))) == pytest.approx(10)
    assert horizon(center.for_center(RunLength(1000, 8, 5000))) == pytest.approx(50)
    assert center.for_center(RunLength(1000, 2048, 5000)) == pytest.approx(0.81)


def test_every_batch_of_a_step_moves_the_center_and_the_teacher_moves_once() -> None:
    """Four batches of 16 images in each of 50 steps: 200 updates of the center, 50 of the teacher."""
    joint, parts = RunLength(1000, 64, 50, num_accumulated=4), RunLength(1000, 16, 200)
    center = PublishedAverage(0.9, 64)
    assert center.for_center(joint) == center.for_center(parts) != center.for_center(RunLength(1000, 64, 50))
    assert DINO.for_teacher(joint) == DINO.for_teacher(RunLength(1000, 64, 50))


def test_momentum_rises_with_the_steps_and_falls_with_the_batch() -> None:
    by_steps = [DINO.for_teacher(RunLength(1000, 16, steps)) for steps in (10, 100, 1000, 10**4, 10**5)]
    by_batch = [DINO.for_teacher(RunLength(1000, images, 10**6)) for images in (16, 64, 256, 4096)]
    assert by_steps == sorted(by_steps)
    assert by_batch == sorted(by_batch, reverse=True)


@pytest.mark.parametrize(("name", "momentum", "images"), [("dino", 0.996, 1024), ("dinov2", 0.992, 2048)])
def test_unset_options_are_filled_in_and_logged(
    name: str, momentum: float, images: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "medvit"):
        found = options(name).fitted(RunLength(1000, images, 10**5))
    assert found.head.prototypes == 4096
    assert (found.momentum, found.center_momentum) == pytest.approx((momentum, 0.9))
    assert "Prototypes: 4096, for 1000 training images" in caplog.text
    assert f"Momentum of the teacher: {momentum:g}, an average over about" in caplog.text
    assert "Momentum of the center: 0.9, an average over about 10 batches" in caplog.text
    assert found.fitted(RunLength(7, 7, 7)) == found, "what is recorded is in force again"


def test_given_options_remain() -> None:
    given = options("dino", head={"prototypes": 100}, momentum=0.5, center_momentum=0.25)
    assert given.fitted(LONG) == given


def test_simdinov2_has_a_momentum_but_no_prototypes() -> None:
    found = options("simdinov2").fitted(RunLength(1000, 512, 10**5))
    assert found.momentum == pytest.approx(0.9)
    assert found.head.prototypes is None


@pytest.mark.parametrize("name", ["mae", "simmim", "lejepa"])
def test_other_objectives_do_not_depend_on_the_length_of_the_run(name: str) -> None:
    found: ObjectiveConfig = options(name)
    assert found.fitted(LONG) == found


SMALL = {"hidden": 32, "bottleneck": 16}


def test_prototypes_of_a_head_to_start_from_are_kept(make: Make, tmp_path: Path) -> None:
    first = make("dino", head=SMALL | {"prototypes": 24})
    for name, state in first.kept().items():
        write_weights(tmp_path / name, state)
    continued = options("dino", head={"prototypes": None}).continued(tmp_path).fitted(LONG)
    from_file = options("dino", head=SMALL | {"weights": str(tmp_path / "image_head.safetensors")}).fitted(LONG)
    assert continued.head.prototypes == from_file.head.prototypes == 24


def test_swav_balances_no_more_prototypes_than_images() -> None:
    assert options("swav", queue=8192).fitted(LONG).prototypes == 4096
    assert options("swav", queue=2048).fitted(RunLength(1000, 16, 100)).prototypes == 2048
    assert options("swav", queue=0).fitted(RunLength(1000, 16, 100)).prototypes == 16
    assert options("swav", queue=100).fitted(RunLength(1000, 64, 100, num_accumulated=2)).prototypes == 128
    assert options("swav", prototypes=5).fitted(LONG).prototypes == 5


def test_one_image_is_not_balanced() -> None:
    with pytest.raises(ConfigError, match=r"there is only one; raise loader\.batch_size or objective\.queue"):
        options("swav", queue=0).fitted(RunLength(1000, 4, 100, num_accumulated=4))


def test_swav_continues_with_the_prototypes_of_a_checkpoint(make: Make, tmp_path: Path) -> None:
    tiny = {"projector": {"hidden": 24, "width": 6}}
    first = make("swav", **tiny, prototypes=5)
    for name, state in first.kept().items():
        write_weights(tmp_path / name, state)
    found = options("swav").continued(tmp_path).fitted(LONG)
    assert found.prototypes == 5
    second = make("swav", **{key: value for key, value in found.tree().items() if key != "name"})
    assert torch.equal(second.prototypes, first.prototypes)
    with pytest.raises(ConfigError, match=r"objective\.prototypes is 7; the checkpoint .* has 5: leave it unset"):
        options("swav", prototypes=7).continued(tmp_path)
    assert options("swav", projector={"weights": "off"}, prototypes=7).continued(tmp_path).prototypes == 7
