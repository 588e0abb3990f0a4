"""The command line: help without delay, one sentence for a failure, and the exit status."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipelines
from docs.options import rendered
from medvit import __version__
from medvit.artifacts import Report
from medvit.config import RENAMED, keys
from medvit.errors import DataError
from medvit.stage import Run, StageConfig, stage
from pipelines.__main__ import STAGES, find, main
from pipelines._help import OPTIONS, listed, misspelt, options


class RehearsalConfig(StageConfig):
    """Options of a stage made for these tests."""

    output: Path
    """Output folder."""
    num_failures: int = 0
    """Number of items that fail."""
    error: str = ""
    """Error to raise."""


ERRORS: dict[str, BaseException] = {
    "data": DataError("no slices found"),
    "bug": KeyError("Doe^Jane"),
    "stop": KeyboardInterrupt(),
    "exit": SystemExit(1),
}


@stage
def rehearsal(config: RehearsalConfig, run: Run) -> Report:
    """Fails as configured."""
    errors = {
        "data": DataError("no slices found"),
        "bug": KeyError("Doe^Jane"),
        "stop": KeyboardInterrupt(),
        "exit": SystemExit(1),
    }
    if config.error:
        raise errors[config.error]
    run.failures += [f"item {number} failed" for number in range(config.num_failures)]
    return Report(run.folder, {})


@pytest.fixture
def rehearsal_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(STAGES, "rehearsal", STAGES["predict"])
    monkeypatch.setitem(listed(), "rehearsal", {"groups": {}, "keys": [astuple(key) for key in keys(RehearsalConfig)]})
    monkeypatch.setitem(sys.modules, "pipelines.rehearsal", SimpleNamespace(rehearsal=rehearsal))
    monkeypatch.setattr(pipelines, "rehearsal", rehearsal, raising=False)
    return


def run_rehearsal(folder: Path, *words: str) -> int:
    return main(["rehearsal", f"output={folder / 'made'}", "tracking.enabled=false", *words])


def test_help_lists_the_stages_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pipelines.__main__ import main; status = main(['--help']);"
        "print(sorted({'torch', 'numpy', 'pydantic', 'mlflow', 'yaml'} & sys.modules.keys())); sys.exit(status)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in STAGES)
    assert shown.splitlines()[-1] == "[]"


def test_help_answers_at_once() -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipelines", "--help"], capture_output=True, check=True)
    assert time.monotonic() - started < 3.0  # s; 0.05 where nothing else runs


@pytest.mark.parametrize("name", list(STAGES))
def test_the_list_of_stages_says_what_the_recipes_say(name: str) -> None:
    assert STAGES[name].summary == (find(name).__doc__ or "").strip().splitlines()[0]


def test_the_list_of_options_is_that_of_the_stages() -> None:
    assert OPTIONS.read_text(encoding="utf-8") == rendered(), "run `python -m docs.options`"


@pytest.mark.parametrize("name", list(STAGES))
def test_help_lists_every_option_of_every_variant_with_its_meaning(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = [key for key in options("plan pretrain" if name == "plan" else name) if key.type != RENAMED]
    shown = ""
    for variant in dict.fromkeys(key.variant for key in known):
        assert main([name, *([variant] if variant else []), "--help"]) == 0
        shown += capsys.readouterr().out
    for key in known:
        assert f"  {key.name.removesuffix('.name')}  (" in shown or f"  {key.name}  (" in shown
        assert key.help, f"{name}: the key {key.name} has no text under it"
    assert set(STAGES[name].first) <= {key.name for key in known}


def test_help_of_a_variant_lists_its_options_in_place_of_the_default_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--help"]) == 0
    plain = capsys.readouterr().out
    assert main(["finetune", "head=dense", "--help"]) == 0
    dense = capsys.readouterr().out
    assert "  head.channels  (" in dense
    assert "  head.channels  (" not in plain
    assert "medvit finetune head=" in plain
    assert plain.index("  label  (str, default label)") < plain.index("  backbone.drop_path  (")
    assert "  checkpoint  (Path or unset, default unset)" in plain
    assert "default none" not in plain


def test_help_and_a_misspelt_key_import_nothing_heavy() -> None:
    program = (
        "import sys; from pipelines.__main__ import main; main(['pretrain', '--help'])\n"
        "status = main(['finetune', 'head=dense', 'head.chanels=3'])\n"
        "print(sorted({'torch', 'numpy', 'mlflow', 'lightning'} & sys.modules.keys()), status)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[] 2"
    assert "unknown key 'head.chanels'; did you mean 'head.channels'?" in shown.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.epcohs=3"], "unknown key 'trainer.epcohs'"),
        (["codes.liver=SCT:1:Liver"], ""),
        (["tracking={enabled: false}"], ""),
        (["trainer.rounds=3"], ""),
        (["further.weight=3"], ""),
        (["furthur=3"], "unknown key 'furthur'; did you mean 'self_distillation'?"),
        (["objective=mae", "objective.mask_ratoi=.5"], "did you mean 'objective.mask_ratio'?"),
    ],
)
def test_keys_are_checked_before_anything_is_imported(words: list[str], expected: str) -> None:
    sentence = misspelt("predict" if words[0].startswith("codes") else "pretrain", words)
    assert expected in sentence
    assert bool(expected) == bool(sentence)


@pytest.mark.parametrize("name", list(STAGES))
def test_the_example_of_a_stage_gives_its_required_keys(name: str) -> None:
    words = STAGES[name].example.split()
    assert words[:2] == ["medvit", name]
    stage, given = find(name), words[2:]
    if hasattr(stage, "about"):
        stage, given = stage.about(given)
    stage.config_type.load(None, given)


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medvit {__version__}\n"


def test_a_misspelt_stage_answers_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretain", "dataset=x"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "expected"), [("--output=x", "without dashes, as output=x"), ("--verbose", "--debug")]
)
def test_an_unknown_option_is_told(option: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", option]) == 2
    assert expected in capsys.readouterr().err


def test_no_stage_shows_the_list_and_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "ingest" in capsys.readouterr().out


@pytest.mark.usefixtures("rehearsal_stage")
class TestStatus:
    def test_success_is_0(self, tmp_path: Path) -> None:
        assert run_rehearsal(tmp_path) == 0
        assert (tmp_path / "made").is_dir()

    def test_a_failed_stage_is_1_in_one_sentence(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_rehearsal(tmp_path, "error=data") == 1
        assert capsys.readouterr().err.endswith("medvit rehearsal: no slices found\n")

    def test_an_unknown_key_is_2_and_answered_with_the_nearest(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_rehearsal(tmp_path, "num_failure=1") == 2
        assert "unknown key 'num_failure'; did you mean 'num_failures'?" in capsys.readouterr().err

    def test_a_missing_config_file_is_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_rehearsal(tmp_path, "absent.yaml") == 2
        assert "no configuration file at absent.yaml" in capsys.readouterr().err

    def test_two_config_files_are_2(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_rehearsal(tmp_path, "a.yaml", "b.yaml") == 2
        assert "at most one CONFIG.yaml" in capsys.readouterr().err

    def test_failed_items_are_3_and_listed_up_to_ten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_rehearsal(tmp_path, "num_failures=12") == 3
        shown = capsys.readouterr().err
        assert "12 failed" in shown
        assert "item 9 failed" in shown
        assert "item 10 failed" not in shown
        assert "and 2 more" in shown

    @pytest.mark.parametrize("error", ["stop", "exit"])
    def test_an_interruption_is_130_and_says_how_to_go_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: str
    ) -> None:
        assert run_rehearsal(tmp_path, f"error={error}") == 130
        assert "resume=true" in capsys.readouterr().err

    def test_a_defect_is_told_by_type_without_its_text_or_traceback(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run_rehearsal(tmp_path, "error=bug") == 1
        shown = capsys.readouterr().err
        assert "unexpected KeyError; use --debug" in shown
        assert "Doe" not in shown
        assert "Traceback" not in shown

    def test_debug_shows_the_traceback(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_rehearsal(tmp_path, "error=bug", "--debug") == 1
        assert "Traceback" in capsys.readouterr().err


def test_the_earlier_name_of_a_stage_is_read_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unite", "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: medvit merge")
    assert "medvit unite is now called medvit merge" in shown.err
