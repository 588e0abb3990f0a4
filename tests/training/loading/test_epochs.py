"""The order of images depends only on the seed and the step."""

import itertools

import numpy as np

from medvit.training.loading.epochs import Alternation, EpochSampler


def draws(sampler: EpochSampler, epochs: range) -> list:
    found = []
    for number in epochs:
        sampler.set_epoch(number)
        found += list(sampler)
    return found


def test_rounds_in_one_go_and_resumed_draw_the_same():
    whole = draws(EpochSampler(10, draws_per_epoch=7, seed=3), range(5))
    resumed = draws(EpochSampler(10, draws_per_epoch=7, seed=3, first_epoch=3), range(3, 5))
    assert whole[21:] == resumed


def test_a_resumed_sampler_starts_at_its_round_unasked():
    first = list(EpochSampler(10, draws_per_epoch=7, seed=3, first_epoch=2))
    assert first == draws(EpochSampler(10, draws_per_epoch=7, seed=3), range(2, 3))


def test_every_image_comes_once_before_any_comes_twice():
    indices = [draw.index for draw in draws(EpochSampler(9, draws_per_epoch=6, seed=0), range(6))]
    for lap in (
        itertools.batched(indices, 9) if hasattr(itertools, "batched") else zip(*[iter(indices)] * 9, strict=True)
    ):
        assert sorted(lap) == list(range(9))


def test_no_two_draws_share_a_seed():
    seeds = [draw.seed for draw in draws(EpochSampler(4, draws_per_epoch=50, seed=1), range(4))]
    assert len(set(seeds)) == len(seeds)


def test_weights_make_rare_images_as_frequent_as_asked():
    sampler = EpochSampler(4, draws_per_epoch=4000, seed=0, weights=[1, 1, 1, 3])
    share = np.mean([draw.index == 3 for draw in sampler])
    assert abs(share - 0.5) < 0.03  # three standard errors of 4000 draws


def test_two_kinds_take_turns_batch_by_batch_and_each_comes_whole_before_any_comes_twice():
    sampler = EpochSampler(9, draws_per_epoch=24, seed=0, alternation=Alternation(num_first=6, batch_size=2))
    indices = [draw.index for draw in draws(sampler, range(2))]
    batches = [indices[i : i + 2] for i in range(0, len(indices), 2)]
    assert all((index < 6) == (number % 2 == 0) for number, batch in enumerate(batches) for index in batch)
    first, second = ([index for batch in batches[turn::2] for index in batch] for turn in range(2))
    assert sorted(first[:6]) == list(range(6))
    assert sorted(second[:3]) == [6, 7, 8]
    resumed = EpochSampler(
        9, draws_per_epoch=24, seed=0, first_epoch=1, alternation=Alternation(num_first=6, batch_size=2)
    )
    assert [draw.index for draw in resumed] == indices[24:]


def test_the_images_of_a_patient_are_spread_over_every_lap():
    """Of 3 patients with 12, 6 and 2 images, each half of a lap has half of each, give or take one."""
    patients = ["a"] * 12 + ["b"] * 6 + ["c"] * 2
    sampler = EpochSampler(20, draws_per_epoch=20, seed=0, patients=patients)
    laps = [[draw.index for draw in draws(sampler, range(lap, lap + 1))] for lap in range(3)]
    assert laps[0] != laps[1]
    for lap in laps:
        assert sorted(lap) == list(range(20))
        for half in (lap[:10], lap[10:]):
            counts = [sum(patients[index] == name for index in half) for name in "abc"]
            assert all(abs(count - whole / 2) <= 1 for count, whole in zip(counts, (12, 6, 2), strict=True))
    resumed = EpochSampler(20, draws_per_epoch=20, seed=0, first_epoch=1, skip=7, patients=patients)
    assert [draw.index for draw in resumed] == laps[1][7:]
