"""Reports are drawn here as users get them."""

import pytest


@pytest.fixture(autouse=True)
def whole_figures(ticks: None) -> None:
    """Draw axes with their ticks."""
