import numpy as np
import pytest

from medvit.training.loading.block_shuffle import AT_ONCE, BLOCK, Blocks
from medvit.training.loading.epochs import EpochSampler


def order(lengths: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return Blocks(lengths).order(np.random.default_rng(seed))


@pytest.mark.parametrize("lengths", [(1,), (0, 5, 0), (1000, 3, 400), (BLOCK,) * 7])
def test_every_tile_comes_once(lengths: tuple[int, ...]):
    assert sorted(order(lengths).tolist()) == list(range(sum(lengths)))


def test_within_a_block_tiles_come_in_the_order_of_the_file():
    found = order((5000,))
    assert np.mean([np.abs(found[:n] - found[n]).min() == 1 for n in range(AT_ONCE, 2 * AT_ONCE)]) > 0.9


def test_a_batch_holds_tiles_of_many_places():
    found = order((5000, 5000, 5000))
    assert len({index // BLOCK for index in found[:32].tolist()}) > 24
    assert len({index // 5000 for index in found[:32].tolist()}) == 3


def test_orders_differ_from_lap_to_lap():
    assert not np.array_equal(order((1000,), 0), order((1000,), 1))


def test_a_run_that_goes_on_gets_the_tiles_that_the_uninterrupted_one_would():
    def drawn(**options) -> list:
        return list(EpochSampler(300, draws_per_epoch=80, seed=3, blocks=Blocks((100, 200)), **options))

    def whole(number: int) -> list:
        sampler = EpochSampler(300, draws_per_epoch=80, seed=3, blocks=Blocks((100, 200)))
        sampler.set_epoch(number)
        return list(sampler)

    assert drawn(first_epoch=4, skip=24) == whole(4)[24:]
    assert {draw.index for number in range(15) for draw in whole(number)} == set(range(300))
