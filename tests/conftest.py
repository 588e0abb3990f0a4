"""What tests share: the real data, where they lie beside the project."""

from pathlib import Path

import pytest

import medvit  # noqa: F401 (before timm: it lets torchvision be imported beside a CPU build of torch)

PROJECT = Path(__file__).parent.parent
pytest_plugins = ("tests.candidates", "tests.dicom_series", "tests.mr_series")

SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; a test that asks for it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data sets do not lie beside the project (../shared/data)")
    return SHARED_DATA
