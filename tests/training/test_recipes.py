"""Published recipes: RAD-DINO continues from backbone and heads, VET-DINO equals DINO for equal views."""

from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.backbones.vit import VitConfig
from medvit.embeddings.probe_metrics import ridge_logits
from medvit.errors import ConfigError
from medvit.metrics.balanced_accuracy import balanced_accuracy
from medvit.objectives._projection import Projection, ProjectionConfig
from medvit.objectives.dino import DinoConfig
from medvit.objectives.dinov2 import DinoV2Config
from medvit.records import Row
from medvit.stage import Run
from medvit.tracking import Tracker, TrackingConfig, start
from medvit.transforms.preprocess import Normalization
from medvit.transforms.views import MakeViews, MultiCropConfig, collate_views
from medvit.types import Sample, Views
from pipelines.pretrain import PretrainConfig, assemble, pretrain
from tests.weights.test_layouts import in_transformers, random_state

CONFIGS = Path(__file__).parents[2] / "configs"
HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
DINOV2 = {"name": "dinov2", "head": HEAD, "patch_head": "separate", "views": {"size": [16, 16], "num_local": 2}}
TINY = {"patch_size": 8, "width": 48, "depth": 4, "heads": 2, "positions": "learned", "image_size": 32}


def options(data: Path, **more) -> dict:
    return {
        "dataset": data,
        "tracking": {"enabled": False},
        "preprocess": {"kind": "image", "channels": 3},
        "backbone": TINY | {"layer_scale": 1e-5},
        "objective": DINOV2,
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
        "monitors": {"knn_images": 4},
    } | more


def test_rad_dino_goes_on_from_its_backbone_and_its_head(images, tmp_path):
    """As published: the backbone in the layout of transformers, the head in that of DINOv2."""
    public = random_state(in_transformers(48, 4, 8, 17))
    head = Projection(ProjectionConfig(**HEAD), 48, with_prototypes=True)
    save_file(public, tmp_path / "rad-dino.safetensors")
    save_file(head.published(), tmp_path / "dino_head.safetensors")
    objective = DINOV2 | {"patch_head": "shared", "head": HEAD | {"weights": str(tmp_path / "dino_head.safetensors")}}
    given = options(images, objective=objective)
    given["backbone"] = given["backbone"] | {"weights": str(tmp_path / "rad-dino.safetensors")}
    config = PretrainConfig.parse(given | {"output": tmp_path / "x", "peft": "full"})
    made = assemble(config, Run("look", tmp_path, Tracker())).module.objective
    for backbone in (made.backbone, made.trained):
        queries = backbone.blocks[3].attn.qkv.weight[:48]
        assert torch.equal(queries, public["encoder.layer.3.attention.attention.query.weight"])
    for heads in (made.teacher_heads, made.student.heads):
        assert all(torch.equal(w, head.state_dict()[name]) for name, w in heads["image"].state_dict().items())


def test_a_second_stage_goes_on_from_the_heads_that_the_first_one_kept(images, tmp_path):
    first = pretrain(output=tmp_path / "first", **options(images, optim={"lr": 1e-2}))
    kept = {part: load_file(first.folder / f"{part}_head.safetensors") for part in ("image", "patch")}
    assert not torch.equal(kept["image"]["mlp.0.weight"], kept["patch"]["mlp.0.weight"])
    objective = DINOV2 | {"head": HEAD | {"weights": str(first.folder)}}
    more = {"checkpoint": first.folder, "objective": objective, "output": tmp_path / "x", "backbone": {"name": "vit"}}
    made = assemble(PretrainConfig.parse(options(images) | more), Run("look", tmp_path, Tracker())).module.objective
    for part, state in kept.items():
        own = made.teacher_heads[part].published()
        assert all(torch.equal(own[name], weight) for name, weight in state.items()), part


