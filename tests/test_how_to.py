"""The files in docs/how-to are complete and run as they stand, from outside the package."""

from __future__ import annotations

import html
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef

from medvit import readers
from medvit.backbones.vit import VitConfig
from medvit.errors import NotAnImageError
from medvit.evaluation.report.page import ReportSubject, write_report
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.geometry import Affine
from medvit.objectives import ObjectiveConfig
from medvit.records import Item, Refusal, Row
from medvit.registry import extended, find
from medvit.types import Image, Prediction, Views
from medvit.writers import ImageContext, Maker
from medvit.writers.outputs import Outputs

PAGES = Path(__file__).parent.parent / "docs" / "how-to"
MAX_LINES = 60
ROOMS = {
    "add-a-metric": ("medvit.metrics", "mcc"),
    "add-a-writer": ("medvit.writers", "boxes"),
    "add-a-reader": ("medvit.readers", "npy"),
    "add-an-objective": ("medvit.objectives", "rotation"),
}


def code_of(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    return code


@contextmanager
def added(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The file of a page as a module of its own, in its room for as long as the block lasts."""
    room, name = ROOMS[page]
    (folder / f"my_{name}.py").write_text(code_of(page), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    with extended(room, f"my_{name}"):
        yield sys.modules[f"my_{name}"]


@pytest.mark.parametrize("page", ROOMS)
def test_a_file_is_short_and_its_page_says_where_it_goes(page: str) -> None:
    room, name = ROOMS[page]
    assert len(code_of(page).splitlines()) <= MAX_LINES
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert f"`{room.replace('.', '/')}/{name}.py`" in text
    assert f'[project.entry-points."{room}"]\n{name} = "my_package.{name}"' in text


def test_every_page_is_run_here() -> None:
    assert {path.stem for path in PAGES.glob("add-*.md")} == ROOMS.keys()


def test_a_metric_is_computed_explained_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    truth, probabilities = generator.integers(0, 3, 40), generator.dirichlet(np.ones(3), 40)
    rows = [Row(str(n), str(n), "", "", "CT", "image", "d", "test", (1, 8, 8), "int16", "0") for n in range(40)]
    with added("add-a-metric", tmp_path, monkeypatch) as module:
        found = evaluate_classes(rows, truth, probabilities, ("a", "b", "c"), resamples=100, seed=0)
        write_report(tmp_path, ReportSubject("Title", {}), found)
    expected = matthews_corrcoef(truth, probabilities.argmax(axis=1))
    assert found.metrics["mcc"].value == pytest.approx(expected, abs=1e-12)
    assert found.metrics["mcc"].low < expected < found.metrics["mcc"].high
    assert math.isnan(module.matthews(np.diag([3, 0])))
    definition = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["definitions"]["mcc"]
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Matthews correlation" in page
    assert definition["meaning"] in page
    assert "mcc" not in evaluate_classes(rows, truth, probabilities, ("a", "b", "c"), resamples=100, seed=0).metrics


def test_a_writer_is_chosen_by_its_name_and_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5, 3, 4:6] = 1
    affine = Affine(np.diag([2.0, 1.0, 3.0, 1.0]))
    prediction = Prediction(("background", "liver", "spleen"), mask=mask, affine=affine)
    item, image = Item("nifti", (), "volume"), Image(mask[None], "volume", affine=affine)
    context = ImageContext(item, Maker("1", "0"), image=image, prediction=prediction)
    (tmp_path / "study").mkdir()
    with added("add-a-writer", tmp_path, monkeypatch):
        notes = Outputs.of(["boxes"], "segmentation").write(context, tmp_path / "study")
        assert "boxes" in Outputs.of(None, "segmentation").names
    assert notes == ["no box of spleen: nothing was found"]
    (path,) = (tmp_path / "study").iterdir()
    assert json.loads(path.read_text(encoding="utf-8")) == {"liver": [[4.0, 3.0, 12.0], [8.0, 3.0, 15.0]]}  # mm


def test_a_reader_finds_reads_refuses_and_tells_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (6, 4), dtype=np.uint16)
    arrays = {"image": pixels, "numbers": np.zeros(3), "people": np.array(["Doe^Jane"])}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "short.npy").write_bytes((tmp_path / "image.npy").read_bytes()[:-1])
    files = sorted(tmp_path.glob("*.npy"))
    with added("add-a-reader", tmp_path, monkeypatch):
        found = {one.files[0].stem: one for one in readers.find(files)}
        np.testing.assert_array_equal(readers.read(found["image"]).pixels, pixels[None])
        assert [one.text for one in readers.texts(tmp_path / "people.npy")] == ["Doe^Jane"]
    codes = {name: one.code for name, one in found.items() if isinstance(one, Refusal)}
    assert codes == {"numbers": "unsupported", "people": "unsupported", "short": "unreadable"}
    assert {one.code for one in readers.find(files) if isinstance(one, Refusal)} == {NotAnImageError.code}


def test_an_objective_learns_on_images_with_an_upper_and_a_lower_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    backbone = VitConfig(ndim=2, patch_size=8, width=24, depth=1, heads=2, channels=1).build()
    ramp = torch.linspace(-1.0, 1.0, 16)[:, None].expand(16, 16)
    crops = (ramp + 0.3 * torch.randn(1, 8, 1, 16, 16)).clone()
    with added("add-an-objective", tmp_path, monkeypatch):
        config = find("medvit.objectives", "rotation").parse({"temperature": "2"})
        assert isinstance(config, ObjectiveConfig)
        objective = config.build(backbone)
        optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            total = objective(Views(crops), 0.0).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(float(total.detach()))
    assert losses[0] == pytest.approx(math.log(4), abs=0.3)
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(ValueError, match="no objective is named 'rotation'"):
        find("medvit.objectives", "rotation")
