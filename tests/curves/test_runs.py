"""Settings: chosen from complete and defined scores, with edges of the grid reported, and read again from files."""

from pathlib import Path

import pytest

from medvit.curves import runs
from medvit.curves.amounts import ALL
from medvit.curves.options import CurveOptions
from medvit.curves.runs import EQUAL_STEPS, CurveRun, Settings, chosen_settings, chosen_text, read_chosen
from medvit.curves.tables import read_table, table
from medvit.errors import DataError

LOW, HIGH = Settings(1e-4, 10), Settings(1e-3, 10)
OPTIONS = CurveOptions(
    dataset=Path("d"), output=Path("o"), finetune=Path("f"), rates=(1e-4, 3e-4, 1e-3), lengths=(10,), draws=1
)


def tuning(draw: int, settings: Settings) -> CurveRun:
    return CurveRun("tuning", "scratch", "full", 2, draw, settings)


def test_settings_with_a_failed_draw_are_not_chosen() -> None:
    scores = {tuning(0, LOW): 0.6, tuning(1, LOW): 0.7, tuning(0, HIGH): 0.9}
    assert chosen_settings(scores, 2)[2, "scratch", "full"] == (LOW, pytest.approx(0.65))
    assert chosen_settings({tuning(0, HIGH): 0.9}, 2) == {}


def test_an_undefined_score_chooses_nothing() -> None:
    with pytest.raises(DataError, match=r"tuning-scratch-full-n2-d1.*the score is undefined"):
        chosen_settings({tuning(0, LOW): 0.6, tuning(1, LOW): float("nan")}, 2)


def test_settings_at_an_edge_of_a_grid_are_named_and_a_grid_of_one_has_no_edge() -> None:
    assert LOW.edges(OPTIONS) == ["lowest lr"]
    assert HIGH.edges(OPTIONS) == ["highest lr"]
    assert Settings(3e-4, 10).edges(OPTIONS) == []
    assert Settings(strength=100.0).edges(OPTIONS) == ["highest C"]


def test_every_method_from_scratch_is_also_trained_as_long_as_pretraining_and_the_longest_fine_tuning() -> None:
    chosen = {
        (2, "scratch", "full"): (Settings(1e-3, 10), 0.5),
        (2, "scratch", "lora"): (Settings(1e-4, 20), 0.5),
        (2, "pretrained", "full"): (Settings(1e-4, 30), 0.5),
        (2, "pretrained", "lora"): (Settings(1e-4, 10), 0.5),
    }
    found = runs.test_runs(OPTIONS, ("scratch", "pretrained"), (2, ALL), chosen, pretraining_steps=100)
    equal = {(run.amount, run.way): run.settings for run in found if run.arm == EQUAL_STEPS}
    full, lora = Settings(1e-3, 130), Settings(1e-4, 120)
    assert equal == {(2, "full"): full, (2, "lora"): lora, (ALL, "full"): full, (ALL, "lora"): lora}


def test_choices_and_scores_return_from_their_files() -> None:
    chosen = {(0.05, "scratch", "full"): (LOW, 0.5), (2, "pixels", "regression"): (Settings(strength=0.1), 0.75)}
    assert read_chosen(chosen_text(chosen)) == chosen
    scores = {CurveRun("test", "scratch", "full", ALL, 3, LOW): 1 / 3, tuning(1001, HIGH): 0.5}
    assert read_table(table(scores)) == scores
