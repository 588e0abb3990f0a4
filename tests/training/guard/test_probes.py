"""Labels and images of probes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from medvit.backbones.vit import VitConfig
from medvit.dataset.manifest import Manifest
from medvit.dataset.slices import SlicesConfig
from medvit.embeddings.probe_metrics import knn_vote, ridge_logits
from medvit.objectives.mae import MaeConfig
from medvit.records import IGNORED, Row
from medvit.registry import find
from medvit.training.guard.build_probe import (
    UNKNOWN,
    _bank_and_queries,
    _pairs,
    _patch_labels,
    _some_patches,
    build_probe,
)
from medvit.training.guard.probes import ProbeConfig
from medvit.training.initialization import start_from
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.transforms.views import ViewsConfig
from medvit.types import Sample
from medvit.wsi.locations import SlidesConfig


def probe_of(folder, rows=None, intensity=None, **options):
    manifest = Manifest.read(folder)
    if rows is not None:
        manifest = Manifest(rows, manifest.facts, folder)
    ndim = len(manifest.rows[0].shape) - 1
    preprocess = Preprocess(kind="image" if ndim == 2 else "volume", intensity=intensity or Normalization())
    config = VitConfig(patch_size=8, width=32, depth=2, heads=2)
    start = start_from(None, config, preprocess, manifest)
    monitors = ProbeConfig(**{"knn_images": 8} | options)
    return start, build_probe(monitors, manifest, start, ViewsConfig(size=(16,) * ndim), seed=0)


def unlabeled(folder, studies=lambda number: f"s-{number}") -> tuple[Row, ...]:
    rows = Manifest.read(folder).rows
    return tuple(
        replace(row, labels={}, study_id=studies(number), patient_id=studies(number)) for number, row in enumerate(rows)
    )


def test_labels_make_a_class_probe_and_masks_one_of_tissue(images, volumes):
    assert probe_of(images)[1].question == "class"
    assert probe_of(volumes)[1].question == "tissue"
    partly = [replace(row, annotated=()) for row in Manifest.read(volumes).rows]
    assert probe_of(volumes, partly)[1].question == "study", "background may be a class that is not annotated"


def test_of_images_of_which_some_have_labels_only_those_are_asked_for_them(images):
    rows = Manifest.read(images).rows
    others = tuple(replace(row, labels={}, image_id=f"o-{row.image_id}") for row in rows)
    _, alone = probe_of(images, knn_images=64)
    _, probe = probe_of(images, (*rows, *others), knn_images=64)
    assert probe.question == "study"  # four labeled queries among eight are too few
    more = tuple(replace(row, image_id=f"{row.image_id}-{turn}") for row in rows for turn in range(4))
    _, probe = probe_of(images, (*more, *others), knn_images=64)
    assert probe.question == "class"
    assert len(probe.queries) == 4 * len(alone.queries)


def test_without_either_an_image_must_find_its_study(images):
    rows = unlabeled(images, lambda number: f"s-{number // 4}")
    _, probe = probe_of(images, rows)
    train = [row for row in rows if row.split == "train"]
    assert probe.question == "study"
    assert len(probe.bank) == len({row.study_id for row in train}) == len(probe.queries)
    assert not any(torch.equal(one, other) for one, other in zip(probe.bank, probe.queries, strict=True))


def test_queries_are_other_images_of_the_study_where_it_has_some(images, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "medvit.training.guard.build_probe.cut",
        lambda pixels, crop, size: taken.append(pixels) or torch.zeros(1, *size),
    )
    probe_of(images, unlabeled(images, lambda number: f"s-{number // 6}"))
    assert len(taken) == 4
    assert not torch.equal(taken[0], taken[1])
    taken.clear()
    probe_of(images, unlabeled(images))
    assert all(torch.equal(one, other) for one, other in zip(taken[::2], taken[1::2], strict=True))


def test_slices_of_a_study_are_compared_away_from_the_ends_of_the_stack(volumes):
    manifest = SlicesConfig().of(Manifest.read(volumes))
    rows = tuple(replace(row, labels={}, mask=None) for row in manifest.rows)
    pairs = _pairs(replace(manifest, rows=rows), 5, seed=0)
    assert [(one.number, other.number) for one, other in pairs] == [(5, 10)] * 5
    assert all(one.study_id == other.study_id for one, other in pairs)


def test_a_reading_of_mae_has_probe_and_reconstruction_and_leaves_all_as_it_was(images):
    start, probe = probe_of(images)
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone).train()
    objective.norm.eval()
    before = {name: weight.clone() for name, weight in objective.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, other = probe.read(objective, 0, 0.0), probe.read(objective, 0, 0.0)
    assert one == other
    assert torch.equal(torch.get_rng_state(), state)
    assert objective.training
    assert not objective.norm.training
    assert all(torch.equal(weight, before[name]) for name, weight in objective.state_dict().items())
    assert {"score", "rank", "cosine", "reconstruction", "knn"} == one.figures().keys()
    assert one.images == len(probe.bank) + len(probe.queries)


@pytest.mark.parametrize("name", ["mae", "dino"])
def test_mae_is_judged_by_a_linear_probe_and_dino_by_neighbors(images, name):
    start, probe = probe_of(images, knn_neighbors=3)
    head = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
    options = {"head": head} if name == "dino" else {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
    objective = find("medvit.objectives", name).parse(options).build(start.backbone).eval()
    with torch.no_grad():
        tokens = [objective.backbone(torch.stack(list(part))) for part in (probe.bank, probe.queries)]
    first = [each.prefix[:, 0] for each in tokens]
    wide = [torch.cat([each.prefix[:, 0], each.patches.mean(1)], dim=1) for each in tokens]
    if name == "mae":
        answers = ridge_logits(wide[0], probe.bank_labels, wide[1])
    else:
        answers = knn_vote(first[0], probe.bank_labels, first[1], 3)
    found = probe.read(objective, 0, 0.0)
    assert found.score == pytest.approx(balanced_accuracy_score(probe.query_labels, answers.argmax(1)))
    assert np.isnan(found.reconstruction) == (name == "dino")


def test_what_each_image_adds_sums_to_the_score(images, volumes):
    for folder in (images, volumes):
        start, probe = probe_of(folder)
        objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
        found = probe.read(objective, 0, 0.0)
        assert len(found.hits) == len(probe.queries)
        assert sum(found.hits) == pytest.approx(found.score, abs=1e-9)


def test_256_images_are_read_where_the_data_have_them_and_bank_and_queries_share_no_patient(images):
    """40 validation images are topped up with training images of patients that the bank does not have."""
    assert ProbeConfig().knn_images == 256
    known = {row.split: row for row in Manifest.read(images).rows}
    rows = tuple(
        replace(known["val" if n < 40 else "train"], image_id=f"i-{n}", patient_id=f"p-{n // 3}") for n in range(640)
    )
    manifest = Manifest(rows, Manifest.read(images).facts, images)
    start, _ = probe_of(images)
    bank, queries = _bank_and_queries(manifest, ProbeConfig(), start, 0, SlidesConfig())
    assert len(bank) == 256
    assert 254 <= len(queries) <= 256
    patients = [{row.patient_id for row in part.manifest if row.split == "train"} for part in (bank, queries)]
    assert patients[0].isdisjoint(patients[1])


def test_patches_of_many_volumes_are_drawn_evenly(volumes, monkeypatch):
    monkeypatch.setattr("medvit.training.guard.build_probe.MAX_PATCHES", 12)
    start, probe = probe_of(volumes)
    for images, labels, places in zip(
        (probe.bank, probe.queries), (probe.bank_labels, probe.query_labels), probe.patches, strict=True
    ):
        assert places.shape == (len(images), min(8, 12 // len(images)))
        assert len(labels) == places.numel()
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    assert 0.0 <= probe.read(objective, 0, 0.0).score <= 1.0


def test_mae_without_labels_is_judged_by_reconstruction_alone(images):
    start, probe = probe_of(images, unlabeled(images))
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    figures = probe.read(objective, 0, 0.0).figures()
    assert "score" not in figures
    assert figures["reconstruction"] > 0
    assert figures["knn"] >= 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_backbone_that_gives_no_numbers_has_no_score_and_no_rank(images, value):
    start, probe = probe_of(images)
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    nn.init.constant_(start.backbone.norm.weight, value)
    reading = probe.read(objective, 5, 0.5)
    assert reading.score == 0.0
    assert np.isnan(reading.rank)


def test_too_few_images_or_none_asked_for_make_no_probe(images):
    assert probe_of(images, knn_images=0)[1] is None


def test_an_attribute_is_asked_for_as_a_label_is_and_what_features_hold_of_it_is_read(images):
    """Sex is encoded as brightness, which random weights preserve: an audit of the information in features."""
    rows = Manifest.read(images).rows
    rows = tuple(replace(r, labels={}, attributes={"sex": "FM"[r.labels["label"] == "dark"]}) for r in rows)
    assert probe_of(images, rows)[1].question == "study"
    window = Normalization(method="window", window_center=150, window_width=300)
    start, probe = probe_of(images, rows, window, knn_label="sex", knn_neighbors=3)
    assert probe.question == "class"
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    assert probe.read(objective, 0, 0.0).score == 1.0


def test_a_reading_does_not_depend_on_how_many_images_a_forward_pass_takes(images, monkeypatch):
    start, probe = probe_of(images)
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    whole = probe.read(objective, 0, 0.0)
    monkeypatch.setattr("medvit.training.guard.probes.AT_ONCE", (1, 1))
    one_by_one = probe.read(objective, 0, 0.0)
    assert one_by_one.hits == whole.hits
    assert one_by_one.rank == pytest.approx(whole.rank, rel=1e-4)


def test_a_reading_at_the_precision_of_training_is_near_that_of_float32(images):
    start, probe = probe_of(images)
    objective = MaeConfig(decoder_width=32, decoder_depth=1, decoder_heads=2).build(start.backbone)
    whole = probe.read(objective, 0, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        half = probe.read(objective, 0, 0.0)
    assert half.rank == pytest.approx(whole.rank, rel=0.05)
    assert half.reconstruction == pytest.approx(whole.reconstruction, rel=0.02)


def test_patches_that_are_mostly_ignored_are_not_compared(volumes):
    row = Manifest.read(volumes).rows[0]
    mask = torch.zeros(16, 16, dtype=torch.long)
    mask[:8, :8] = 1
    mask[8:, :] = IGNORED
    labels = _patch_labels(Sample(torch.zeros(1, 16, 16), row, mask), (16, 16), (8, 8))
    assert labels.tolist() == [1, 0, UNKNOWN, UNKNOWN]
    chosen = _some_patches(torch.stack([labels, torch.tensor([0, 1, 0, 0])]) != UNKNOWN, seed=0)
    assert chosen.shape == (2, 2)
    assert chosen[0].tolist() == [0, 1]
