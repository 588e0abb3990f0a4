"""Several reports on one page have the numbers of `medvit evaluate against=...`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import ConfigError, DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.paired import compare as compare_pair
from medvit.evaluation.report.page import ReportSubject, read_table, write_report
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.records import Row
from pipelines.results.compare import compare


def rows(count: int) -> list[Row]:
    return [
        Row(f"i{n}", f"p{n // 2}", f"i{n}", f"i{n}", "US", "image", "d", "test", (1, 8, 8), "int16", "0")
        for n in range(count)
    ]


def written(folder: Path, seed: int, skill: float) -> Evaluation:
    truth = np.arange(40) % 2
    noise = np.random.default_rng(seed).normal(0, 1, 40)
    probability = 1 / (1 + np.exp(-(skill * (2 * truth - 1) + noise)))
    both = np.stack([1 - probability, probability], axis=1)
    found = evaluate_classes(rows(40), truth, both, ("benign", "malignant"), resamples=100, seed=0)
    folder.mkdir()
    write_report(folder, ReportSubject("Title", {"Model": folder.name}), found)
    return found


def run(tmp_path: Path, *names: str) -> Path:
    options = {"reports": [tmp_path / name for name in names], "output": tmp_path / "together"}
    return compare(compare.config_type.parse({**options, "resamples": 100, "tracking": {"enabled": False}})).folder


def test_differences_are_those_of_evaluate_against(tmp_path: Path) -> None:
    first, second, third = (written(tmp_path / name, n, 0.2 + n) for n, name in enumerate("abc"))
    folder = run(tmp_path, "a", "b", "c")
    saved = json.loads((folder / "differences.json").read_text().replace("null", "NaN"))
    for name, evaluation in (("b", second), ("c", third)):
        expected = compare_pair(evaluation, first.table, resamples=100, seed=0)
        assert saved[name].keys() == expected.keys()
        for key, one in expected.items():
            for field in ("value", "low", "high", "p_corrected"):
                assert saved[name][key][field] == pytest.approx(getattr(one, field), nan_ok=True)
    page = (folder / "reports.html").read_text()
    assert all(f"{name} - a</h2>" in page for name in "bc")
    assert str(third.metrics["auroc"]) in page


def test_the_name_of_a_class_is_kept_and_undefined_numbers_are_null(tmp_path: Path) -> None:
    classes, truth = ("benign", "malignant", "BaNaNa"), np.arange(40) % 2
    for seed, name in enumerate("ab"):
        probabilities = np.random.default_rng(seed).dirichlet((1, 1, 1), 40)
        found = evaluate_classes(rows(40), truth, probabilities, classes, resamples=100, seed=0)
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, ReportSubject("Title", {}), found)
    saved = json.loads((run(tmp_path, "a", "b") / "differences.json").read_text())["b"]
    assert saved.keys() == compare_pair(found, read_table(tmp_path / "a"), resamples=100, seed=0).keys()
    assert saved["auroc.BaNaNa"]["value"] is None  # no image has this class


def test_reports_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a", 0, 1.0)
    with pytest.raises(ConfigError, match="at least two report folders"):
        run(tmp_path, "a")
    with pytest.raises(DataError, match="is not a report"):
        run(tmp_path, "a", "missing")
    ages = evaluate_values(rows(40), np.arange(40.0), np.arange(40.0), "age", resamples=100, seed=0)
    (tmp_path / "ages").mkdir()
    write_report(tmp_path / "ages", ReportSubject("Title", {}), ages)
    with pytest.raises(DataError, match="ages and a differ in kind"):
        run(tmp_path, "a", "ages")
