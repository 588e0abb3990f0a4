"""Exactly one of several degradations is applied to a crop (3-Augment, Touvron et al., ECCV 2022)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medvit.config import ConfigError
from medvit.transforms.augmentation.intensity import IntensityAugmentation, IntensityChange, draw_intensity

THREE = {"one_of": ["grayscale", "solarize", "blur"], "blur": 2.0, "chance": 0.0}


def drawn(seed: int, **options: object) -> IntensityChange:
    config = IntensityAugmentation.parse(options)
    return draw_intensity(config, np.random.default_rng(seed), ndim=2, channels=3)


def applied(change: IntensityChange) -> list[str]:
    there = {"grayscale": change.is_gray, "solarize": change.is_solarized, "blur": change.sigma > 0}
    return [name for name, is_there in there.items() if is_there]


def test_exactly_one_is_applied_and_all_are_equally_frequent() -> None:
    found = [applied(drawn(seed, **THREE)) for seed in range(900)]
    assert all(len(names) == 1 for names in found)
    counts = Counter(names[0] for names in found)
    assert all(240 < counts[name] < 360 for name in THREE["one_of"])


def test_other_degradations_keep_their_probability_and_the_draw_is_that_of_the_seed() -> None:
    options = {"one_of": ["solarize", "blur"], "blur": 2.0, "chance": 0.0, "grayscale": 1.0}
    found = [applied(drawn(seed, **options)) for seed in range(40)]
    assert all(len(names) == 2 and "grayscale" in names for names in found)
    assert drawn(3, **THREE) == drawn(3, **THREE)


def test_the_other_draws_are_as_without_it() -> None:
    for seed in range(20):
        generators = [np.random.default_rng(seed) for _ in range(2)]
        with_it, without = (
            draw_intensity(IntensityAugmentation.parse(options), generator, ndim=2, channels=3)
            for options, generator in zip((THREE, {**THREE, "one_of": []}), generators, strict=True)
        )
        assert (with_it.gamma, with_it.noise_seed, with_it.gains) == (without.gamma, without.noise_seed, without.gains)
        assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_of": ["blur"]}, "is 0"),
        ({"one_of": ["solarize"], "solarize": 0.1}, "solarize applies as well"),
        ({"one_of": ["blur"], "blur": 1.0, "blur_chances": [0.5]}, "blur_chances applies as well"),
        ({"one_of": ["grayscale", "grayscale"]}, "twice"),
    ],
)
def test_two_rules_for_one_degradation_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IntensityAugmentation.parse(options)
