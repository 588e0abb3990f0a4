"""Storage is lossless, and stored images are never lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image, ImageFile

from medvit.dataset.store import Store
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig
from medvit.engine.outcome import late
from medvit.errors import OutputError
from medvit.ingest.mask_meaning import MaskMeaning
from medvit.ingest.scan import scan
from medvit.ingest.storing import PROGRESS, Stored
from medvit.ingest.storing.images import ReadAndStore, store_images
from medvit.records import Candidate, Taken

Write = Callable[..., Path]


@dataclass(frozen=True)
class Counting(ReadAndStore):
    """Leaves a file for every image it reads."""

    def __call__(self, candidate: Candidate) -> Taken:
        """The record of a stored candidate."""
        (self.store.parent / f"read-{candidate.item.files[0].stem}").touch()
        return super().__call__(candidate)


@pytest.fixture
def source(write_png: Write, tmp_path: Path) -> Path:
    for number in range(4):
        write_png(f"{number}.png", number)
    (tmp_path / "out").mkdir()
    return tmp_path / "source"


def store_all(source: Path, modality: str = "", part: str = "") -> Stored:
    out = source.parent / "out"
    return store_images(
        [replace(one, item=replace(one.item, part=part)) for one in scan(source).candidates],
        Counting(out / "images", modality),
        folder=out,
        engine=EngineConfig(),
        state=Pseudonyms(bytes(32), "x").state,
    )


def read_again(source: Path) -> set[str]:
    for path in (source.parent / "out").glob("read-*"):
        path.unlink()
    store_all(source)
    return {path.name for path in (source.parent / "out").glob("read-*")}


def test_pixels_come_back_as_they_were(source: Path) -> None:
    stored = store_all(source, modality="US").taken["2.png"]
    pixels = Store(source.parent / "out" / "images").get(stored.sha256)
    assert (stored.shape, stored.dtype, stored.modality) == ((1, 8, 6), "uint8", "US")
    np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(source / "2.png")))


def test_what_is_done_is_not_read_again(source: Path) -> None:
    first = store_all(source)
    assert read_again(source) == set()
    assert store_all(source) == first


def test_a_file_that_changed_meanwhile_is_read_again(source: Path, write_png: Write) -> None:
    store_all(source)
    write_png("1.png", 99)
    assert read_again(source) == {"read-1"}


def test_files_that_are_to_be_read_another_way_are_read_again(source: Path) -> None:
    store_all(source)
    for path in (source.parent / "out").glob("read-*"):
        path.unlink()
    store_all(source, part="resampled to a regular grid")
    assert len(list((source.parent / "out").glob("read-*"))) == 4


def test_pixels_that_the_store_has_lost_are_read_again(source: Path) -> None:
    address = store_all(source).taken["3.png"].sha256
    Store(source.parent / "out" / "images").path(address).unlink()
    assert read_again(source) == {"read-3"}


@pytest.mark.parametrize("num_bytes_lost", [1, 5, 200])
def test_a_line_cut_off_costs_only_its_image(source: Path, num_bytes_lost: int) -> None:
    store_all(source)
    progress = source.parent / "out" / PROGRESS
    progress.write_bytes(progress.read_bytes()[:-num_bytes_lost])
    assert read_again(source) == {"read-3"}
    assert read_again(source) == set()


def test_an_image_that_cannot_be_read_does_not_stop_the_others(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries set it for the process
    content = (source / "1.png").read_bytes()
    (source / "1.png").write_bytes(content[:50])
    stored = store_all(source)
    assert sorted(stored.taken) == ["0.png", "2.png", "3.png"]
    (refusal,) = stored.refusals
    assert [path.name for path in refusal.files] == ["1.png"]
    assert "1.png" not in refusal.reason


def test_a_store_that_cannot_be_written_stops_the_run(source: Path) -> None:
    (source.parent / "out" / "images").symlink_to("nowhere")
    with pytest.raises(OutputError, match="cannot store"):
        store_all(source)


def labeled(folder: Path, labels: Array) -> Candidate:
    for name in ("images", "labels"):
        (folder / name).mkdir()
        Image.fromarray(labels).save(folder / name / "x.png")
    (candidate,) = scan(folder).candidates
    return candidate


def test_a_label_map_with_a_class_without_name_is_refused(tmp_path: Path) -> None:
    candidate = labeled(tmp_path, np.full((4, 4), 3, np.uint8))
    function = ReadAndStore(tmp_path / "store", "", MaskMeaning(names=("a", "b", "c")))
    with pytest.raises(
        ValueError, match=r"the label map contains the value 3; labeling\.mask_classes names 3 classes, expected 0 to 2"
    ):
        function(candidate)
    taken = replace(function, meaning=MaskMeaning())(candidate)
    assert taken.num_mask_values == 4


def test_instances_become_one_class(tmp_path: Path) -> None:
    numbers = np.arange(16, dtype=np.uint16).reshape(4, 4) * 1000
    candidate = labeled(tmp_path, numbers)
    function = ReadAndStore(tmp_path / "store", "", MaskMeaning(are_instances=True))
    taken = function(candidate)
    assert taken.num_mask_values == 2
    assert np.array_equal(Store(tmp_path / "store").get(taken.mask), numbers > 0)


@dataclass(frozen=True)
class StoppedAtTwo(ReadAndStore):
    """Ends at one image as the engine ends what hangs."""

    def __call__(self, candidate: Candidate) -> Taken:
        """The record of a stored candidate."""
        error = late(candidate, limit_s=5.0).error
        if candidate.item.files[0].stem == "2" and error is not None:
            raise error
        return super().__call__(candidate)


def test_an_image_on_which_reading_hangs_is_refused_alone_as_one_that_takes_too_long(source: Path) -> None:
    out = source.parent / "out"
    stored = store_images(
        scan(source).candidates,
        StoppedAtTwo(out / "images", ""),
        folder=out,
        engine=EngineConfig(),
        state=Pseudonyms(bytes(32), "x").state,
    )
    assert list(stored.taken) == ["0.png", "1.png", "3.png"]
    (refusal,) = stored.refusals
    assert (refusal.files, refusal.code) == ((source / "2.png",), "timeout")
    assert refusal.reason.startswith("it took longer than engine.item_timeout_s=5 allows and was stopped")
