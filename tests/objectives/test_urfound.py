"""Masked pixels and masked words (UrFound): the words are predicted from the image, and only from it."""

from __future__ import annotations

import math

import pytest
import torch

from medvit.errors import DataError
from medvit.objectives.urfound import PAD, PATIENCE, UrFound
from medvit.types import Views

TINY = {
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "vocabulary": 40,
    "max_words": 12,
    "text_width": 32,
    "text_depth": 1,
    "text_heads": 2,
}
NAMES = ("drusen", "edema", "glaucoma", "healthy")


def planted(num_images: int, *, seed: int = 0, side: int = 32) -> tuple[Views, torch.Tensor]:
    """Images with a bright quarter, which of the four decides the label word; the numbers of the quarters."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 4, (num_images,), generator=generator)
    pixels = 0.2 * torch.randn(num_images, 1, side, side, generator=generator)
    for image, kind in zip(pixels, kinds.tolist(), strict=True):
        top, left = (kind // 2) * side // 2, (kind % 2) * side // 2
        image[:, top : top + side // 2, left : left + side // 2] += 2.0
    descriptions = tuple({"finding": NAMES[kind]} for kind in kinds.tolist())
    return Views(pixels[None], descriptions=descriptions), kinds


@pytest.fixture
def objective(make) -> UrFound:
    return make("urfound", mask_ratio=0.5, **TINY)


def test_pixels_are_rebuilt_at_twice_the_resolution(objective):
    views, _ = planted(3)
    predicted, target, masking = objective.reconstruct(views.crops[0])
    # 32 pixels of a view are 16 of the encoder, 2 x 2 patches of 8, each of which rebuilds 16 x 16.
    assert predicted.shape == target.shape == (3, 4, 256)
    assert masking.mask.shape == (3, 4)
    losses = objective(views, 0.0)
    assert set(losses.terms) == {"reconstruction", "words"}
    assert losses.total.isfinite()


def test_every_text_with_a_word_has_one_hidden_and_padding_never_is(objective):
    ids = torch.tensor([[5, 6, 7, PAD], [9, PAD, PAD, PAD], [PAD] * 4])
    for _ in range(20):
        words = objective.hide(ids)
        assert words.hidden.any(dim=1).tolist() == [True, True, False]
        assert not words.hidden[ids == PAD].any()
        assert (words.read[~words.hidden] == ids[~words.hidden]).all()


def test_a_latent_of_zero_makes_it_a_model_of_text_alone(objective):
    """The loss does not depend on the images."""
    views, _ = planted(6)
    words = objective.hide(objective.texts(views.descriptions, 6))
    objective.project.bias.data.zero_()
    nothing = torch.zeros(6, 32)
    alone = objective.word_loss(nothing, words)
    assert float(objective.word_loss(torch.randn(6, 32), words)) != pytest.approx(float(alone), abs=1e-6)
    objective.project.weight.data.zero_()
    assert float(objective.word_loss(torch.randn(6, 32), words)) == pytest.approx(float(alone), abs=1e-6)


def test_hidden_words_do_not_reach_the_encoder_of_words(objective):
    words = objective.hide(torch.tensor([[5, 6, 7, 8]]))
    assert (words.read[words.hidden] == 1).all()


def trained(objective: UrFound, *, informative: bool) -> float:
    """The loss of the hidden label word on new images, after training on images that show it, or do not."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3, fused=True)
    for step in range(90):
        views, _ = planted(32, seed=step)
        if not informative:
            views = Views(views.crops[:, torch.randperm(32)], descriptions=views.descriptions)
        optimizer.zero_grad()
        objective(views, 0.0).total.backward()
        optimizer.step()
    return label_loss(objective, *planted(64, seed=999))


@torch.no_grad()
def label_loss(objective: UrFound, views: Views, kinds: torch.Tensor, *, shuffled: bool = False) -> float:
    """Cross entropy of the word of the label, given the key."""
    pixels = views.crops[0].roll(1, dims=0) if shuffled else views.crops[0]
    seen = objective.see(objective.coarse(pixels))
    latent = seen.encoded[:, objective.backbone.num_prefix_tokens :].mean(dim=1)
    ids = objective.texts(views.descriptions, len(kinds))
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 1] = True
    return float(objective.word_loss(latent, type(objective.hide(ids))(ids, hidden)))


def test_the_loss_of_words_falls_only_if_the_image_tells_them(make):
    """Chance is ln 4 = 1.39 nats; images of other texts do not change it, matching images reduce it below a half."""
    options = {"mask_ratio": 0.25, "text_weight": 3.0, **TINY}
    backbone = {"patch_size": 4}
    informed = make("urfound", backbone=backbone, **options)
    assert trained(informed, informative=True) < 0.7
    untold = make("urfound", backbone=backbone, **options)
    assert trained(untold, informative=False) > math.log(4) - 0.1
    views, kinds = planted(64, seed=999)
    assert label_loss(informed, views, kinds, shuffled=True) > 2.0 * label_loss(informed, views, kinds)


def test_images_without_a_word_are_refused_after_some_batches(objective):
    views = Views(planted(2)[0].crops)
    for _ in range(PATIENCE - 1):
        assert float(objective(views, 0.0).terms["words"]) == 0.0
    with pytest.raises(DataError, match="requires labels or texts: ingest labels"):
        objective(views, 0.0)


def test_images_without_a_word_beside_others_only_rebuild_pixels(objective):
    views, _ = planted(4)
    some = Views(views.crops, descriptions=({}, *views.descriptions[1:]))
    assert objective(some, 0.0).total.isfinite()
