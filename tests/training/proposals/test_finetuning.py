"""Fine-tuning uses proposals for unset options alone, with the source of each value."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvit.backbones.channel_vit import ChannelVitConfig
from medvit.backbones.vit import VitConfig
from medvit.config import read_yaml
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, OutputError
from medvit.hardware import memory_bytes
from medvit.models.image import Model, ModelConfig
from medvit.stage import Run
from medvit.tracking import Tracker
from medvit.training.assembly import AssembledFinetuning, assemble_finetuning
from medvit.training.proposals import Proposals
from medvit.training.proposals.batches import propose_duration
from medvit.training.proposals.memory import DeviceMemory, measure_memory
from medvit.training.trainer import TrainerOptions
from pipelines.finetune import FinetuneConfig, assemble, finetune
from pipelines.plan import FinetunePlanConfig, plan
from tests.training.test_runs import OFF, TINY

GIVEN: dict[str, Any] = {
    "preprocess": {"kind": "volume", "intensity": {"method": "range"}},
    "crop": (8, 8, 16),
    "peft": {"name": "bitfit"},
    "head": {"name": "unetr", "channels": 4},
    "loader": {"batch_size": 3},
    "foreground": 0.125,
    "foreground_by": "class",
    "trainer": {"epochs": 2, "steps_per_epoch": 3, "precision": "32-true"},
}
"""Options that are proposed if they are unset, with values that no proposal has."""


def assembled(data: Path, folder: Path, **options: Any) -> AssembledFinetuning:
    folder.mkdir(exist_ok=True)
    tree = {"dataset": data, "output": folder / "out", "tracking": OFF, "backbone": TINY | {"ndim": 3}, **options}
    return assemble(FinetuneConfig.parse(tree), Run("finetune", folder, Tracker()))


def in_force(parts: AssembledFinetuning) -> dict[str, Any]:
    model = parts.model.config
    return {
        "preprocess": parts.start.preprocess,
        "crop": model.roi,
        "peft": model.peft,
        "head": model.head,
        "loader": parts.schedule.loader.batch_size,
        "foreground": parts.foreground.share,
        "foreground_by": parts.foreground.by,
        "trainer": (parts.schedule.trainer.epochs, parts.schedule.trainer.steps_per_epoch),
    }


def keys_of(proposals: Proposals) -> set[str]:
    return {one.key.partition(".")[0] for one in proposals.made}


def test_no_given_option_is_changed_or_proposed(volumes: Path, tmp_path: Path) -> None:
    every = assembled(volumes, tmp_path / "all", **GIVEN)
    assert every.proposals.made == []
    halves = ["preprocess", "crop", "loader", "foreground"], ["peft", "head", "foreground_by", "trainer"]
    some, others = (assembled(volumes, tmp_path / half[0], **{key: GIVEN[key] for key in half}) for half in halves)
    for parts, given, proposed in ((some, *halves), (others, *halves[::-1])):
        assert keys_of(parts.proposals) == set(proposed)
        assert all(in_force(parts)[key] == in_force(every)[key] for key in given)
        assert all(in_force(parts)[key] != in_force(every)[key] for key in proposed)


def test_a_model_records_what_was_proposed_and_why(volumes: Path, tmp_path: Path) -> None:
    rest = {key: value for key, value in GIVEN.items() if key not in ("crop", "loader")}
    made = finetune(dataset=volumes, output=tmp_path / "model", tracking=OFF, backbone=TINY | {"ndim": 3}, **rest)
    stored = json.loads((made.folder / "fingerprint.json").read_text(encoding="utf-8"))
    proposals = {one["key"]: one for one in stored["proposals"]}
    assert proposals.keys() == {"crop", "loader.batch_size"}
    assert proposals["crop"]["value"] == [16, 16, 16]
    config, card = read_yaml(made.folder / "config.yaml"), (made.folder / "model_card.md").read_text(encoding="utf-8")
    comments = (made.folder / "config.yaml").read_text(encoding="utf-8").splitlines()[-2:]
    assert comments[0] == f"# proposed: crop=[16, 16, 16], because {proposals['crop']['reason']}"
    assert (config["crop"], config["loader"]["batch_size"]) == ([16, 16, 16], proposals["loader.batch_size"]["value"])
    assert f"proposed crop: [16, 16, 16], because {proposals['crop']['reason']}" in card
    assert stored["fingerprint"]["groups"][0]["num_images"] == 8, "of the training split"
    assert not [name for name in ("p-1", "i-1") if f'"{name}"' in json.dumps(stored)]


def test_a_plan_shows_every_proposal_with_its_reason(volumes: Path, tmp_path: Path) -> None:
    tree = {"dataset": volumes, "output": tmp_path / "x", "plan": tmp_path / "plan", "backbone": TINY | {"ndim": 3}}
    plan(FinetunePlanConfig.parse(tree | {"tracking": OFF, "head": GIVEN["head"]}))
    with (tmp_path / "plan" / "plan.csv").open(newline="") as file:
        lines = {line["what"]: line for line in csv.DictReader(file)}
    stored = json.loads((tmp_path / "plan" / "fingerprint.json").read_text(encoding="utf-8"))
    assert [f"proposed {one['key']}" for one in stored["proposals"]] == [one for one in lines if "proposed" in one]
    assert lines["proposed crop"]["how_much"] == "[16, 16, 16]"
    assert "median training image" in lines["proposed crop"]["how_it_is_known"]
    assert lines["proposed trainer.epochs"]["how_much"] == "50", "of the whole run, not of the measured steps"
    assert lines["shape of the MR volumes"]["how_much"] == "16 x 16 x 16"


def test_a_batch_that_does_not_fit_is_accumulated_and_kept_on_another_machine(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = {key: value for key, value in GIVEN.items() if key != "loader"} | {"crop": (8, 8, 8)}
    small = DeviceMemory(usable_bytes=1000, fixed_bytes=100, image_bytes=500)
    with monkeypatch.context() as patched:
        patched.setattr("medvit.training.proposals.batches.measure_memory", lambda *given: small)
        first = assembled(volumes, tmp_path / "run", **rest)
    first.proposals.write(tmp_path / "run")
    again = assembled(volumes, tmp_path / "run", **rest)
    for parts in (first, again):
        assert (parts.schedule.loader.batch_size, parts.schedule.trainer.accumulate) == (1, 3)
        assert parts.schedule.step_images == 3
    again.proposals.write(tmp_path)
    assert (tmp_path / "fingerprint.json").read_bytes() == (tmp_path / "run" / "fingerprint.json").read_bytes()
    elsewhere = assembled(volumes, tmp_path / "other", **rest)
    assert (elsewhere.schedule.loader.batch_size, elsewhere.schedule.trainer.accumulate) == (3, 1)
    for text in ("{", "[]", '{"fingerprint": {}}'):
        (tmp_path / "run" / "fingerprint.json").write_text(text, encoding="utf-8")
        with pytest.raises(OutputError, match=r"fingerprint\.json is damaged .*; remove it"):
            assembled(volumes, tmp_path / "run", **rest)


def test_a_named_channel_that_no_training_image_has_is_reported(
    volumes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = Manifest.read(volumes)
    named = replace(manifest, rows=tuple(replace(row, attributes={"channels": "T1"}) for row in manifest))
    tree = GIVEN | {"dataset": volumes, "output": tmp_path / "out", "backbone": TINY | {"ndim": 3}}
    for names, warnings in (["T1"], 0), (["T1", "FLARE"], 1):
        caplog.clear()
        config = FinetuneConfig.parse(tree | {"preprocess": {"kind": "volume", "channel_names": names}})
        assemble_finetuning(config, named, None, lambda *_: "", seed=0, folder=tmp_path, tracker=Tracker())
        assert caplog.text.count("training images has the channel FLARE; they have T1") == warnings
        config.start(named, None)  # as pretraining does
        assert caplog.text.count("training images has the channel FLARE; they have T1") == 2 * warnings
    config = FinetuneConfig.parse(tree | {"preprocess": {"kind": "volume", "channel_names": ["FLARE"]}})
    for images, have in (named, "they have T1"), (manifest, "their channels have no names; use"):
        with pytest.raises(ConfigError, match=f"has a channel named FLARE; {have}"):
            config.start(images, None)


def test_measuring_the_memory_changes_neither_weights_nor_random_numbers(volumes: Path, tmp_path: Path) -> None:
    model = assembled(volumes, tmp_path / "run", **GIVEN).model
    model.head.add_module("norm", nn.BatchNorm3d(1))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    few, more = (measure_memory(model, crop, TrainerOptions(precision="32-true")) for crop in ((8,) * 3, (16,) * 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert 6 < more.image_bytes / few.image_bytes < 10, "in proportion to eight times as many voxels, about"
    assert 0 < few.usable_bytes <= memory_bytes(torch.device("cpu"))


@pytest.mark.parametrize(
    ("drawn", "costliest"),
    [
        (
            VitConfig(ndim=2, channels=4, patch_size=8, patch_sizes=(16, 4, 8)),
            VitConfig(ndim=2, channels=4, patch_size=4),
        ),
        (ChannelVitConfig(ndim=2, channels=4), ChannelVitConfig(ndim=2, channels=4, channel_sampling=False)),
    ],
)
def test_the_memory_is_that_of_the_steps_that_need_most(drawn: VitConfig, costliest: VitConfig) -> None:
    def image_bytes(config: VitConfig) -> int:
        made = config.model_copy(update={"width": 32, "depth": 2, "heads": 2})
        described = {"kind": "classification", "peft": {"name": "full"}, "head": {"name": "linear"}, "label": "finding"}
        model = Model(ModelConfig.parse({**described, "classes": ("a", "b"), "backbone": made}), made.build())
        return measure_memory(model, (32, 32), TrainerOptions(precision="32-true")).image_bytes

    wanted = image_bytes(costliest)
    for seed in range(4):
        torch.manual_seed(seed)
        assert image_bytes(drawn) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(
    ("num_images", "given", "expected"),
    [(8, {}, (50, 50)), (4000, {}, (200, 100)), (10**6, {}, (500, 50)), (8, {"epochs": 3}, (50, 3))],
)
def test_steps_follow_the_number_of_images(num_images: int, given: dict, expected: tuple[int, int]) -> None:
    proposals = Proposals.__new__(Proposals)
    proposals.made, proposals.earlier = [], {}
    found = propose_duration(proposals, TrainerOptions.parse(given), "segmentation", num_images, 20)
    assert (found["steps_per_epoch"], found["epochs"]) == expected
    assert {one.key for one in proposals.made} == {"trainer.steps_per_epoch", "trainer.epochs"} - {
        f"trainer.{key}" for key in given
    }


def test_the_kind_of_images_is_that_of_most_training_images_whatever_the_test_split_has(
    volumes: Path, tmp_path: Path
) -> None:
    manifest = Manifest.read(volumes)
    image = replace(manifest.rows[0], split="test", kind="image", shape=(1, 16, 16), mask=None, affine=None)
    more = [replace(image, image_id=f"t-{number}") for number in range(20)]
    mixed = replace(manifest, rows=(*manifest.rows, *more), folder=tmp_path)
    (tmp_path / "images").symlink_to(volumes / "images")
    mixed.write()
    assert assembled(tmp_path, tmp_path / "run", **(GIVEN | {"preprocess": None})).start.preprocess.kind == "volume"
