"""Python API of `import medvit`: names that the README lists, examples that run, nothing heavy."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image as Picture

import medvit
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.phantoms.dicom import PhantomPatient, lose_slice, write_ct_series
from medvit.readers.options import ValuesConfig
from tests.fixtures import make

PROJECT = Path(__file__).parent.parent
FIXTURES = PROJECT / "tests" / "fixtures" / "2026-11"
README = (PROJECT / "README.md").read_text(encoding="utf-8").partition("## From Python")[2].partition("\n## ")[0]
CLASSES = re.findall(r"^\| `medvit\.(\w+)`", README, re.MULTILINE)
OFFERED = set(dir(medvit)) & medvit._HOMES.keys()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of a site: new studies of phantoms, and the outputs of the stages."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(2):
        hu, _, affine = make.half(2, number)
        write_ct_series(folder / "new-studies" / f"study-{number}", hu, affine, subject=PhantomPatient(2, number))
    lose_slice(folder / "new-studies" / "study-1")
    (folder / "runs").mkdir()
    for name in ("dataset", "report", "predictions"):
        (folder / "runs" / name).symlink_to(FIXTURES / name)
    (folder / "runs" / "model").symlink_to(FIXTURES / "checkpoint")
    (folder / "runs" / "backbone").symlink_to(FIXTURES / "checkpoint_pretrained")
    return folder


@pytest.fixture
def site(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the working directory."""
    monkeypatch.chdir(drawn)
    return drawn


def test_the_readme_names_the_eight_classes_that_medvit_offers() -> None:
    assert len(CLASSES) == 8
    assert sorted(CLASSES) == sorted(name for name in OFFERED if isinstance(getattr(medvit, name), type))


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_in_the_docstring_of_a_class_runs(name: str, site: Path) -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(medvit, name), name, globs={})
    output: list[str] = []
    found = doctest.DocTestRunner().run(example, out=output.append)
    assert found.attempted > 0
    assert found.failed == 0, "".join(output)


def test_every_name_in_the_code_of_the_readme_exists() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "medvit"
    }
    assert len(used) > 5
    assert used <= OFFERED


def test_every_name_is_imported_from_the_module_that_type_checkers_read() -> None:
    tree = ast.parse((PROJECT / "medvit" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in typed.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == medvit._HOMES


def test_a_name_is_that_of_its_module_and_others_are_no_attribute() -> None:
    assert medvit.Manifest is Manifest
    assert "Manifest" in dir(medvit)
    with pytest.raises(AttributeError, match="module 'medvit' has no attribute 'Manifesto'"):
        medvit.Manifesto  # noqa: B018


def test_medvit_ingest_is_the_stage_and_remains_the_room_that_modules_are_imported_from(tmp_path: Path) -> None:
    import medvit.ingest.splits as module

    assert isinstance(medvit.ingest, ModuleType)
    assert medvit.ingest is importlib.import_module("medvit.ingest")
    assert medvit.ingest.splits is module  # type: ignore[attr-defined]
    (tmp_path / "source").mkdir()
    Picture.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "source" / "picture.png")
    options = {"key": tmp_path / "key", "tracking": {"enabled": False}}
    made = medvit.ingest(source=tmp_path / "source", dataset=tmp_path / "dataset", **options)
    assert made == Manifest.read(tmp_path / "dataset")
    assert made.rows[0].shape == (1, 8, 8)


def test_what_find_does_not_take_is_told_with_its_reason(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = medvit.find("new-studies")
    assert [item.kind for item in items] == ["volume"]
    assert "15 files were refused (geometry): slice gaps range from" in caplog.text
    assert medvit.read(items[0]).pixels.shape == medvit.read(site / "new-studies" / "study-0").pixels.shape


def test_a_path_of_no_single_image_is_refused(site: Path, tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        Picture.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(
        DataError, match=r"the path contains 2 images; expected one: list them with medvit\.find\(path\)"
    ):
        medvit.read(tmp_path)
    with pytest.raises(DataError, match="some files of the path were refused: slice gaps range from"):
        medvit.read("new-studies")
    with pytest.raises(DataError, match=r"no folder at absent\.dcm"):
        medvit.find("absent.dcm")


def test_a_file_beside_an_image_that_is_none_does_not_hide_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Picture.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "picture.png")
    (tmp_path / "notes.txt").write_text("as agreed")
    assert medvit.read(tmp_path).pixels.shape == (1, 8, 8)
    assert "1 files were refused (not_an_image)" in caplog.text
    (tmp_path / "picture.png").unlink()
    with pytest.raises(DataError, match="the path contains no image of a supported format"):
        medvit.read(tmp_path)


def test_values_that_a_file_cannot_give_are_refused(site: Path) -> None:
    image = medvit.find("new-studies/study-0")[0]
    with pytest.raises(DataError, match=r"the DICOM files lack the elements that values\.mapping"):
        medvit.read(image, values=ValuesConfig(mapping="SUV"))


def test_a_folder_of_another_kind_is_no_report_and_no_predictions(site: Path) -> None:
    with pytest.raises(DataError, match=r"runs/model is not a report: no metrics\.json in it; give the output of eval"):
        medvit.Report.read("runs/model")
    with pytest.raises(DataError, match=r"runs/model is not predictions: no status\.csv in it; give the output of pre"):
        medvit.Predictions.read("runs/model")
