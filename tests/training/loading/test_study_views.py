"""A second view comes from the same study or not at all."""

from dataclasses import replace

import torch

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import Samples
from medvit.training.loading.study_views import ViewsOfStudy
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.transforms.views import MakeViews, MultiCropConfig


def samples_in_studies(folder, studies: list[str]) -> Samples:
    manifest = Manifest.read(folder)
    rows = tuple(replace(row, study_id=study) for row, study in zip(manifest.rows, studies, strict=False))
    rows = tuple(replace(row, patient_id=row.study_id[0]) for row in rows)
    return Samples(Manifest(rows, manifest.facts, manifest.folder), Preprocess(kind="image"))


def maker(across: bool) -> MakeViews:
    config = MultiCropConfig(size=(16, 16), local_size=(8, 8), num_local=4, across_study=across)
    return MakeViews(config, Normalization())


def test_every_pair_shares_its_study_and_is_of_two_images(images):
    samples = samples_in_studies(images, ["a1", "a1", "a1", "a2", "a2", "b1", "b1"])
    views = ViewsOfStudy(maker(True), samples)
    rows = samples.manifest.rows
    partners = set()
    for row in rows:
        for seed in range(20):
            other = rows[views.partner(row, seed)]
            assert (other.patient_id, other.study_id) == (row.patient_id, row.study_id)
            assert other.image_id != row.image_id
            partners.add((row.image_id, other.image_id))
    assert len(partners) == 6 + 2 + 2


def test_an_image_alone_in_its_study_is_seen_twice_itself(images):
    samples = samples_in_studies(images, ["a1", "b1"])
    assert ViewsOfStudy(maker(True), samples).partner(samples.manifest.rows[0], 3) is None
    alone = ViewsOfStudy(maker(True), samples)(samples[0], 3)
    assert torch.equal(alone.local, maker(True)(samples[0], 3).local)


def test_studies_of_one_name_in_two_patients_do_not_mix(images):
    samples = samples_in_studies(images, ["a1", "a1"])
    first, second = samples.manifest.rows
    mixed = Manifest((first, replace(second, patient_id="b")), samples.manifest.facts, samples.manifest.folder)
    assert ViewsOfStudy(maker(True), Samples(mixed, samples.preprocess)).partner(first, 0) is None


def test_without_the_option_views_are_of_one_image(images):
    samples = samples_in_studies(images, ["a1", "a1"])
    assert torch.equal(ViewsOfStudy(maker(False), samples)(samples[0], 3).local, maker(False)(samples[0], 3).local)
