from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medvit.artifacts import Checkpoint
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.geometry import Affine
from medvit.hardware import resolve_device
from medvit.inference.predictor import Predictor, mask_on_grid
from medvit.models.image import Model, ModelConfig
from medvit.transforms.preprocess import Preprocess, resize
from medvit.types import Image

VIT = {"name": "vit", "ndim": 3, "channels": 1, "patch_size": 4, "width": 12, "depth": 4, "heads": 2}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Checkpoint]:
    def make(kind: str, *, ndim: int = 3, **preprocess: object) -> Checkpoint:
        torch.manual_seed(0)
        head = {"name": "dense", "channels": 4} if kind == "segmentation" else {"name": "linear"}
        config = ModelConfig.parse(
            {
                "kind": kind,
                "backbone": {**VIT, "ndim": ndim},
                "peft": {"name": "full"},
                "head": head,
                "classes": ("background", "front", "back"),
                "applies_to": {"kind": "volume" if ndim == 3 else "image"},
            }
        )
        chain = Preprocess.parse({"kind": config.applies_to.kind, **preprocess})
        state = Model(config, config.backbone.build()).state_dict()
        return Checkpoint(tmp_path / kind, config.tree(), chain.tree(), state).save()

    return make


def test_a_mask_on_its_own_grid_comes_back_unchanged() -> None:
    mask = torch.randint(0, 5, (7, 6, 9), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(mask_on_grid(F.one_hot(mask, 5).movedim(-1, 0).float(), (7, 6, 9)), mask)


@pytest.mark.parametrize("shape", [(16, 16, 16), (24, 24, 24), (37, 41, 29)])
def test_a_boundary_stays_at_its_place_in_mm_when_the_grid_changes(shape: tuple[int, ...]) -> None:
    # A field linear in space is kept by linear interpolation, inside the outermost voxel centers.
    source = np.stack(np.meshgrid(*((np.arange(24) + 0.5) / 24,) * 3, indexing="ij"))
    target = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    inside, outside = (field[0] + 0.3 * field[1] - 0.2 * field[2] - 0.537 for field in (source, target))
    mask = mask_on_grid(torch.from_numpy(np.stack([-inside, inside])), shape)
    middle = (slice(2, -2),) * 3
    assert np.array_equal(mask[middle], (outside > 0)[middle])


def test_an_identity_model_gives_the_mask_back_through_another_spacing() -> None:
    mask = torch.zeros(20, 24, 16)
    mask[4:12, 6:20, 4:8] = 1.0
    finer = resize(torch.stack([1 - mask, mask]), (40, 48, 32))
    assert np.array_equal(mask_on_grid(finer, (20, 24, 16)), mask)


def test_a_segmentation_lies_on_the_grid_of_the_image_it_was_given(make_checkpoint: Callable[..., Checkpoint]) -> None:
    predictor = Predictor(make_checkpoint("segmentation", spacing_mm=(2.0, 2.0, 2.0)), "cpu")
    pixels = np.random.default_rng(0).integers(0, 100, (1, 11, 13, 9), dtype=np.int16)
    image = Image(pixels, "volume", affine=Affine.from_spacing((1.1, 1.3, 3.0), (-5.0, 2.0, 7.0)))
    prediction = predictor(image)
    assert prediction.mask is not None
    assert prediction.mask.shape == (11, 13, 9)
    assert prediction.affine is image.affine
    assert prediction.classes == ("background", "front", "back")


def test_kept_probabilities_are_those_of_which_the_mask_is_the_largest(
    make_checkpoint: Callable[..., Checkpoint],
) -> None:
    made = make_checkpoint("segmentation", spacing_mm=(2.0, 2.0, 2.0))
    pixels = np.random.default_rng(0).integers(0, 100, (1, 11, 13, 9), dtype=np.int16)
    image = Image(pixels, "volume", affine=Affine.from_spacing((1.1, 1.3, 3.0), (-5.0, 2.0, 7.0)))
    prediction, without = Predictor(made, "cpu", keeps_probabilities=True)(image), Predictor(made, "cpu")(image)
    assert without.voxel_probabilities is None
    assert prediction.voxel_probabilities is not None
    assert prediction.mask is not None
    assert np.array_equal(prediction.mask, without.mask)
    front, back = prediction.voxel_probabilities.astype(int)
    rest = 255 - front - back  # background, within the rounding of two values
    every = np.stack([rest, front, back])
    chosen = np.take_along_axis(every, prediction.mask[None].astype(int), 0)[0]
    assert (every.max(axis=0) - chosen <= 2).all()
    assert len(np.unique(prediction.mask)) > 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_probabilities_of_a_classification_add_up_to_one(make_checkpoint: Callable[..., Checkpoint], ndim: int) -> None:
    predictor = Predictor(make_checkpoint("classification", ndim=ndim, size=(16,) * ndim), "cpu")
    pixels = np.random.default_rng(0).integers(0, 100, (1, *(20,) * ndim), dtype=np.uint8)
    prediction = predictor(Image(pixels, "volume" if ndim == 3 else "image"))
    assert prediction.probabilities is not None
    assert prediction.probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_an_image_of_another_kind_is_refused(make_checkpoint: Callable[..., Checkpoint]) -> None:
    predictor = Predictor(make_checkpoint("classification", size=(16, 16, 16)), "cpu")
    with pytest.raises(DataError, match="expected a volume"):
        predictor(Image(np.zeros((1, 8, 8), dtype=np.uint8), "image"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_few_voxels_that_are_not_finite_change_little(
    make_checkpoint: Callable[..., Checkpoint], kind: str, bad: float
) -> None:
    predictor = Predictor(make_checkpoint(kind, spacing_mm=(2.0, 2.0, 2.0)), "cpu")
    pixels = np.random.default_rng(0).normal(100, 20, (1, 16, 16, 16)).astype(np.float32)
    image = Image(pixels, "volume", affine=Affine.from_spacing((1.1, 1.3, 3.0)))
    damaged = pixels.copy()
    damaged[0, 0, 0, :2] = bad
    clean, found = predictor(image), predictor(replace(image, pixels=damaged))
    if kind == "segmentation":
        assert clean.mask is not None
        assert found.mask is not None
        assert len(np.unique(found.mask)) > 1
        assert (clean.mask == found.mask).mean() > 0.9  # share of voxels of one class
    else:
        assert found.probabilities == pytest.approx(clean.probabilities, abs=0.01)


def test_an_image_with_too_few_finite_voxels_is_refused(make_checkpoint: Callable[..., Checkpoint]) -> None:
    predictor = Predictor(make_checkpoint("classification"), "cpu")
    pixels = np.full((1, 16, 16, 16), np.nan, np.float32)
    pixels[:, :4] = 1.0
    with pytest.raises(DataError, match=r"75 % of its voxels are NaN or infinite, .*non_finite_share allows 50 %"):
        predictor(Image(pixels, "volume"))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_model_whose_output_is_not_finite_is_an_error_and_no_result(
    make_checkpoint: Callable[..., Checkpoint], kind: str
) -> None:
    predictor = Predictor(make_checkpoint(kind), "cpu")
    next(iter(predictor.model.head.parameters())).fill_(torch.nan)
    pixels = np.random.default_rng(0).integers(0, 100, (1, 16, 16, 16), dtype=np.int16)
    with pytest.raises(DataError, match="predicted probabilities are not finite"):
        predictor(Image(pixels, "volume"))


def test_a_bare_backbone_is_no_predictor(tmp_path: Path) -> None:
    tree = {"kind": "backbone", "backbone": VIT}
    bare = Checkpoint(tmp_path / "bare", tree, Preprocess().tree(), {"weight": torch.zeros(1)}).save()
    with pytest.raises(CheckpointError, match="is a backbone checkpoint"):
        Predictor(bare, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_missing_gpu_names_the_way_out() -> None:
    with pytest.raises(ConfigError, match="give device=auto or device=cpu"):
        resolve_device("cuda")


def test_only_the_largest_component_of_the_chosen_classes_is_predicted(make_checkpoint, monkeypatch) -> None:
    """The model predicts two components of each class; that of `front` is chosen."""
    mask = torch.zeros(8, 8, 8, dtype=torch.long)
    mask[:3, :3, :3], mask[6, 6, 6], mask[5:, :3, :3], mask[0, 6, 6] = 1, 1, 2, 2
    made = make_checkpoint("segmentation")
    made = replace(made, model={**made.model, "largest_components": ["front"]})
    monkeypatch.setattr(Model, "predict", lambda model, pixels: F.one_hot(mask, 3).movedim(-1, 0)[None].float())
    found = Predictor(made, device="cpu")(Image(np.zeros((1, 8, 8, 8), np.int16), "volume")).mask
    expected = mask.numpy().copy()
    expected[6, 6, 6] = 0
    assert np.array_equal(found, expected)
