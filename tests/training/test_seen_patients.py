"""Training patients are recorded from training to training, and a test on them is refused."""

from dataclasses import replace

import pytest

from medvit.artifacts import PATIENTS
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.leakage.seen_patients import seen_patients, training_patients
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.training.guard.test_guard import image_options
from tests.training.test_runs import OFF, finetune_options


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    options = image_options(images, guard="off")
    return pretrain(output=tmp_path_factory.mktemp("pretrained") / "x", **options).folder


@pytest.fixture(scope="module")
def other_site(images, tmp_path_factory):
    """The same images as of other patients, but for two of the train split."""
    folder = tmp_path_factory.mktemp("other") / "dataset"
    manifest = Manifest.read(images)
    kept = {row.patient_id for row in manifest.split("train").rows[:2]}
    rows = [row if row.patient_id in kept else replace(row, patient_id=f"x{row.patient_id}") for row in manifest]
    for row in rows:
        Manifest((), manifest.facts, folder).store.link(manifest.store, row.sha256)
    replace(manifest, rows=tuple(rows), folder=folder).write()
    return folder


@pytest.fixture(scope="module")
def tuned(other_site, pretrained, tmp_path_factory):
    options = finetune_options(other_site, checkpoint=pretrained, head=None)
    return finetune(output=tmp_path_factory.mktemp("tuned") / "x", **options).folder


def everyone(dataset, *splits):
    return {row.patient_id for row in Manifest.read(dataset) if row.split in splits}


def test_a_pretraining_notes_the_patients_of_its_train_split_and_no_name_of_them(images, pretrained):
    assert seen_patients(pretrained, Manifest.read(images)) == everyone(images, "train")
    text = (pretrained / PATIENTS).read_text()
    assert not any(patient in text for patient in everyone(images, "train"))


def test_a_finetuning_adds_those_it_learned_or_chose_by_to_those_of_its_start(images, other_site, pretrained, tuned):
    assert seen_patients(tuned, Manifest.read(other_site)) == everyone(other_site, "train", "val")
    assert seen_patients(tuned, Manifest.read(images)) == everyone(images, "train")
    assert training_patients(pretrained) < training_patients(tuned)


def as_test_split(images, folder):
    """The images of the first site as a test split."""
    manifest = Manifest.read(images)
    for row in manifest:
        Manifest((), manifest.facts, folder).store.link(manifest.store, row.sha256)
    replace(manifest, rows=tuple(replace(row, split="test") for row in manifest), folder=folder).write()
    return folder


def test_a_test_on_patients_of_the_pretraining_is_refused_or_told(images, tuned, tmp_path):
    dataset = as_test_split(images, tmp_path / "dataset")
    known, everybody = len(everyone(images, "train")), len(everyone(images, "train", "val", "test"))
    options = {"checkpoint": tuned, "dataset": dataset, "resamples": 100, "cases": 1, "tracking": OFF}
    with pytest.raises(
        DataError, match=rf"{known} of {everybody} patients are training patients of the model or of its"
    ):
        evaluate(output=tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()

    evaluate(output=tmp_path / "kept", seen_patients="keep", **options)
    assert "the metrics are too good" in (tmp_path / "kept" / "report.html").read_text()

    evaluate(output=tmp_path / "rest", seen_patients="leave_out", **options)
    page = (tmp_path / "rest" / "report.html").read_text()
    assert f"of {everybody - known} patients" in page
    assert "images were excluded" in page


def test_where_all_have_been_seen_nobody_is_left(images, tuned, tmp_path):
    manifest = Manifest.read(as_test_split(images, tmp_path / "dataset"))
    known = everyone(images, "train")
    manifest.filter(lambda row: row.patient_id in known).write()
    options = {"checkpoint": tuned, "dataset": tmp_path / "dataset", "tracking": OFF}
    with pytest.raises(DataError, match="no other patient is left to evaluate"):
        evaluate(output=tmp_path / "out", seen_patients="leave_out", **options)


def test_patients_that_the_model_has_not_learned_from_are_measured_unasked(images, tuned, tmp_path):
    manifest = Manifest.read(as_test_split(images, tmp_path / "dataset"))
    known = everyone(images, "train")
    manifest.filter(lambda row: row.patient_id not in known).write()
    options = {"checkpoint": tuned, "dataset": tmp_path / "dataset", "tracking": OFF}
    evaluate(output=tmp_path / "out", resamples=100, cases=1, **options)
    assert "was trained on" not in (tmp_path / "out" / "report.html").read_text()
