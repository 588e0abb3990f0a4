"""Block masks: at most the requested number, and at least one patch."""

import numpy as np
import pytest

from medvit.transforms.masking import block_mask, draw_masks


@pytest.mark.parametrize("grid", [(14, 14), (6, 6, 6)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_mask_has_at_most_the_patches_asked_for_and_nearly_as_many(grid, share):
    generator, size = np.random.default_rng(0), int(np.prod(grid))
    wanted = int(share * size)
    counts = [int(block_mask(grid, wanted, generator).sum()) for _ in range(20)]
    assert max(counts) <= wanted
    assert np.mean(counts) > 0.7 * wanted


def test_a_mask_is_made_of_blocks():
    """Masked patches have far more masked neighbors than patches masked one by one would."""
    mask = np.mean([_neighbors(block_mask((14, 14), 60, np.random.default_rng(seed))) for seed in range(10)])
    assert mask > 2 * 60 / 196


def _neighbors(mask):
    pairs = [(mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])]
    return sum((a & b).sum() for a, b in pairs) / sum((a | b).sum() for a, b in pairs)


def test_half_of_the_crops_are_masked_by_ratios_spread_evenly():
    masks = draw_masks(range(32), 32, (14, 14), share=0.5, ratios=(0.1, 0.5), seed=0)
    counts = sorted(masks.sum(1).tolist())
    assert counts[:16] == [0] * 16
    assert 0 < counts[16] <= 0.125 * 196
    assert 0.35 * 196 < counts[-1] <= 0.5 * 196


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 2, 1), (2, 2, 2)])
@pytest.mark.parametrize("num_crops", [1, 2])
def test_even_the_smallest_batch_and_grid_have_a_masked_patch(grid, num_crops):
    for seed in range(5):
        masks = draw_masks(range(num_crops), num_crops, grid, share=0.5, ratios=(0.1, 0.5), seed=seed)
        assert masks.any()


def test_a_part_of_a_batch_has_the_masks_it_has_in_the_whole():
    whole = draw_masks(range(8), 8, (14, 14), share=0.5, ratios=(0.1, 0.5), seed=3)
    part = draw_masks([1, 3, 5], 8, (14, 14), share=0.5, ratios=(0.1, 0.5), seed=3)
    assert (part == whole[[1, 3, 5]]).all()
