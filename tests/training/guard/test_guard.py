"""The guard: its readings, its alarms, and that a collapsed run never ends with collapsed weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medvit.artifacts import Checkpoint
from medvit.embeddings.probe_metrics import knn_vote, ridge_logits, standard_error
from medvit.errors import TrainingError
from medvit.training.guard import NAN, Guard, GuardConfig, ProbeReading
from pipelines.pretrain import PretrainConfig, pretrain
from tests.training.test_runs import card_without_cost, interrupt, pretrain_options, same_weights


def reading(step, score=0.8, rank=20.0, noise=0.0, images=96, **more):
    return ProbeReading(step, score=score, rank=rank, noise=noise, images=images, **more)


def kinds(guard, *readings):
    return [{alarm.kind for alarm in guard.take(r)} for r in readings]


def test_the_ridge_probe_finds_a_class_that_neighbors_miss():
    """The class is in one small direction, the noise in large ones."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(120, 20, generator=generator) * 3.0
    labels = torch.arange(120) % 2
    features[:, 0] = 0.5 * (2.0 * labels - 1.0) + 0.05 * torch.randn(120, generator=generator)
    found = ridge_logits(features[:80], labels[:80], features[80:]).argmax(dim=1)
    near = knn_vote(features[:80], labels[:80], features[80:], 5).argmax(dim=1)
    assert float((found == labels[80:]).float().mean()) >= 0.95
    assert float((near == labels[80:]).float().mean()) < 0.8


def test_a_rare_class_weighs_as_much_as_a_frequent_one_in_the_ridge_probe():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(200) % 10 == 0).long()
    features = torch.randn(200, 4, generator=generator) + 1.5 * labels[:, None]
    found = ridge_logits(features, labels, features).argmax(dim=1)
    recalls = [float((found[labels == c] == c).float().mean()) for c in (0, 1)]
    assert min(recalls) > 0.8


def test_a_perfect_score_of_few_images_is_still_uncertain():
    assert standard_error(1.0, 8) > standard_error(1.0, 80) > 0.0


def test_a_guard_describes_its_readings_and_the_weights_passed_on():
    guard = Guard(GuardConfig())
    assert guard.describe() == {"guard": "off"}
    guard.take(reading(0))
    guard.take(reading(10, 0.9))
    description = guard.describe()
    assert description["guard at the start"] == "score 0.8, rank 20"
    assert description["guard at the last step"] == "score 0.9, rank 20"
    assert description["guard"] == "no alarm; the last weights are passed on"
    assert guard.describe_rollback() == ""


def test_a_guard_names_the_weights_that_replace_the_last_and_why():
    guard = Guard(GuardConfig())
    for one in (reading(0), reading(10, 0.9), reading(20, rank=1.5)):
        guard.take(one)
    description = guard.describe_rollback()
    assert description.startswith("the guard ended the training at step 20: ")
    assert "the effective rank is 1.50" in description
    assert description.endswith("the weights of step 10 are passed on")
    assert guard.describe()["guard"] == description
    warning = Guard(GuardConfig(action="warn"))
    kinds(warning, reading(0), reading(10, rank=1.5))
    assert warning.describe_rollback() == ""
    assert "the effective rank is 1.50" in warning.describe()["guard"]


def test_a_fall_must_last_and_a_collapse_need_not():
    guard = Guard(GuardConfig(patience=2))
    assert kinds(guard, reading(0), reading(10, 0.7)) == [set(), {"fall"}]
    assert guard.verdict == ""
    assert kinds(guard, reading(20, 0.79), reading(30, 0.7), reading(40, 0.7))[0] == set()
    assert "the score is 0.700, after 0.800 at step 0" in guard.verdict
    guard = Guard(GuardConfig())
    kinds(guard, reading(0), reading(10, rank=1.5))
    assert "the effective rank is 1.50" in guard.verdict


def test_a_fall_within_the_noise_of_the_probe_is_none():
    guard = Guard(GuardConfig(drop=0.05))
    assert kinds(guard, reading(0, noise=0.05), reading(10, 0.71, noise=0.05)) == [set(), set()]


def compared(generator, *, lost: float, gained: float, count: int = 256) -> set[str]:
    """Alarms after an epoch that loses some of the images that were right at the start (.80), and gains others."""
    right = torch.arange(count) < round(0.8 * count)
    chance = torch.rand(count, generator=generator)
    later = torch.where(right, chance >= lost / 0.8, chance < gained / 0.2)
    first, second = ((hits.double() / count).tolist() for hits in (right, later))
    noise = standard_error(0.8, count)
    guard = Guard(GuardConfig())
    guard.take(reading(0, sum(first), hits=tuple(first), noise=noise))
    return {alarm.kind for alarm in guard.take(reading(10, sum(second), hits=tuple(second), noise=noise))}


