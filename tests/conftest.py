"""What tests share: the real data (where they lie beside the project), ready MLflow databases, plain figures."""

import gc
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest

import medvit  # noqa: F401 (before timm: it lets torchvision be imported beside a CPU build of torch)

PROJECT = Path(__file__).parent.parent
pytest_plugins = (
    "tests.plugins.candidates",
    "tests.plugins.dicom_series",
    "tests.plugins.mr_series",
    "tests.plugins.tracking_template",
)

SHARED_DATA = PROJECT.parent / "shared" / "data"


TICKS = ("xtick.bottom", "ytick.left", "xtick.labelbottom", "ytick.labelleft")


def pytest_configure() -> None:
    """Draw axes without ticks: laying out their labels is three quarters of the time of a data card or a report."""
    matplotlib.rcParams.update(dict.fromkeys(TICKS, False))


@pytest.fixture
def ticks() -> Iterator[None]:
    """Figures as users get them, for tests of what is drawn."""
    with matplotlib.rc_context(dict.fromkeys(TICKS, True)):
        yield


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