def radiographs(num: int, seed: int, *, gain: float, offset: float, noise: float) -> tuple[Views, torch.Tensor]:
    """Stripes in any direction, as of ribs, in four crops of each image; the finding is their distance.

    Sites differ by gain, offset and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    finding, angle = torch.arange(num) % 2, torch.pi * torch.rand(num, 1, 1, generator=generator)
    along = (0.6 + 0.3 * finding[:, None, None]) * (rows * angle.cos() + columns * angle.sin())
    phases = 2 * torch.pi * torch.rand(4, num, 1, 1, generator=generator)
    crops = (gain * (along + phases).sin() + offset)[:, :, None]
    crops = crops + noise * torch.randn(crops.shape, generator=generator)
    return Views(crops[:2], crops[2:, ..., :16, :16]), finding


def frozen_probe(backbone: Backbone) -> float:
    """Balanced accuracy of a linear probe that is fitted and asked at a site that pretraining never saw."""
    (bank, known), (queries, asked) = (radiographs(96, seed, gain=0.7, offset=0.3, noise=0.4) for seed in (1001, 1002))
    with torch.no_grad():
        features = [backbone.eval()(views.crops[0]).prefix[:, 0] for views in (bank, queries)]
    chosen = ridge_logits(features[0], known, features[1]).argmax(1)
    return balanced_accuracy(asked.numpy(), chosen.numpy())


def test_a_frozen_probe_at_a_held_out_site_beats_the_start_weights():
    torch.manual_seed(0)
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=2, heads=2).build()
    before = frozen_probe(backbone)
    objective = DinoV2Config(head=ProjectionConfig(**HEAD), momentum=0.95, teacher_temperature=0.04).build(backbone)
    optimizer = torch.optim.AdamW([w for w in objective.parameters() if w.requires_grad], lr=1e-3, fused=True)
    for step in range(100):
        torch.manual_seed(step)
        optimizer.zero_grad()
        objective(radiographs(16, step, gain=1.0, offset=0.0, noise=0.1)[0], step / 100).total.backward()
        objective.before_step(step / 100)
        optimizer.step()
        objective.after_step(step / 100)
    assert frozen_probe(objective.backbone) > before + 0.05


ROW = Row("i", "p", "s", "s", "DX", "image", "tiny", "train", (1, 32, 32), "int16", "0" * 64)


def test_with_two_equal_images_of_a_study_the_loss_is_that_of_dino_on_one():
    torch.manual_seed(0)
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=2, heads=2).build()
    views = MultiCropConfig(size=(32, 32), local_size=(16, 16), num_local=4, across_study=True)
    objective = DinoConfig(head=ProjectionConfig(**HEAD), views=views).build(backbone).eval()
    make, sample = MakeViews(views, Normalization()), Sample(torch.randn(1, 40, 40), ROW)
    batches: list[Views] = [collate_views([make(sample, seed, other) for seed in (1, 2)]) for other in (None, sample)]
    one, two = (objective(batch, 0.5).total for batch in batches)
    assert torch.equal(one, two)


@pytest.mark.parametrize("preset", ["pretrain", "finetune"])
def test_the_thorax_preset_is_read_back_from_the_parameters_in_mlflow(preset, tmp_path, make_store):
    from pipelines.finetune import FinetuneConfig

    kind = PretrainConfig if preset == "pretrain" else FinetuneConfig
    config = kind.load(CONFIGS / "chest-xray" / f"{preset}.yaml", ["dataset=d", "output=o"])
    tracking = TrackingConfig(uri=make_store(tmp_path))
    tracker = start(tracking, preset, tmp_path)
    tracker.params(config.tree(private=False))
    tracker.finish("FINISHED")
    params = MlflowClient(tracking_uri=tracking.uri).get_run(tracker.run_id).data.params
    overrides = [f"{key}={value}" for key, value in params.items() if value not in ("None", "{}", "")]
    assert kind.load(None, overrides) == config


def test_what_a_checkpoint_keeps_is_named_for_its_part(images, tmp_path):
    single = pretrain(output=tmp_path / "x", **options(images, objective=DINOV2 | {"patch_head": "shared"}))
    assert {path.name for path in single.folder.glob("*_head.safetensors")} == {"image_head.safetensors"}
    assert Checkpoint.load(single.folder).kind == "backbone"


def look(tmp_path) -> Run:
    return Run("look", tmp_path, Tracker())


def assembled(tmp_path, **given):
    return assemble(PretrainConfig.parse(given | {"output": tmp_path / "x"}), look(tmp_path)).module


def test_a_checkpoint_brings_its_heads_and_its_token_of_hidden_patches(images, tmp_path):
    """Sizes of the heads that are not given are those of the checkpoint."""
    first = pretrain(output=tmp_path / "first", **options(images, optim={"lr": 1e-2}))
    kept = {part: load_file(first.folder / f"{part}_head.safetensors") for part in ("image", "patch")}
    token = load_file(first.folder / "mask_token.safetensors")["mask_token"]
    assert token.abs().max() > 0
    objective = {name: value for name, value in DINOV2.items() if name != "head"}
    more = {"checkpoint": first.folder, "objective": objective, "backbone": {"name": "vit"}}
    parts = assemble(PretrainConfig.parse(options(images) | more | {"output": tmp_path / "x"}), look(tmp_path))
    recorded = parts.objective_in_force
    assert recorded["head"] | HEAD | {"weights": str(first.folder)} == recorded["head"], "what is recorded is in force"
    assert recorded["views"]["local_size"] == [8, 8]
    made = parts.module.objective
    for part, state in kept.items():
        for heads in (made.teacher_heads, made.student.heads):
            assert all(torch.equal(heads[part].published()[name], weight) for name, weight in state.items()), part
    assert torch.equal(made.student.mask_token, token[0])


def test_heads_of_other_sizes_than_those_of_the_checkpoint_are_refused_and_off_starts_new_ones(images, tmp_path):
    first = pretrain(output=tmp_path / "first", **options(images))
    more = {"checkpoint": first.folder, "backbone": {"name": "vit"}}
    other = DINOV2 | {"head": HEAD | {"prototypes": 77}}
    with pytest.raises(ConfigError, match=r"objective\.head\.prototypes is 77; the head kept in .* has \d+: leave it"):
        assembled(tmp_path, **options(images, objective=other) | more)
    fresh = DINOV2 | {"head": HEAD | {"prototypes": 77, "weights": "off"}}
    made = assembled(tmp_path, **options(images, objective=fresh) | more).objective
    assert len(made.teacher_heads["image"].prototypes) == 77


def test_heads_that_a_checkpoint_lacks_start_at_random_and_are_named(images, tmp_path, caplog):
    shared = DINOV2 | {"patch_head": "shared"}
    first = pretrain(output=tmp_path / "first", **options(images, objective=shared))
    assembled(tmp_path, **options(images) | {"checkpoint": first.folder, "backbone": {"name": "vit"}})
    assert "lacks patch_head.safetensors, which this objective requires" in caplog.text


def test_the_published_token_of_hidden_patches_is_taken_along(images, tmp_path):
    public = random_state(in_transformers(48, 4, 8, 17))
    assert public["embeddings.mask_token"].abs().max() > 0
    save_file(public, tmp_path / "w.safetensors")
    given = options(images)
    given["backbone"] = given["backbone"] | {"weights": str(tmp_path / "w.safetensors")}
    made = assembled(tmp_path, **given).objective
    assert torch.equal(made.student.mask_token, public["embeddings.mask_token"][0])
