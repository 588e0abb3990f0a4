from __future__ import annotations

import numpy as np
import pytest

from medvit.files.digests import digest_of_array, digest_of_parts


def test_lists_that_differ_only_in_their_boundaries_have_different_digests() -> None:
    found = {digest_of_parts(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""))}
    assert len(found) == 4
    assert digest_of_parts("ab", b"c") == digest_of_parts("ab", "c")


def test_a_digest_of_an_array_does_not_depend_on_its_layout_in_memory() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    expected = digest_of_array(array)
    assert digest_of_array(np.asfortranarray(array)) == expected
    assert digest_of_array(array.astype(">i2")) == expected
    assert digest_of_array(array[::-1][::-1]) == expected


@pytest.mark.parametrize("changed", ["value", "shape", "type", "order"])
def test_a_digest_of_an_array_depends_on_its_values_shape_and_type(changed: str) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    others = {
        "value": array + (array == 5),
        "shape": array.reshape(3, 2),
        "type": array.astype(np.int32),
        "order": array[::-1],
    }
    assert digest_of_array(array) != digest_of_array(others[changed])
