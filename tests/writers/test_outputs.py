"""Writers are chosen by name; if one fails or conflicts with another, only its own files are missing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from medvit import writers as room
from medvit.errors import GeometryError
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import ImageContext, Maker, ModelTask, writers
from medvit.writers.outputs import Outputs


@dataclass(frozen=True)
class TextWriter:
    """Writes a text; of an `error`, half of it."""

    name: str
    file: str = "text.txt"
    error: str = ""
    is_for_all: bool = True
    title: str = "text"
    tasks: Sequence[ModelTask] = ("classification",)

    def applies(self, item: Item, prediction: Prediction) -> bool:
        return self.is_for_all

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        assert not list(folder.iterdir())
        (folder / self.file).write_text(self.name)
        if self.error:
            raise GeometryError(self.error)
        return [f"{self.name} wrote"]


def context(series: str = "") -> ImageContext:
    item, pixels = Item("image", (), "image"), np.zeros((1, 2, 2), np.uint8)
    prediction = Prediction(("a", "b"), probabilities=np.array([0.5, 0.5]))
    return ImageContext(item, Maker("1", "0"), series=series, image=Image(pixels, "image"), prediction=prediction)


def written(folder: Path, *chosen: TextWriter, are_chosen: bool = False) -> list[str]:
    return Outputs(chosen, are_chosen=are_chosen).write(context(), folder)


def test_a_writer_is_named_as_its_file() -> None:
    modules = (importlib.import_module(f"{room.__name__}.{one.name}") for one in pkgutil.iter_modules(room.__path__))
    named = {module.__name__.rpartition(".")[2]: module.WRITER.name for module in modules if hasattr(module, "WRITER")}
    assert len(named) == len(writers()) > 6
    assert list(named) == list(named.values())


def test_a_writer_that_fails_leaves_the_others_and_says_so(tmp_path: Path) -> None:
    notes = written(tmp_path, TextWriter("a", error="slices of 2 sizes"), TextWriter("b", "other.txt"))
    assert notes == ["there is no text: slices of 2 sizes", "b wrote"]
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_a_writer_never_replaces_the_file_of_another(tmp_path: Path) -> None:
    notes = written(tmp_path, TextWriter("a"), TextWriter("b"))
    assert notes[-1] == "there is no text in text.txt: another writer has written a file of this name"
    assert (tmp_path / "text.txt").read_text() == "a"


def test_what_does_not_apply_is_reported_only_where_it_was_asked_for(tmp_path: Path) -> None:
    one = TextWriter("a", is_for_all=False)
    assert written(tmp_path, one) == []
    (note,) = written(tmp_path, one, are_chosen=True)
    assert note == "there is no text: a does not apply to this image (format image)"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("classification", ("preview",)),
        ("segmentation", ("dicom_seg", "nifti", "png", "preview")),
        ("slide", ("dicom_ann", "geojson", "heatmap", "preview")),
    ],
)
def test_without_a_choice_there_are_all_for_the_task(task: ModelTask, names: tuple[str, ...]) -> None:
    assert Outputs.of(None, task).names == names
    assert Outputs.of((), task).names == ()
    assert Outputs.of(("preview", "preview"), task).names == ("preview",)


def test_files_of_several_series_bear_their_pseudonym(tmp_path: Path) -> None:
    assert context().path(tmp_path, "mask", ".nii.gz").name == "mask.nii.gz"
    assert context("e-1").path(tmp_path, "mask", ".nii.gz").name == "mask-e-1.nii.gz"
