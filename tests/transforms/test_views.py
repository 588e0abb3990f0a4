"""Crops for self-supervision: sizes, scales, seeds, and the views of a second image of a study."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.errors import ConfigError
from medvit.records import Row
from medvit.transforms.preprocess import Normalization
from medvit.transforms.views import (
    MakeViews,
    MultiCropConfig,
    ViewsConfig,
    collate_views,
    draw,
    draw_at_scale,
)
from medvit.types import Sample

ROW = Row("i", "p", "s", "s", "CT", "image", "tiny", "train", (1, 40, 40), "int16", "0" * 64)


def sample(*shape: int, channels: int = 1) -> Sample:
    return Sample(torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0)), ROW)


def multi(ndim: int = 2, **options) -> MultiCropConfig:
    return MultiCropConfig(num_local=3, **options).fitted((32,) * ndim, (8,) * ndim)


@pytest.mark.parametrize("ndim", [2, 3])
def test_two_global_crops_and_the_local_ones_have_their_sizes_in_whole_patches(ndim):
    views = MakeViews(multi(ndim), Normalization())(sample(*(40,) * ndim), 5)
    assert views.crops.shape == (2, 1, *(32,) * ndim)
    assert views.local.shape == (3, 1, *(16,) * ndim)  # 96 of 224, in patches of 8


def test_one_view_is_made_for_an_objective_that_wants_one():
    config = ViewsConfig().fitted((32, 32), (8, 8))
    views = MakeViews(config, Normalization())(sample(40, 40), 5)
    assert views.crops.shape == (1, 1, 32, 32)
    assert views.local is None


def test_views_depend_on_the_seed_alone():
    make = MakeViews(multi(augment={"flipped_axes": [1]}), Normalization())
    one, same, other = (make(sample(40, 40), seed) for seed in (5, 5, 6))
    assert torch.equal(one.crops, same.crops)
    assert torch.equal(one.local, same.local)
    assert not torch.equal(one.crops, other.crops)


def test_views_of_a_batch_stand_view_by_view():
    make = MakeViews(multi(), Normalization())
    images = [make(sample(40, 40), seed) for seed in (1, 2)]
    views = collate_views(images)
    assert views.crops.shape == (2, 2, 1, 32, 32)
    assert views.local.shape == (3, 2, 1, 16, 16)
    assert torch.equal(views.crops[1, 0], images[0].crops[1])
    assert torch.equal(views.local[2, 1], images[1].local[2])


def test_a_global_crop_covers_the_share_it_is_asked_for_and_a_local_one_less():
    config, generator = multi(scale=(0.5, 0.6), local_scale=(0.05, 0.1), stretch=1.0), np.random.default_rng(0)
    for scale in (config.scale, config.local_scale):
        shares = [np.prod(draw(config, (200, 100), generator, scale=scale).shape) / 20000 for _ in range(50)]
        assert scale[0] - 0.02 < min(shares)
        assert max(shares) < scale[1] + 0.02


def test_extended_context_keeps_the_scale_of_the_image_within_ten_percent():
    config = multi(zoom=(0.9, 1.1), stretch=1.05)
    generator = np.random.default_rng(0)
    for _ in range(50):
        box = draw_at_scale(config, (392, 392), (224, 224), generator).shape
        assert 0.9 <= (np.prod(box) / 224**2) ** 0.5 <= 1.1 + 0.01
        assert max(box) / min(box) < 1.05 + 0.02


def test_all_crops_lie_in_one_region():
    pixels = torch.arange(100.0)[None, :, None].expand(1, 100, 100).contiguous()
    still = {"chance": 0, "blur": 0}
    config = multi(region=(20, 20), augment=still)
    for seed in range(10):
        views = MakeViews(config, Normalization())(Sample(pixels, ROW), seed)
        rows = torch.cat([views.crops.flatten(), views.local.flatten()])
        assert rows.max() - rows.min() <= 20


def test_a_second_image_of_the_study_gives_every_second_local_crop_and_no_global_one():
    dark, bright = sample(40, 40), replace(sample(40, 40), pixels=torch.full((1, 40, 40), 100.0))
    config = multi(augment={"chance": 0, "blur": 0}, across_study=True)
    views = MakeViews(config, Normalization())(dark, 3, bright)
    assert views.crops.max() < 50
    assert [bool((crop > 99).all()) for crop in views.local] == [False, True, False]


def test_with_an_equal_second_image_the_views_are_those_of_one_image():
    make = MakeViews(multi(region=(30, 30)), Normalization())
    alone, paired = make(sample(40, 40), 3), make(sample(40, 40), 3, sample(40, 40))
    assert torch.equal(alone.crops, paired.crops)
    assert torch.equal(alone.local, paired.local)


def test_windows_in_hounsfield_need_pixels_whose_unit_is_known():
    config = multi(augment={"windows": [[40, 400]]})
    with pytest.raises(ConfigError, match=r"objective\.views\.augment\.windows requires pixels with a known unit"):
        MakeViews(config, Normalization(method="zscore"))
    with pytest.raises(ConfigError, match=r"objective\.other_views\.augment\.windows requires"):
        MakeViews(config, Normalization(method="zscore"), key="other_views")


@pytest.mark.parametrize("ndim", [2, 3])
def test_fine_crops_are_the_global_ones_with_more_pixels_and_neither_blur_noise_nor_erasing(ndim):
    plain = {"chance": 0, "blur": 0, "flipped_axes": [0]}
    waves = torch.linspace(0, 6, 40).reshape(1, -1, *(1,) * (ndim - 1)).sin().expand(1, *(40,) * ndim).contiguous()
    views = MakeViews(multi(ndim, upscale=2, augment=plain), Normalization())(Sample(waves, ROW), 5)
    assert views.fine.shape == (2, 1, *(64,) * ndim)
    means = torch.nn.functional.interpolate(views.fine, size=(32,) * ndim, mode="area")
    torch.testing.assert_close(means, views.crops, atol=0.1, rtol=0)
    noisy = {"chance": 1, "noise": 3.0, "erasing": 1, "contrast": 0, "brightness": 0, "gamma": 0, "flipped_axes": [0]}
    with_noise = MakeViews(multi(ndim, upscale=2, augment=noisy), Normalization())
    assert torch.equal(with_noise(Sample(waves, ROW), 5).fine, views.fine)


def test_fine_crops_take_nothing_from_what_else_is_drawn_and_reach_the_batch():
    one, two = (MakeViews(multi(upscale=finer), Normalization())(sample(40, 40), 5) for finer in (1, 2))
    assert one.fine is None
    assert torch.equal(one.crops, two.crops)
    assert torch.equal(one.local, two.local)
    batch = collate_views([two, two])
    assert batch.fine.shape == (2, 2, 1, 64, 64)
    assert batch.to("cpu").fine.shape == batch.fine.shape


@pytest.mark.parametrize("ndim", [2, 3])
def test_views_of_every_kind_may_be_turned_and_erased(ndim):
    options = {"augment": {"rotation_degrees": 30, "translation": 0.1, "erasing": 1}}
    for kind in (ViewsConfig, MultiCropConfig):
        config = kind.parse(options).fitted((32,) * ndim, (8,) * ndim)
        plain = kind.parse({}).fitted((32,) * ndim, (8,) * ndim)
        image = sample(*(40,) * ndim)
        one, same, other = (MakeViews(one, Normalization())(image, 3).crops for one in (config, config, plain))
        assert torch.equal(one, same)
        assert one.shape == other.shape
        assert not torch.equal(one, other)


def test_a_view_of_a_masked_autoencoder_is_a_plain_part_of_its_image():
    config = ViewsConfig(scale=(1.0, 1.0), stretch=1.0).fitted((40, 40), (8, 8))
    image = sample(40, 40)
    assert torch.equal(MakeViews(config, Normalization())(image, 3).crops[0], image.pixels)


def test_turning_flips_off_leaves_the_crops_where_they_are():
    still = {"chance": 0, "blur": 0}
    with_flips, without = (
        MakeViews(multi(augment=still | {"flipped_axes": axes}), Normalization())(sample(40, 40), 7).crops
        for axes in ([0, 1], [])
    )
    for one, other in zip(with_flips, without, strict=True):
        assert any(torch.equal(one.flip(axes) if axes else one, other) for axes in ([], [1], [2], [1, 2]))
