"""Every preset of pretraining is consistent, and does not augment medical images like photographs."""

from pathlib import Path

import pytest

from medvit.objectives.dinov2 import DinoV2Config
from medvit.training.optim import continued
from medvit.transforms.views import MultiCropConfig
from pipelines.pretrain import PretrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = sorted(CONFIGS.glob("*/pretrain*.yaml"))
CONTINUED = [path for path in PRESETS if path.stem.endswith("continue")]


def load(path: Path) -> PretrainConfig:
    return PretrainConfig.load(path, ["dataset=somewhere", "output=elsewhere"])


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_crops_are_whole_patches_of_the_rank_of_the_images(path):
    config = load(path)
    ndim = 2 if config.preprocess is None or config.preprocess.kind == "image" else 3
    patch = config.backbone.patch_size or (16 if ndim == 2 else 8)
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
        assert views.augment.solarize == views.augment.grayscale == 0
        keeps_sides = path.parent.name in ("chest-xray", "ct-slices", "ct-volumes", "mr")
        assert not (keeps_sides and views.augment.flipped_axes)


def test_every_domain_with_a_preset_of_pretraining_has_one_that_continues():
    assert {path.parent for path in PRESETS} == {path.parent for path in CONTINUED}


@pytest.mark.parametrize("path", CONTINUED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_preset_that_continues_has_a_small_constant_rate_few_steps_and_a_guard_that_keeps_the_best(path):
    config = load(path)
    proposed = continued(config.objective.OPTIM, trains_whole_weights=True, has_new_head=config.objective.has_new_head)
    optim = config.optim.over(proposed)
    assert optim.schedule == "constant"
    rate = optim.for_batch(config.schedule.step_images).lr
    assert 1e-4 <= rate <= 3e-4, "of LoRA factors"
    assert 1e-5 <= rate * optim.pretrained_scale <= 5e-5, "of whole blocks and norms"
    assert optim.freeze > 0, "heads first"
    assert config.peft.name == "explora"
    assert config.guard.action == "rollback"
    scratch = [load(other) for other in PRESETS if other.parent == path.parent and other not in CONTINUED]
    assert config.trainer.steps < max(other.trainer.steps for other in scratch)
    assert config.backbone.weights is None, "the user gives weights or a checkpoint"


def test_koleo_is_not_for_slices_and_tiles():
    for path in PRESETS:
        objective = load(path).objective
        if isinstance(objective, DinoV2Config) and path.parent.name != "chest-xray":
            assert objective.regularizer != "koleo", path.name
    assert DinoV2Config().regularizer == "kde"


SAID = {
    "chest-xray/pretrain": {  # Xiao et al., WACV 2023: 90 % hidden, crops of half or more, 2048 images a step
        "objective.mask_ratio": 0.9,
        "objective.views.scale": (0.5, 1.0),
        "objective.decoder_width": 512,
        "objective.decoder_depth": 2,
        "optim.lr": 1.5e-4 * 2048 / 256,
        "optim.warmup": 40 / 800,
        "optim.weight_decay": 0.05,
    },
    "chest-xray/pretrain-dinov2": {  # RAD-DINO: ViT-B/14 at 518 pixels, 40 images a GPU
        "backbone.size": "base",
        "backbone.patch_size": 14,
        "objective.views.size": (518, 518),
        "loader.batch_size": 40,
    },
    "chest-xray/pretrain-studies": {"objective.name": "dino", "objective.views.across_study": True},  # VET-DINO
    "chest-xray/pretrain-continue": {"peft.name": "explora", "guard.action": "rollback", "optim.lr": None},
    "ct-slices/pretrain": {  # MedDINOv3: the layout of DINOv3 ViT-B/16 without biases of queries, keys and values
        "slices.planes": ("axial",),
        "backbone.registers": 4,
        "backbone.layer_scale": 1e-5,
        "backbone.qkv_bias": False,
        "backbone.drop_path": 0.2,
        "optim.betas": (0.9, 0.98),
    },
    "ct-slices/pretrain-gram": {"objective.gram.weight": 2.0, "objective.gram.upscale": 2},
    "ct-slices/pretrain-highres": {"objective.views.size": (512, 512)},
    "ct-volumes/pretrain": {  # Hi-End-MAE: [-175, 250] HU at 1.5 mm, four depths
        "preprocess.intensity.window_center": (-175 + 250) / 2,
        "preprocess.intensity.window_width": 250 + 175,
        "preprocess.spacing_mm": (1.5, 1.5, 1.5),
        "objective.depths": (3, 6, 9, 12),
        "objective.mask_ratio": 0.75,
        "objective.views.size": (96, 96, 96),
        "optim.lr": 1e-4,
        "optim.betas": (0.9, 0.95),
    },
    "mr/pretrain-slices": {"slices.planes": ("acquired",), "objective.epsilon": 0.05},
    "pathology/pretrain": {  # Virchow2: crops of 224 and 98 from 392 pixels at their scale, kernel density
        "objective.views.region": (392, 392),
        "objective.views.local_size": (98, 98),
        "objective.views.zoom": (0.9, 1.1),
        "objective.views.stretch": 1.05,
        "objective.views.augment.flipped_axes": (0, 1),
        "objective.regularizer": "kde",
        "objective.regularizer_weight": 0.05,
        "objective.kappa": 5.0,
    },
    "pathology/pretrain-large": {  # Phikon-v2: DINOv2's recipe of large models
        "backbone.size": "large",
        "backbone.patch_size": 16,
        "objective.centering": "sinkhorn",
        "objective.head.prototypes": 131072,
        "objective.head.bottleneck": 384,
        "objective.patch_head": "separate",
        "objective.momentum": 0.994,
        "optim.lr": 2e-4,
        "optim.warmup": 80 / 500,
        "optim.weight_decay_end": 0.2,
    },
    "retina/pretrain-uni4eye": {"objective.mask_ratio": 0.75, "objective.other_patch_size": (16, 16, 16)},
}


@pytest.mark.parametrize("preset", SAID)
def test_a_preset_says_what_its_paper_says(preset):
    config = load(CONFIGS / f"{preset}.yaml")
    for key, value in SAID[preset].items():
        found = config
        for part in key.split("."):
            found = getattr(found, part)
        assert found == pytest.approx(value) if isinstance(value, float) else found == value, key


def test_the_curriculum_is_that_of_fastdinov2_unless_told_otherwise():
    """150 of 200 epochs on crops of half the side."""
    arguments = ["dataset=d", "output=o", "objective.curriculum={}"]
    curriculum = PretrainConfig.load(CONFIGS / "retina" / "pretrain.yaml", arguments).objective.curriculum
    assert (curriculum.low_until, curriculum.low_factor) == (150 / 200, 112 / 224)


def test_finetuning_on_chest_radiographs_is_that_of_the_thorax_study():
    from pipelines.finetune import FinetuneConfig

    config = FinetuneConfig.load(CONFIGS / "chest-xray" / "finetune.yaml", ["dataset=d", "output=o"])
    assert (config.optim.lr, config.optim.min_lr, config.optim.layer_decay) == (2.5e-4, 1e-5, 0.55)
    assert config.optim.warmup == pytest.approx(5 / 75, abs=1e-3)
    assert (config.backbone.drop_path, config.trainer.epochs) == (0.2, 75)
