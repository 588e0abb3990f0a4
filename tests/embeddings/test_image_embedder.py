"""Embeddings of images: those of the backbone, the mean over windows and slices, the same in every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.dataset.slices import SlicesConfig
from medvit.embeddings import image_embedder
from medvit.embeddings.image_embedder import ImageEmbedder, LastLayer
from medvit.embeddings.table import key_of
from medvit.errors import CheckpointError
from medvit.models.base import pretrained_backbone
from medvit.models.image import Model
from medvit.types import Image
from tests.models.tuned import backbone_in, tuned_in


@pytest.fixture(autouse=True)
def in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in 32 bits, also on processors on which models compute in bfloat16."""
    monkeypatch.setattr(image_embedder, "half_precision", lambda _: None)


def image(seed: int, *shape: int) -> Image:
    pixels = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    return Image(pixels, "image" if len(shape) == 2 else "volume")


def test_an_embedding_is_class_token_and_mean_of_the_patch_tokens(tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(backbone_in(tmp_path / "backbone"))
    embedder = ImageEmbedder(checkpoint, "cpu")
    one = image(0, 16, 24)
    pixels = embedder.preprocess(one).pixels[None]
    with torch.no_grad():
        tokens = pretrained_backbone(checkpoint).eval()(pixels)
    expected = torch.cat([tokens.prefix[:, 0], tokens.patches.mean(dim=1)], dim=1)[0].numpy()
    np.testing.assert_allclose(embedder(one), expected, atol=1e-6)
    assert ImageEmbedder(checkpoint, "cpu", LastLayer("mean"))(one).shape == (48,)


def test_images_of_several_shapes_are_embedded_as_one_by_one(tmp_path: Path) -> None:
    embedder = ImageEmbedder(Checkpoint.load(backbone_in(tmp_path / "backbone")), "cpu")
    images = [image(0, 16, 16), image(1, 16, 16), image(2, 24, 16), image(3, 16, 16)]
    together = embedder.embed(embedder.parts(one) for one in images)
    alone = np.stack([embedder(one) for one in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_model_with_windows_has_the_mean_embedding_of_its_windows(tmp_path: Path) -> None:
    backbone = backbone_in(tmp_path / "backbone")
    folder = tuned_in(tmp_path / "model", backbone, roi=(16, 16), overlap=0.0, preprocess={"kind": "image"})
    checkpoint = Checkpoint.load(folder)
    embedder = ImageEmbedder(checkpoint, "cpu")
    whole = image(0, 32, 16)
    pixels = embedder.preprocess(whole).pixels
    parts = embedder.parts(whole)
    assert [tuple(part.shape) for part in parts] == [(1, 16, 16), (1, 16, 16)]
    torch.testing.assert_close(torch.cat(parts, dim=1), pixels)
    mean = np.mean([embedder.embed([[part]])[0] for part in parts], axis=0)
    np.testing.assert_allclose(embedder(whole), mean, atol=1e-5)


def test_the_backbone_of_a_model_includes_its_adapter(tmp_path: Path) -> None:
    backbone = backbone_in(tmp_path / "backbone")
    checkpoint = Checkpoint.load(tuned_in(tmp_path / "model", backbone, peft="lora"))
    adapted, frozen = ImageEmbedder(checkpoint, "cpu"), ImageEmbedder(Checkpoint.load(backbone), "cpu")
    assert adapted.facts["weights_sha256"] != frozen.facts["weights_sha256"]
    model = Model.from_checkpoint(checkpoint)
    for name, weight in model.backbone.state_dict().items():
        assert torch.equal(weight, adapted.backbone.state_dict()[name])


def test_a_volume_has_the_mean_embedding_of_its_slices(tmp_path: Path) -> None:
    backbone = backbone_in(tmp_path / "backbone")
    sliced = {"slices": SlicesConfig.parse({"planes": ["axial"]}).tree(), "preprocess": {"kind": "image"}}
    embedder = ImageEmbedder(Checkpoint.load(tuned_in(tmp_path / "model", backbone, **sliced)), "cpu")
    volume = image(0, 16, 16, 3)
    assert embedder.kind == "volume"
    parts = embedder.parts(volume)
    assert len(parts) == 3
    mean = np.mean([embedder.embed([[part]])[0] for part in parts], axis=0)
    np.testing.assert_allclose(embedder(volume), mean, atol=1e-5)


def test_equal_facts_have_equal_keys_and_other_weights_another(tmp_path: Path) -> None:
    first, second = (Checkpoint.load(backbone_in(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert key_of(ImageEmbedder(first, "cpu").facts) == key_of(ImageEmbedder(first, "cpu").facts)
    assert key_of(ImageEmbedder(first, "cpu").facts) != key_of(ImageEmbedder(second, "cpu").facts)


def test_an_ensemble_is_refused_because_it_has_several_backbones(tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(tuned_in(tmp_path / "model", backbone_in(tmp_path / "backbone")))
    checkpoint.model["members"] = 2
    with pytest.raises(CheckpointError, match="ensemble, which has several backbones"):
        ImageEmbedder(checkpoint, "cpu")
