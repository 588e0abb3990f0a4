"""The test of drift: two halves of one cohort seldom alarm, and a planted shift of half a standard deviation does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.drift.comparison import compare_sets
from medvit.drift.permutations import LEVEL, permutation_p
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import DataError

WIDTH = 48


def cohort(number: int, seed: int, *, of_each: int = 1) -> EmbeddingTable:
    """Embeddings whose dimensions differ in scale, with age, sex, scanner and a label, of images of `number` patients.

    Images of a patient are alike.
    """
    generator = np.random.default_rng(seed)
    scales = np.geomspace(10.0, 0.1, WIDTH)
    images, vectors = [], []
    for patient in range(number):
        center = generator.normal(size=WIDTH) * scales
        attributes = {
            "age_years": f"{generator.normal(60, 12):.0f}",
            "sex": generator.choice(["F", "M"]),
            "model": generator.choice(["A", "B", "C"], p=[0.6, 0.3, 0.1]),
        }
        grade = str(generator.integers(0, 3))
        for image in range(of_each):
            name = f"{seed}-{patient}"
            ids = (f"i-{name}-{image}", f"p-{name}", f"s-{name}", f"q-{name}")
            images.append(EmbeddedImage(*ids, "CT", "volume", "d", "test", {"grade": grade}, attributes))
            vectors.append(center + 0.1 * scales * generator.normal(size=WIDTH))
    return EmbeddingTable(tuple(images), np.array(vectors, np.float32), {"features": "mean"})


def halves(table: EmbeddingTable, generator: np.random.Generator) -> tuple[EmbeddingTable, EmbeddingTable]:
    patients = sorted({image.patient_id for image in table.images})
    first = set(generator.permutation(patients)[: len(patients) // 2])
    inside = np.array([image.patient_id in first for image in table.images])
    return table.at(inside), table.at(~inside)


def aged(table: EmbeddingTable, years: float) -> EmbeddingTable:
    images = [
        replace(one, attributes={**one.attributes, "age_years": f"{float(one.attributes['age_years']) + years:.0f}"})
        for one in table.images
    ]
    return replace(table, images=tuple(images))


def test_at_most_five_percent_of_200_halvings_of_a_cohort_alarm() -> None:
    table, generator = cohort(120, 0, of_each=2), np.random.default_rng(0)
    alarms = sum(bool(compare_sets(*halves(table, generator), seed=n).alarms) for n in range(200))
    assert alarms <= 10


@pytest.mark.parametrize("what", ["age", "embeddings"])
def test_a_shift_of_half_a_standard_deviation_in_200_patients_alarms_in_most_cases(what: str) -> None:
    num_alarms, repeats = 0, 20
    for repeat in range(repeats):
        a, b = cohort(200, 2 * repeat), cohort(200, 2 * repeat + 1)
        b = aged(b, 6.0) if what == "age" else replace(b, vectors=b.vectors + 0.5 * b.vectors.std(axis=0))
        num_alarms += bool(compare_sets(a, b, seed=repeat).alarms)
    assert num_alarms >= 0.8 * repeats


def test_the_shifted_variable_is_named_with_its_effect() -> None:
    found = compare_sets(cohort(200, 0), aged(cohort(200, 1), 12.0))
    first = found.alarms[0]
    assert (first.name, first.group) == ("age_years", "attributes")
    assert first.effect == pytest.approx(0.9, abs=0.2)  # of the standard deviation of both sets together


def test_scores_are_joined_by_study() -> None:
    a, b = cohort(50, 0), cohort(50, 1)
    generator = np.random.default_rng(0)
    scores = [
        {image.study_id: {"cancer": float(generator.normal(shift, 1.0))} for image in part.images}
        for part, shift in ((a, 0.0), (b, 2.0))
    ]
    found = compare_sets(a, b, (scores[0], scores[1]))
    assert next(one.name for one in found.alarms if one.group == "scores") == "cancer"
    with pytest.raises(DataError, match="no study of the scores"):
        compare_sets(a, b, ({}, {}))


def test_the_p_value_of_one_variable_is_that_of_a_permutation_test() -> None:
    from scipy.stats import permutation_test

    generator = np.random.default_rng(0)
    a, b = generator.normal(size=30), generator.normal(0.6, 1.0, size=40)
    values, is_b = np.concatenate([a, b])[:, None], np.arange(70) >= 30
    effects, p = permutation_p(values, is_b, seed=0, permutations=20_000)
    expected = permutation_test(
        (a, b), lambda x, y: np.mean(y) - np.mean(x), n_resamples=20_000, rng=np.random.default_rng(1)
    )
    assert p[0] == pytest.approx(expected.pvalue, abs=0.006)
    assert effects[0] == pytest.approx((b.mean() - a.mean()) / values.std())


def test_constant_variables_never_alarm() -> None:
    effects, p = permutation_p(np.full((40, 2), 0.1), np.arange(40) < 20, seed=0)
    assert effects.tolist() == [0.0, 0.0]
    assert p.tolist() == [1.0, 1.0]


def test_images_of_a_patient_do_not_count_as_patients() -> None:
    """With 20 copies of each image, 12 patients a set do not become 240."""
    alarms = 0
    for repeat in range(20):
        a, b = cohort(12, 2 * repeat, of_each=20), cohort(12, 2 * repeat + 1, of_each=20)
        alarms += bool(compare_sets(a, b, seed=repeat).alarms)
    assert alarms <= 2
    assert LEVEL == 0.01


def test_few_patients_are_refused_and_shared_ones_noted() -> None:
    table = cohort(40, 0)
    with pytest.raises(DataError, match="the set b has 3 patients; expected at least 10"):
        compare_sets(table, table.at([0, 1, 2]))
    assert "40 patients are in both sets" in compare_sets(table, table).notes[0]
