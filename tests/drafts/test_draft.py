"""A draft as text is the YAML of its options; those that are off are comments."""

from __future__ import annotations

import yaml

from medvit.drafts.draft import WIDTH, Draft, DraftOption

ENTRIES = (
    DraftOption("source", "/a b/c: d", "Where the images are."),
    DraftOption("splits.val", 0.1, "word " * 60),
    DraftOption("modality", "CT", "Perhaps.", is_off=True),
    DraftOption("splits.test", 0.2),
    DraftOption("geometry.irregular", "resample", is_off=True),
    DraftOption("splits.salt", 3, is_off=True),
    DraftOption("names", {"label": "no"}),
)
DRAFT = Draft("ingest", "ingest.yaml", "About it.", ENTRIES, ("ingest", "ingest.yaml"), ("Then: rest",))


def test_a_draft_is_read_from_yaml_as_it_was_meant() -> None:
    assert yaml.safe_load(DRAFT.text()) == DRAFT.tree()
    assert DRAFT.tree() == {"source": "/a b/c: d", "splits": {"val": 0.1, "test": 0.2}, "names": {"label": "no"}}


def test_removing_the_sign_before_an_option_switches_it_on() -> None:
    for line, entry in (
        ("# modality: CT", ENTRIES[2]),
        ("# geometry: {irregular: resample}", ENTRIES[4]),
        ("  # salt: 3", ENTRIES[5]),
    ):
        assert f"\n{line}\n" in DRAFT.text()
        switched = DRAFT.text().replace(line, line.replace("# ", "", 1))
        assert yaml.safe_load(switched) == DRAFT.tree(entry)


def test_comments_are_wrapped_and_commands_are_not() -> None:
    lines = DRAFT.text().splitlines()
    assert lines[:3] == ["# About it.", "# Run: medvit ingest ingest.yaml", "# Then: rest"]
    assert max(map(len, lines)) <= WIDTH