def test_on_256_images_a_fall_from_80_to_69_is_caught_and_no_fall_is_none():
    """In 95 of 100 draws where one image in twenty is gained meanwhile; 1 in 100 false alarms without a fall.

    Of 48 images, the same fall was within twice the error of either score.
    """
    generator = torch.Generator().manual_seed(0)
    caught = [compared(generator, lost=0.16, gained=0.05) for _ in range(200)]
    assert sum("fall" in kinds for kinds in caught) >= 190
    still = [compared(generator, lost=0.05, gained=0.05) for _ in range(200)]
    assert sum("fall" in kinds for kinds in still) <= 4


def test_scores_are_compared_image_by_image():
    """24 of 256 images are lost and none gained: .094, of which each score alone is uncertain by .025."""
    hits = torch.ones(256) / 256
    later = hits * (torch.arange(256) >= 24)
    noisy = {"noise": 0.06}
    for pairs, expected in (({}, set()), ({"hits": (tuple(hits.tolist()), tuple(later.tolist()))}, {"fall"})):
        first, second = ({"hits": part} for part in pairs.get("hits", ((), ())))
        guard = Guard(GuardConfig())
        guard.take(reading(0, 1.0, **first, **noisy))
        assert {alarm.kind for alarm in guard.take(reading(10, float(later.sum()), **second, **noisy))} == expected


def test_pairs_survive_a_stop(tmp_path):
    first = Guard(GuardConfig())
    first.take(reading(0, hits=(0.5, 0.3)))
    second = Guard(GuardConfig())
    second.recall(json.loads(json.dumps(first.state())))
    assert second.best.hits == (0.5, 0.3)


@pytest.mark.parametrize(
    ("start", "then", "kind"),
    [
        ({}, {"rank": 9.0}, "low"),
        ({}, {"rank": 1.9}, "collapse"),
        ({"rank": 1.5}, {"rank": 1.4}, "low"),  # from random weights a low rank is not a fall
        ({}, {"rank": NAN}, "collapse"),
        # Of objectives that rebuild pixels, a low rank must be confirmed by the score, or by neighbors without one.
        ({"reconstruction": 1.0}, {"rank": 1.9, "reconstruction": 0.9}, "low"),
        ({"reconstruction": 1.0}, {"rank": 1.9, "reconstruction": 0.9, "score": 0.78}, "fall"),
        ({"score": NAN, "knn": 0.9}, {"score": NAN, "rank": 1.9, "reconstruction": 0.9, "knn": 0.88}, "low"),
        ({"score": NAN, "knn": 0.9}, {"score": NAN, "rank": 1.9, "reconstruction": 0.9, "knn": 0.3}, "fall"),
        ({"entropy": 0.9}, {"entropy": 0.09}, "collapse"),
        ({"score": NAN, "reconstruction": 0.5}, {"score": NAN, "reconstruction": 0.61}, "fall"),
    ],
)
def test_every_threshold_has_its_alarm(start, then, kind):
    guard = Guard(GuardConfig())
    guard.take(reading(0, **start))
    assert {alarm.kind for alarm in guard.take(reading(10, **then))} == {kind}


def test_neighbors_alone_end_nothing_of_an_objective_that_rebuilds_pixels():
    guard = Guard(GuardConfig(patience=1))
    description = kinds(
        guard,
        reading(0, reconstruction=1.0, knn=0.9),
        reading(10, reconstruction=0.9, knn=0.1),
        reading(20, 0.6, reconstruction=0.9, knn=0.9),
    )
    assert description == [set(), set(), {"fall"}]
    assert guard.best.step == 10


def test_random_start_weights_are_no_floor_but_what_was_learned_is():
    guard = Guard(GuardConfig(patience=1), starts_random=True)
    assert kinds(guard, reading(0, 0.6), reading(10, 0.4, rank=1.9)) == [set(), {"low"}]
    assert guard.best.step == 10
    assert kinds(guard, reading(20, 0.7), reading(30, 0.4)) == [set(), {"low"}]
    assert guard.best.step == 20
    assert not guard.close()
    assert kinds(guard, reading(40, 0.5, rank=1.1)) == [{"low", "collapse"}]
    assert guard.close()


def test_few_images_cannot_have_a_low_rank():
    guard = Guard(GuardConfig())
    assert kinds(guard, reading(0, rank=4.0, images=8)) == [set()]


def test_the_best_is_the_highest_score_and_of_equal_ones_the_later():
    guard = Guard(GuardConfig())
    for step, score in enumerate((0.5, 0.9, 0.9, 0.88)):
        guard.take(reading(step, score))
    assert guard.best.step == 2
    errors = Guard(GuardConfig())
    for step, error in enumerate((1.2, 0.5, 0.55)):
        errors.take(reading(step, NAN, reconstruction=error))
    assert errors.best.step == 1


