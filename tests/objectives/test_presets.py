"""Every preset of pretraining holds together, and none does to medical images what is meant for photographs."""

from pathlib import Path

import pytest

from medvit.objectives.dinov2 import DinoV2Config
from medvit.transforms.views import MultiCropConfig
from pipelines.pretrain import PretrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(CONFIGS.glob("*/pretrain*.yaml"))


def load(path: Path) -> PretrainConfig:
    return PretrainConfig.load(path, ["dataset=somewhere", "output=elsewhere"])


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_crops_are_whole_patches_of_the_rank_of_the_images(path):
    config = load(path)
    ndim = 2 if config.preprocess is None or config.preprocess.kind == "image" else 3
    patch = config.backbone.patch_size
    patches = (patch,) * ndim if isinstance(patch, int) else patch
    for size in config.objective.views.sizes.values():
        assert len(size) in (0, ndim)
    views = config.objective.views.fitted(tuple(4 * side for side in patches), patches)
    sizes = [views.size, *([views.local_size] if isinstance(views, MultiCropConfig) else [])]
    assert all(side % patch == 0 for size in sizes for side, patch in zip(size, patches, strict=True))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_preset_solarizes_or_turns_gray_and_sides_are_kept_where_they_mean_something(path):
    views = load(path).objective.views
    if isinstance(views, MultiCropConfig):
        assert views.intensity.solarize == views.intensity.grayscale == 0
        keeps_sides = path.parent.name in ("chest-xray", "ct-slices", "ct-volumes", "mr")
        assert not (keeps_sides and views.flipped_axes)


def test_koleo_is_not_for_slices_and_tiles():
    for path in PRESETS:
        objective = load(path).objective
        if isinstance(objective, DinoV2Config) and path.parent.name != "chest-xray":
            assert objective.regularizer != "koleo", path.name
    assert DinoV2Config().regularizer == "kde"
