"""Self-distillation as a user runs it: resumed bit for bit, shared by processes, shown before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.config import read_yaml
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.objectives._prototypes import fitting_prototypes
from medvit.stage import Run
from medvit.tracking import Tracker
from pipelines.pretrain import PretrainConfig, assemble, pretrain
from tests.processes.two_processes import run_in_two
from tests.training.test_runs import interrupt

HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
DINO = {"name": "dino", "head": HEAD, "momentum": 0.9, "views": {"size": [16, 16], "num_local": 2}}
DINOV2 = DINO | {"name": "dinov2", "patch_head": "separate", "gram": {"start": 0.2, "refresh": 0.5}}
SIMDINOV2 = DINO | {"name": "simdinov2", "curriculum": {"low_until": 0.5}}
UNSET = {"name": "dino", "head": {"hidden": 32, "bottleneck": 16}, "views": {"size": [16, 16], "num_local": 2}}


def options(data: Path, objective: dict, **more) -> dict:
    return {
        "dataset": data,
        "tracking": {"enabled": False},
        "preprocess": {"kind": "image"},
        "backbone": {"name": "vit", "patch_size": 4, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.1},
        "objective": objective,
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
        "monitors": {"knn_images": 4},
    } | more


@pytest.mark.parametrize("objective", [DINO, DINOV2, SIMDINOV2, UNSET], ids=["dino", "dinov2", "simdinov2", "unset"])
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(images, tmp_path, monkeypatch, objective):
    given = options(images, objective)
    whole = pretrain(output=tmp_path / "whole", **given)
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **given)
    resumed = pretrain(output=tmp_path / "cut", resume=True, **given)
    one, other = (Checkpoint.load(made.folder).state for made in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_prototypes_and_momentum_in_force_are_recorded_run_alike_again_and_a_continued_head_keeps_its_number(
    images: Path, tmp_path: Path
) -> None:
    made = pretrain(output=tmp_path / "made", **options(images, UNSET)).folder
    recorded = read_yaml(made / "config.yaml")["objective"]
    number = recorded["head"]["prototypes"]
    num_images = sum(row.split == "train" for row in Manifest.read(images))
    assert number == fitting_prototypes(num_images)
    assert recorded["momentum"] == recorded["center_momentum"] == 0.0, "six steps: a tenth is less than one"
    assert len(load_file(made / "image_head.safetensors")["last_layer.weight_v"]) == number
    again = PretrainConfig.load(made / "config.yaml", [f"output={tmp_path / 'again'}"])
    assert read_yaml(pretrain(again).folder / "config.yaml")["objective"] == recorded
    one, other = (Checkpoint.load(folder).state for folder in (made, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    small = pretrain(output=tmp_path / "small", **options(images, UNSET | {"head": HEAD})).folder
    more = options(images, UNSET | {"head": {}}, checkpoint=small, backbone={"name": "vit"}, guard="off")
    continued = pretrain(output=tmp_path / "continued", **more).folder
    assert read_yaml(continued / "config.yaml")["objective"]["head"]["prototypes"] == HEAD["prototypes"]


def test_two_processes_learn_what_one_learns_of_twice_the_batch(images, tmp_path):
    given = options(images, DINOV2 | {"curriculum": {"low_until": 0.5}}, optim={"scaling": "linear", "lr": 6.4e-3})
    given["loader"] = {"batch_size": 4}
    alone = pretrain(output=tmp_path / "alone", **given)
    both = run_in_two(pretrain, given | {"output": tmp_path / "both"}, trainer={})
    one, two = (Checkpoint.load(folder).state for folder in (alone.folder, both))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0)


def test_the_teacher_moves_once_a_step_however_many_batches_a_step_has(images, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr("medvit.objectives.dino.Dino.after_step", lambda self, progress: moved.append(progress))
    given = options(images, DINO)
    given["trainer"] = {"epochs": 1, "steps_per_epoch": 4, "precision": "32-true", "accumulate": 3}
    pretrain(output=tmp_path / "out", **given)
    assert moved == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.usefixtures("whole_figures")
def test_the_views_are_shown_before_the_first_step(images, tmp_path, make_store):
    tracking = {"enabled": True, "uri": make_store(tmp_path)}
    pretrain(output=tmp_path / "out", **options(images, DINO, tracking=tracking))
    shown = {path.name for path in tmp_path.rglob("*.png")}
    assert "views-0000000.png" in shown
    assert "similarity-0000004.png" in shown


def test_pictures_that_nobody_keeps_are_not_drawn(images, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("medvit.objectives.figures.panel_figure", lambda columns, titles: drawn.append(titles))
    given = options(images, DINO) | {"trainer": {"epochs": 1, "steps_per_epoch": 1}, "guard": {"action": "off"}}
    pretrain(output=tmp_path / "out", **given)
    assert not drawn


def test_a_local_crop_of_another_rank_is_refused_at_the_door(images, tmp_path):
    objective = DINO | {"views": {"local_size": [8, 8, 8]}}
    with pytest.raises(ConfigError, match=r"objective\.views\.local_size has 3 numbers"):
        pretrain(output=tmp_path / "out", **options(images, objective))


@pytest.fixture
def mixed(images, volumes, tmp_path):
    """Images and volumes in one dataset."""
    (tmp_path / "mixed" / "images").mkdir(parents=True)
    for folder in (images, volumes):
        for stored in (folder / "images").rglob("*"):
            if stored.is_file():
                target = tmp_path / "mixed" / stored.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stored.read_bytes())
    two, three = (Manifest.read(folder) for folder in (images, volumes))
    rows = [*two, *(replace(row, image_id=f"v{row.image_id}") for row in three)]
    Manifest(tuple(rows), two.facts, tmp_path / "mixed").write()
    return tmp_path / "mixed"


UNI4EYE = {
    "name": "uni4eye",
    "decoder_width": 24,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "other_patch_size": [4, 4, 4],
    "views": {"size": [16, 16]},
    "other_views": {"size": [8, 8, 8]},
}


def test_images_and_volumes_train_one_encoder_which_is_handed_on_for_both(mixed, tmp_path, monkeypatch):
    given = options(mixed, UNI4EYE)
    whole = pretrain(output=tmp_path / "whole", **given)
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **given)
    resumed = pretrain(output=tmp_path / "cut", resume=True, **given)
    for part in (".", "twin"):
        one, other = (Checkpoint.load(made.folder / part).state for made in (whole, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one), part
    image, volume = (Checkpoint.load(whole.folder / part) for part in (".", "twin"))
    assert (image.preprocess["kind"], volume.preprocess["kind"]) == ("image", "volume")
    assert torch.equal(image.state["blocks.0.mlp.fc1.weight"], volume.state["blocks.0.mlp.fc1.weight"])
    again = pretrain(
        output=tmp_path / "on", **(given | {"checkpoint": volume.folder, "preprocess": None, "objective": "simmim"})
    )
    assert again.preprocess["kind"] == "volume"


@pytest.mark.parametrize(("is_given", "scale"), [(False, 0.1 * 0.5**3), (True, 1.0)], ids=["scratch", "pretrained"])
def test_the_embedding_of_the_other_rank_is_new_beside_pretrained_weights(mixed, tmp_path, is_given, scale):
    given = options(mixed, UNI4EYE, output=tmp_path / "out", optim={"pretrained_scale": 0.1, "layer_decay": 0.5})
    if is_given:
        given["backbone"] = given["backbone"] | {"channels": 1, "ndim": 2}
        plain = VitConfig.parse({key: value for key, value in given["backbone"].items() if key != "name"})
        save_file(plain.build().state_dict(), tmp_path / "w.safetensors")
        given["backbone"] |= {"weights": str(tmp_path / "w.safetensors")}
        given["peft"] = "full"
    module = assemble(PretrainConfig.parse(given), Run("pretrain", tmp_path, Tracker())).module
    optimizer = module.configure_optimizers()
    scales = {id(weight): group["scale"] for group in optimizer.param_groups for weight in group["params"]}
    own, other = (part.patch_embed["proj"] for part in (module.objective.backbone, module.objective.twin.backbone))
    assert scales[id(own.weight)] == pytest.approx(0.1 * 0.5**3)
    assert scales[id(other.weight)] == pytest.approx(scale)


def test_a_dataset_without_the_other_kind_is_refused(images, tmp_path):
    with pytest.raises(DataError, match="has no volume to train on"):
        pretrain(output=tmp_path / "out", **options(images, UNI4EYE))


@pytest.mark.parametrize("planes", [["axial"], ["coronal", "sagittal"]])
def test_slices_of_volumes_are_learned_from_as_images_and_resumed_bit_for_bit(volumes, tmp_path, monkeypatch, planes):
    before = sorted(path.name for path in volumes.rglob("*"))
    objective = DINOV2 | {"views": DINO["views"] | {"across_study": True}}
    given = options(volumes, objective, slices={"planes": planes, "gap_mm": 2})
    whole = pretrain(output=tmp_path / "whole", **given)
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **given)
    resumed = pretrain(output=tmp_path / "cut", resume=True, **given)
    one, other = (Checkpoint.load(made.folder) for made in (whole, resumed))
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    assert one.preprocess["kind"] == "image"
    assert one.model["backbone"]["ndim"] == 2
    assert "guard at the start: score" in (whole.folder / "model_card.md").read_text()
    assert f"images: {8 * 8 * len(planes)}, " in (whole.folder / "model_card.md").read_text()
    assert sorted(path.name for path in volumes.rglob("*")) == before


def test_no_batch_holds_two_slices_of_a_patient_while_there_are_others(volumes, tmp_path):
    config = PretrainConfig.parse(options(volumes, DINO, slices="axial", output=tmp_path / "x"))
    parts = assemble(config, Run("look", tmp_path, Tracker()))
    batches = [views.studies for views in parts.loader]
    assert batches
    assert all(len(set(studies)) == len(studies) for studies in batches)
