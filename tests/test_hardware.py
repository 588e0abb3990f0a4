"""What is asked of the machine does no harm where it is not known."""

from __future__ import annotations

import numpy as np

from medvit.hardware import reuse_memory


def test_memory_that_is_used_again_can_be_asked_for_more_than_once() -> None:
    for _ in range(3):
        reuse_memory()
        assert (np.ones(2**22, np.uint8) == 1).all()
