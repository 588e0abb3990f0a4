"""Reproduction: a repeated run gives the same weights, and what differs from the time of the run is reported."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.artifacts import CONFIG, Checkpoint, Lineage
from medvit.errors import ConfigError, DataError
from medvit.phantoms import write_radiograph_studies
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.results.reproduce import reproduce
from tests.pipelines.short_training import OFF, SHORT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    write_radiograph_studies(folder / "source", 12)
    labeling = {"from_folders": "folder"}
    ingest(source=folder / "source", dataset=folder / "dataset", key=folder / "site.key", labeling=labeling, **OFF)
    preprocess = {"kind": "image", "size": [32, 32], "intensity": {"method": "range"}}
    finetune(dataset=folder / "dataset", output=folder / "model", preprocess=preprocess, keep="last", **SHORT, **OFF)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    for name in ("dataset", "model", "source"):
        shutil.copytree(trained / name, tmp_path / name)
    shutil.copy(trained / "site.key", tmp_path / "site.key")
    return tmp_path


def test_a_repeated_training_gives_the_same_weights(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce(run=runs / "model", runs=runs, repeat=True, **OFF)
    assert Checkpoint.load(runs / "model-repeated").hash == Checkpoint.load(runs / "model").hash
    assert "the same result" in capsys.readouterr().out


def test_commands_are_printed_inputs_first_and_nothing_is_run(runs: Path) -> None:
    before = sorted(runs.iterdir())
    made = reproduce(run=runs / "model", runs=runs, **OFF)
    commands = [line.split() for line in made.lines if line.startswith("  medvit")]
    assert [words[1] for words in commands] == ["ingest", "finetune"]
    assert commands[0][-1] == "source=..."
    assert commands[1][2:] == [str(runs / "model" / CONFIG), f"output={runs / 'model-repeated'}"]
    assert sorted(runs.iterdir()) == before


def test_a_dataset_is_repeated_with_the_options_that_are_not_recorded(runs: Path) -> None:
    with pytest.raises(ConfigError, match="source, which may name patients"):
        reproduce(run=runs / "dataset", runs=runs, repeat=True, **OFF)
    options = [f"source={runs / 'source'}", f"key={runs / 'site.key'}"]
    made = reproduce(run=runs / "dataset", runs=runs, repeat=True, output=runs / "dataset2", options=options, **OFF)
    assert any("repeated in" in line for line in made.lines)


def test_changed_inputs_options_and_versions_are_reported_and_not_repeated(runs: Path) -> None:
    lineage = Lineage.read(runs / "model")
    replace(lineage, version="0.0.1", inputs={"dataset": "0" * 64}).write(runs / "model")
    path = runs / "model" / CONFIG
    path.write_text(path.read_text(encoding="utf-8").replace("seed: 0", "seed: 1", 1), encoding="utf-8")
    made = reproduce(run=runs / "model", runs=runs, **OFF)
    text = "\n".join(made.lines)
    for part in ("input dataset 000000000000", "options: ", "version: the run used medvit 0.0.1"):
        assert f"differs: {part}" in text
    with pytest.raises(DataError, match="cannot be repeated: input dataset"):
        reproduce(run=runs / "model", runs=runs, repeat=True, **OFF)


def test_a_folder_that_is_not_an_output_is_refused(runs: Path) -> None:
    with pytest.raises(DataError, match="neither the output folder"):
        reproduce(run=runs / "source", runs=runs, **OFF)
