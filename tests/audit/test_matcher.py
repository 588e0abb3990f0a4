"""Tests of the search for many values at once."""

import random

import pytest

from medvit.audit.matcher import BLOCK, WINDOW, Matcher
from medvit.audit.needles import Needle


@pytest.mark.parametrize("place", [0, 1, BLOCK - 8, BLOCK - WINDOW, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("text", ["ab|def", "ab|defgh"])
def test_a_value_is_found_at_any_place_also_across_blocks_and_at_the_very_end(text: str, place: int) -> None:
    needle = Needle(text, "(0010,0010) PatientName")
    others = [Needle(f"{text[:4]}{number}" + "-" * 5, "another element") for number in range(10, 99)]
    matcher = Matcher([needle, *others])
    before = random.Random(place).randbytes(place).replace(b"|", b"_")
    assert matcher.in_bytes(before + text.encode()) == {needle}
    assert matcher.in_bytes(before + text.encode() + before) == {needle}
    assert matcher.in_bytes(before + text[:-1].encode()) == set()
