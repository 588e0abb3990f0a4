"""The first section of a report: question, main metric, patients and verdict."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medvit.document import Callout, Table
from medvit.evaluation.criteria import Criterion, judge_criteria
from medvit.evaluation.report.answer import answer_part, in_plain_words, main_metric, task_text
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.records import Row


def rows(count: int) -> list[Row]:
    return [
        Row(f"i{n}", f"p{n // 2}", f"i{n}", f"i{n}", "US", "image", "d", "test", (1, 8, 8), "int16", "0")
        for n in range(count)
    ]


def detection():
    truth = np.array([0] * 20 + [1] * 20)
    probability = np.array([0.1] * 18 + [0.9] * 2 + [0.9] * 15 + [0.2] * 5)
    both = np.stack([1 - probability, probability], axis=1)
    return evaluate_classes(rows(40), truth, both, ("benign", "malignant"), resamples=100, seed=0)


NAMES = {"dataset": "busi", "model": "resnet", "split": "test"}


def test_the_question_names_task_positive_class_model_data_and_patients() -> None:
    blocks = answer_part(detection(), judge_criteria([], detection()), **NAMES).section.blocks
    assert blocks[0] == (
        "How well does the model resnet detect malignant (the positive class), against benign? Tested on 40 images of "
        "20 patients: busi, split test."
    )
    assert [(one.tone, one.lines[0][:10]) for one in blocks if isinstance(one, Callout)] == [("unjudged", "Not judged")]
    (table,) = [one for one in blocks if isinstance(one, Table)]
    assert table.lines[0][0] == "AUROC"


def test_shares_in_plain_words_are_those_of_the_data() -> None:
    (text,) = in_plain_words(detection())
    assert text.startswith("Of 100 images with malignant, the model finds 75 (95 % interval ")
    assert "with benign, it takes 10 (95 % interval " in text


@pytest.mark.parametrize(("bound", "verdict"), [(0.1, "passed"), (0.99, "failed")])
def test_the_verdict_is_in_page_and_file(bound: float, verdict: str) -> None:
    found = judge_criteria([Criterion(metric="auroc", bound=bound)], detection())
    part = answer_part(detection(), found, **NAMES)
    (callout,) = [one for one in part.section.blocks if isinstance(one, Callout)]
    assert callout.tone == verdict
    saved = json.loads(json.dumps(part.numbers, allow_nan=False))
    assert saved["name"] == verdict
    assert saved["criteria"][0]["is_met"] is (verdict == "passed")


def test_other_tasks_have_questions_of_their_own() -> None:
    ages = evaluate_values(rows(4), np.arange(4.0), np.arange(4.0), "age", resamples=100, seed=0)
    assert task_text(ages) == "predict age"
    assert main_metric(ages) == "mae"
    assert in_plain_words(ages) == []
