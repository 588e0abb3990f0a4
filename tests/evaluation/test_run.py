"""Images that the metrics do not count are counted and named, as far as a page can list them."""

from __future__ import annotations

from medvit.evaluation.run import MAX_EXCLUDED, notes_on_excluded


def test_images_that_failed_are_counted_and_named_with_their_reasons() -> None:
    assert notes_on_excluded([], "of 3 images") == []
    assert notes_on_excluded(["image a: damaged"], "of 3 images") == [
        "1 of 3 images could not be predicted and are excluded",
        "image a: damaged",
    ]


def test_a_page_names_a_few_of_many_images_that_failed_and_counts_the_others() -> None:
    failures = [f"image {number}: damaged" for number in range(MAX_EXCLUDED + 5)]
    head, *named, rest = notes_on_excluded(failures, "of 900 slides")
    assert head == f"{MAX_EXCLUDED + 5} of 900 slides could not be predicted and are excluded"
    assert named == failures[:MAX_EXCLUDED]
    assert rest == "and 5 more, see the log"
