"""Fixtures for all tests: real data (if present next to the project), prepared MLflow databases, blank figures."""

import gc
import os
from collections.abc import Generator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest
from matplotlib.figure import Figure
from PIL import Image

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked process that waits for threads of OpenMP waits forever

import medvit  # noqa: F401 (before timm: it lets torchvision be imported beside a CPU build of torch)

PROJECT = Path(__file__).parent.parent
pytest_plugins = (
    "tests.plugins.bytecode",
    "tests.plugins.candidates",
    "tests.plugins.dicom_series",
    "tests.plugins.examples",
    "tests.plugins.memory_folder",
    "tests.plugins.mr_series",
    "tests.plugins.phantoms",
    "tests.plugins.tracking_template",
)

SHARED_DATA = PROJECT.parent / "shared" / "data"


SAVEFIG = Figure.savefig


def pytest_configure() -> None:
    """Save figures as blank pictures of their size, since rendering text takes a quarter of the time of a stage."""
    Figure.savefig = _save_blank  # type: ignore[method-assign]


def _save_blank(figure: Figure, target: Path | BinaryIO, **options: object) -> None:
    width, height = figure.get_size_inches() * figure.dpi
    picture = _blank(round(width), round(height))
    if isinstance(target, Path):
        target.write_bytes(picture)
    else:
        target.write(picture)


@lru_cache
def _blank(width: int, height: int) -> bytes:
    picture = BytesIO()
    Image.new("L", (width, height), 255).save(picture, format="PNG")
    return picture.getvalue()


@pytest.fixture
def whole_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures completely, for tests of their content."""
    monkeypatch.setattr(Figure, "savefig", SAVEFIG)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Disable garbage collection during imports, which create no garbage: this saves a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """Exclude the imported modules from garbage collection, which would search a million objects repeatedly.

    Collect later objects less often: a full collection takes seconds and finds little.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 25)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets do not lie beside the project (../shared/data)")
    return SHARED_DATA
