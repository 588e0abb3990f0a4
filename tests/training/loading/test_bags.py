"""Heads of slides are trained separately on parts of bags, and their mean is at least as good as each of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError, DataError
from medvit.files.atomic import write_text
from medvit.heads.abmil import AbmilConfig
from medvit.models.embedding_store import EmbeddingStore
from medvit.models.slide import SlideModel, SlideModelConfig, TileSpec, ensemble_state
from medvit.models.tile_embedder import EmbeddedSlide
from medvit.records import Row
from medvit.tracking import Tracker
from medvit.training.ensembles.folds import members_of
from medvit.training.lightning_module import TrainingModule
from medvit.training.loading.bags import Bag, BagConfig, bag_loader, whole_bags
from medvit.training.loading.epochs import LoaderConfig
from medvit.training.optim import OptimConfig
from medvit.training.resume import Position
from medvit.training.slide_heads import SlideTraining, bag_head, common_tiles, labeled_slides
from medvit.training.trainer import TrainerConfig
from medvit.types import Bags
from tests.wsi.slides import grid, write_dataset

WIDTH, CLASSES = 8, ("healthy", "tumor")
BACKBONE = {"name": "vit", "ndim": 2, "channels": 3, "patch_size": 8, "width": WIDTH, "depth": 1, "heads": 2}


def slides(folder: Path, count: int = 12) -> list[EmbeddedSlide]:
    """Embeddings in which a few tiles of every second slide stand out."""
    store, generator = EmbeddingStore(folder / "embeddings", "key", {}), np.random.default_rng(0)
    found = []
    for number in range(count):
        tiles = generator.normal(size=(len(grid()) - number, WIDTH))
        tiles[3:6, 0] += 9 * (number % 2)
        name, split = f"i-{number}", "val" if number % 6 > 3 else "train"
        with store.writing(name, len(tiles), WIDTH) as writer:
            writer.append(tiles)
        labels = {"label": CLASSES[number % 2]}
        row = Row(name, f"p-{number}", name, name, "SM", "slide", "tiny", split, (3, 9, 9), "uint8", name, labels)
        found.append(EmbeddedSlide(row, grid(), store.get(name, len(tiles))))
    return found


def model_config(members: int = 3) -> SlideModelConfig:
    return SlideModelConfig(
        backbone=BACKBONE,
        head=AbmilConfig(hidden=8),
        members=members,
        features="mean",
        tiles=TileSpec(size=32, mpp=0.5),
        classes=CLASSES,
        label="label",
    )


def training(folder: Path, *, epochs: int = 4) -> SlideTraining:
    bags, members = BagConfig(tiles=16), members_of(0, 3, 0)
    optim, trainer = OptimConfig(lr=3e-2), TrainerConfig(epochs=epochs, steps_per_epoch=10)
    return SlideTraining(
        model_config(), slides(folder), bags, members, optim, LoaderConfig(batch_size=4), trainer, "loss", 0.0, 0
    )


def ensemble(members) -> SlideModel:
    backbone = VitConfig.parse(BACKBONE).build()
    model = SlideModel(model_config(len(members)), backbone, WIDTH)
    model.load_state_dict(ensemble_state(backbone, members))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    members, figures = training(folder).train(folder, Tracker())
    return folder, members, figures


def test_a_step_sees_a_part_of_each_bag_and_all_parts_in_turn(tmp_path):
    bags = [Bag(slide, n % 2) for n, slide in enumerate(slides(tmp_path, 4))]
    loader = bag_loader(LoaderConfig(batch_size=4), bags, max_tiles=16, num_batches=3, seed=0, start=Position())
    batches = list(loader)
    assert all(isinstance(batch, Bags) and batch.tiles.shape == (4, 16, WIDTH) for batch in batches)
    seen = {tuple(row.image_id for row in batch.rows) for batch in batches}
    assert len(seen) > 1
    assert not torch.equal(batches[0].tiles.sort(0).values, batches[1].tiles.sort(0).values)


def test_short_bags_are_filled_up_and_marked(tmp_path):
    bags = [Bag(slide, 0) for slide in slides(tmp_path, 4)]
    (batch,) = bag_loader(LoaderConfig(batch_size=4), bags, max_tiles=999, num_batches=1, seed=0, start=Position())
    assert sorted(batch.present.sum(1).tolist()) == [39, 40, 41, 42]
    assert (batch.tiles[~batch.present] == 0).all()


def test_a_run_that_goes_on_draws_what_the_whole_one_would_have(tmp_path):
    bags = [Bag(slide, 0) for slide in slides(tmp_path, 4)]
    options = {"max_tiles": 5, "num_batches": 3, "seed": 1}
    whole = list(bag_loader(LoaderConfig(batch_size=2), bags, **options, start=Position()))
    rest = list(bag_loader(LoaderConfig(batch_size=2), bags, **options, start=Position(0, 1)))
    assert torch.equal(whole[1].tiles, rest[0].tiles)


def test_validation_gives_each_slide_whole(tmp_path):
    given = list(whole_bags([Bag(slide, 1) for slide in slides(tmp_path, 3)]))
    assert [len(bag.embeddings) for bag in given] == [42, 41, 40]


def test_heads_learn_and_are_not_the_same(trained):
    _, members, figures = trained
    assert min(value for name, value in figures.items() if "best" in name) > 0.9
    assert not torch.equal(members[0]["head.linear.weight"], members[1]["head.linear.weight"])


def test_the_ensemble_is_the_mean_of_the_logits_of_its_heads(trained):
    folder, members, _ = trained
    tiles = slides(folder)[1].embeddings
    single = [ensemble([member]).read(tiles) for member in members]
    together = ensemble(members).read(tiles)
    logs = np.log([reading.probabilities for reading in single])
    expected = np.exp(logs.mean(0)) / np.exp(logs.mean(0)).sum()
    np.testing.assert_allclose(together.probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(together.members, [reading.probabilities for reading in single], rtol=1e-4)
    np.testing.assert_allclose(together.attention, np.mean([r.attention for r in single], axis=0), rtol=1e-4)


def test_the_ensemble_is_at_least_as_good_as_the_mean_of_its_heads(trained):
    folder, members, _ = trained
    model, losses, own = ensemble(members), [], []
    for number, slide in enumerate(slides(folder)):
        reading = model.read(slide.embeddings)
        losses.append(-np.log(reading.probabilities[number % 2]))
        own.append(-np.log(reading.members[:, number % 2]).mean())
    assert (np.array(losses) <= np.array(own) + 1e-6).all()  # nats: the log-likelihood is concave in the logits


def test_attention_and_scores_point_at_what_was_planted(trained):
    folder, members, _ = trained
    reading = ensemble(members).read(slides(folder)[5].embeddings, chunk=7)
    planted = np.isin(np.arange(37), [3, 4, 5])
    assert reading.maps.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert reading.attention[planted].min() > reading.attention[~planted].max()
    assert reading.scores[planted, 1].min() > reading.scores[~planted, 1].mean()


def test_heads_that_an_unfinished_run_has_trained_are_taken_over(trained, tmp_path, caplog):
    caplog.set_level("INFO")
    folder, members, _ = trained
    shutil.copytree(folder / ".head-0", tmp_path / ".head-0")
    again, figures = training(folder).train(tmp_path, Tracker())
    assert figures == trained[2]
    assert [record.message for record in caplog.records if "head" in record.message] == [
        "finetune: head 2 of 3",
        "finetune: head 3 of 3",
    ]
    for one, other in zip(members, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert {path.name for path in tmp_path.iterdir()} == set(training(folder).leftovers)


@pytest.mark.parametrize("moment", ["before its mark", "after its mark"])
def test_a_head_that_has_learned_is_not_taught_again(trained, tmp_path, monkeypatch, moment):
    folder, members, _ = trained
    steps: list[int] = []
    seeded = TrainingModule.on_train_batch_start

    def counted(module, batch, batch_idx):
        steps.append(batch_idx)
        seeded(module, batch, batch_idx)

    def killed(path, text):
        if moment == "after its mark":
            write_text(path, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", counted)
    with monkeypatch.context() as patched:
        patched.setattr("medvit.training.slide_heads.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            training(folder).train(tmp_path, Tracker())
    of_one_head = len(steps)
    again, _ = training(folder).train(tmp_path, Tracker())
    assert len(steps) == len(members) * of_one_head
    for one, other in zip(members, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_logits_of_bags_do_not_depend_on_the_others_in_the_batch(trained):
    folder, members, _ = trained
    head = ensemble(members).members[0]
    bags = [slide.embeddings.take(torch.arange(len(slide.embeddings))) for slide in slides(folder)[:3]]
    padded = torch.nn.utils.rnn.pad_sequence(bags, batch_first=True)
    present = torch.arange(padded.shape[1]) < torch.tensor(list(map(len, bags)))[:, None]
    torch.testing.assert_close(head.read(padded, present).logits[2:], head.read(bags[2][None]).logits)
    assert F.softmax(head.read(padded, present).logits, dim=1).shape == (3, 2)


def test_an_unknown_label_is_told_and_the_rest_goes_on(tmp_path):
    manifest = write_dataset(tmp_path / "dataset", 8, key=tmp_path / "site.key")
    strange = replace(manifest.rows[0], labels={"label": "unsure"})
    failures: list[str] = []
    kept = labeled_slides(replace(manifest, rows=(strange, *manifest.rows[1:])), "label", failures)
    assert len(kept) == 5  # two of eight are for the test
    assert failures == ["slide i-000: has label = 'unsure', expected one of healthy, tumor; it is excluded"]


def test_slides_with_tiles_of_other_scales_are_refused(tmp_path):
    found = slides(tmp_path, 2)
    found[1] = replace(found[1], grid=replace(grid(), mpp=1.0))
    with pytest.raises(DataError, match=r"the slides have tiles of 32 to 32 pixels at 0\.5 to 1 microns"):
        common_tiles(found, ())
    found[1] = replace(found[1], grid=replace(grid(), mpp=0.499, facts={"overlap": "0.5", "min_tissue": "0.2"}))
    spec = common_tiles(found[::-1], ("pen",))
    assert (spec.overlap, spec.min_tissue, spec.skip) == (0.5, 0.2, ("pen",))
    assert spec.mpp == pytest.approx(0.4995)


def test_several_devices_and_too_many_folds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="trained on one device"):
        bag_head(None, TrainerConfig(devices=2))
    with pytest.raises(DataError, match=r"reduce folds=13"):
        replace(training(tmp_path), members=members_of(13, 13, 0)).train(tmp_path, Tracker())
