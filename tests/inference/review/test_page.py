"""The page of a batch has each outcome, reason and flag, and stands alone."""

from __future__ import annotations

import re
from pathlib import Path

from medvit.inference.outcomes import BatchOutcomes, StudyOutcome, plain
from medvit.inference.review.gate import FLAGGED
from medvit.inference.review.page import PAGE, flags_of, write_page
from medvit.writers import Finding


def outcome(number: int, reason: str = "") -> StudyOutcome:
    findings = [
        Finding("e-1", "liver", volume_ml=1400.0 + number, num_voxels=10),
        Finding("e-1", "spleen", volume_ml=0.0),
    ]
    return StudyOutcome(f"s-{number:04d}", "done", "", reason, findings=tuple(plain(one) for one in findings))


def page(folder: Path, *outcomes: StudyOutcome) -> str:
    write_page(BatchOutcomes(outcomes), folder)
    return (folder / PAGE).read_text(encoding="utf-8")


def test_the_page_names_failures_with_reasons_and_the_worst_flagged_studies_first(tmp_path: Path) -> None:
    once, twice = f"{FLAGGED}liver has 9 mL", f"a note; {FLAGGED}liver has 8 mL; {FLAGGED}spleen has 2 components"
    failed = [StudyOutcome(f"s-f{n}", "failed", "geometry", "a slice is missing") for n in range(3)]
    text = page(tmp_path, outcome(1, once), outcome(2, twice), outcome(3), *failed, StudyOutcome("s-9", "skipped"))
    assert "3 done, 1 skipped, 3 failed; 2 flagged" in text
    assert "a slice is missing" in text
    flagged = text[text.index("Flagged") :]
    assert flagged.index("s-0002") < flagged.index("s-0001")
    assert "a note" not in flagged[: flagged.index("Volumes")]
    assert "liver" in text[text.index("Volumes in mL") :]
    assert "1402" in text  # the median of the liver
    assert not re.search(r'(?:src|href)="https?:', text)


def test_a_flag_of_one_of_several_models_is_found() -> None:
    assert flags_of(outcome(1, f"organs: {FLAGGED}liver has 9 mL; vessels: 2 series fit the model")) == [
        "liver has 9 mL"
    ]
    assert flags_of(outcome(1, "2 series fit the model")) == []


def test_a_batch_without_segmentations_or_failures_is_short(tmp_path: Path) -> None:
    text = page(tmp_path, StudyOutcome("s-1", "done"))
    assert "1 done, 0 skipped, 0 failed; 0 flagged" in text
    assert "Volumes" not in text
    assert "Failed" not in text