def test_a_reading_with_an_alarm_is_never_the_best():
    guard = Guard(GuardConfig(patience=5))
    guard.take(reading(0, NAN, reconstruction=1.2, knn=0.9))
    guard.take(reading(10, NAN, reconstruction=1.0, rank=1.1, knn=0.1))
    assert guard.best.step == 0


def test_at_the_end_one_fall_is_enough_for_a_rollback_and_none_for_a_warning():
    for action, reason in (("rollback", "the score is 0.300"), ("warn", "")):
        guard = Guard(GuardConfig(action=action, patience=9))
        kinds(guard, reading(0), reading(10, 0.3))
        assert guard.close().startswith(reason)
        assert bool(guard.close()) == bool(reason)


def test_a_guard_goes_on_from_its_state_as_if_it_had_not_stopped():
    whole, first = Guard(GuardConfig()), Guard(GuardConfig())
    readings = [reading(0), reading(10, 0.9), reading(20, 0.7), reading(30, 0.7)]
    kinds(whole, *readings)
    kinds(first, *readings[:3])
    second = Guard(GuardConfig())
    second.recall(first.state())
    second.take(readings[3])
    assert second.state() == whole.state()
    assert second.verdict


def test_the_guard_is_chosen_by_a_word():
    options = {"dataset": "d", "output": "o"}
    assert PretrainConfig.parse(options | {"guard": "stop"}).guard == GuardConfig(action="stop")
    assert PretrainConfig.parse(options).guard.action == "rollback"


WRECK = {"lr": 3.0, "warmup": 0.0, "clip": 1e9, "schedule": "constant"}


def image_options(images, **more):
    tiny = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
    options = {"backbone": tiny, "preprocess": {"kind": "image"}, "objective": {"name": "mae", "decoder_width": 32}}
    options["objective"] |= {"decoder_depth": 1, "decoder_heads": 2, "views": {"size": [16, 16]}}
    return pretrain_options(images, **options) | {"monitors": {"knn_images": 8}} | more


HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 24}
DINO = {"name": "dino", "head": HEAD, "momentum": 0.5, "views": {"size": [16, 16], "num_local": 2}}


@pytest.mark.parametrize("objective", [None, DINO], ids=["mae", "dino"])
def test_a_learning_rate_that_wrecks_the_weights_ends_with_the_start_weights_and_says_so(
    images, tmp_path, caplog, objective
):
    start = pretrain(output=tmp_path / "start", **image_options(images, optim={"lr": 1e-3}))
    options = image_options(images, checkpoint=start.folder, peft="full", optim=WRECK)
    options |= {"objective": objective} if objective else {}
    wrecked = Checkpoint.load(pretrain(output=tmp_path / "none", **options, guard="warn").folder)
    finished = pretrain.run(PretrainConfig.parse({"output": tmp_path / "guarded", **options}))
    kept = Checkpoint.load(finished.artifact.folder)
    assert not same_weights(wrecked, Checkpoint.load(start.folder))
    assert same_weights(kept, Checkpoint.load(start.folder))
    (failure,) = finished.failures
    assert "the guard ended the training at step" in failure
    assert "the initial weights are passed on" in failure
    assert failure in caplog.text
    assert failure in (kept.folder / "model_card.md").read_text()
    assert not (kept.folder / "best.safetensors").exists()


def test_a_guard_that_stops_fails_the_run_and_keeps_the_best_weights_beside(images, tmp_path):
    start = pretrain(output=tmp_path / "start", **image_options(images, optim={"lr": 1e-3}))
    options = image_options(images, checkpoint=start.folder, peft="full", optim=WRECK, guard="stop")
    with pytest.raises(TrainingError, match=r"the guard stopped the run at step \d+: .*the best weights, of step 0"):
        pretrain(output=tmp_path / "stopped", **options)
    best = load_file(tmp_path / "stopped.partial" / "best.safetensors")
    assert all(torch.equal(best[name], weight) for name, weight in start.state.items())


def test_a_run_stopped_and_resumed_ends_where_the_guard_ends_the_whole(images, tmp_path, monkeypatch):
    start = pretrain(output=tmp_path / "start", **image_options(images, optim={"lr": 1e-3}))
    options = image_options(
        images, checkpoint=start.folder, peft="full", optim=WRECK, guard={"patience": 2, "rank_hard": 0}
    )
    whole = pretrain(output=tmp_path / "whole", **options)
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **options)
    resumed = pretrain(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))
    one, other = (card_without_cost(made.folder) for made in (whole, resumed))
    assert one == other


def test_readings_change_nothing_of_what_is_learned(images, tmp_path):
    seen = pretrain(output=tmp_path / "seen", **image_options(images))
    unseen = pretrain(output=tmp_path / "unseen", **image_options(images, guard="off"))
    assert same_weights(Checkpoint.load(seen.folder), Checkpoint.load(unseen.folder))
    assert "guard at the start: score" in (seen.folder / "model_card.md").read_text()
    assert "guard: off" in (unseen.folder / "model_card.md").read_text()
