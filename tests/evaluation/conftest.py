"""Reports are drawn here as users get them."""

import pytest


@pytest.fixture(autouse=True)
def drawn_figures(whole_figures: None) -> None:
    """Draw figures whole."""
