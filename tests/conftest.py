"""What tests share: the real data, where they lie beside the project, and MLflow databases that are ready."""

import gc
from pathlib import Path

import pytest

import medvit  # noqa: F401 (before timm: it lets torchvision be imported beside a CPU build of torch)

pytest_plugins = ["tests.tracking_template"]

PROJECT = Path(__file__).parent.parent
pytest_plugins = ("tests.candidates", "tests.dicom_series", "tests.mr_series")

SHARED_DATA = PROJECT.parent / "shared" / "data"


def pytest_collection_finish() -> None:
    """Keep what is imported by now out of garbage collection, which would search a million objects time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets do not lie beside the project (../shared/data)")
    return SHARED_DATA
