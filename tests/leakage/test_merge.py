"""Merging of datasets keeps all images, keeps patients apart, and keeps splits disjoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.store import Store
from medvit.errors import DataError
from medvit.leakage.merge import merge, slices_of
from medvit.leakage.perceptual_hash import hash_image
from medvit.leakage.seen_patients import seen_patients, write_training_patients
from medvit.records import IGNORED, Row, Split


def dataset(folder: Path, number: int, splits: tuple[Split, ...], **facts: object) -> Manifest:
    """Noise images, one a patient, with a label."""
    store = Store(folder / "images")
    rows = []
    for index, split in enumerate(splits):
        pixels = np.random.default_rng((number, index)).integers(0, 255, (1, 16, 16), dtype=np.uint8)
        rows.append(
            Row(
                image_id=f"i-{number}-{index}",
                patient_id=f"p-{number}-{index}",
                study_id=f"s-{number}-{index}",
                series_id="e",
                modality="US",
                kind="image",
                dataset=f"set {number}",
                split=split,
                shape=pixels.shape,
                dtype="uint8",
                sha256=store.put(pixels),
                labels={"label": f"{number}"},
                perceptual_hash=hash_image(pixels),
            )
        )
    description = {"classes": {"label": (f"{number}",)}, **facts}
    return Manifest(tuple(rows), Facts(f"set {number}", **description), folder)  # type: ignore[arg-type]


def volume(folder: Path, mask: bool = False) -> Manifest:
    """One volume whose voxels count up, coarse along its second axis."""
    store, voxels = Store(folder / "images"), np.arange(4 * 6 * 5, dtype=np.int16).reshape(1, 4, 6, 5)
    row = Row(
        image_id="i-v",
        patient_id="p-v",
        study_id="s-v",
        series_id="e-v",
        modality="CT",
        kind="volume",
        dataset="volumes",
        split="train",
        shape=voxels.shape,
        dtype="int16",
        sha256=store.put(voxels),
        mask=store.put((voxels[0] % 3).astype(np.uint8)) if mask else None,
        spacing_mm=(1.0, 4.0, 2.0),
        slope=2.0,
        intercept=-1024.0,
        unit="HU",
        perceptual_hash="",
    )
    return Manifest((row,), Facts("volumes", mask_classes=("a", "b", "c") if mask else ()), folder)


def test_a_union_holds_every_image_with_its_pixels(tmp_path: Path) -> None:
    parts = [dataset(tmp_path / str(n), n, ("train", "val", "test")) for n in (1, 2)]
    union = merge(parts, tmp_path / "both", name="both").manifest
    assert {row.image_id for row in union} == {row.image_id for part in parts for row in part}
    assert {row.split for row in union} == {"train", "val", "test"}
    for part in parts:
        for row in part:
            np.testing.assert_array_equal(union.store.get(row.sha256), part.store.get(row.sha256))


def test_the_hash_of_a_union_follows_its_parts(tmp_path: Path) -> None:
    parts = [dataset(tmp_path / str(n), n, ("train", "train")) for n in (1, 2)]
    whole = merge(parts, tmp_path / "a", name="u").manifest
    assert whole.hash == merge(parts, tmp_path / "b", name="u").manifest.hash
    fewer = [parts[0], replace(parts[1], rows=parts[1].rows[:1])]
    assert merge(fewer, tmp_path / "c", name="u").manifest.hash != whole.hash


def test_labels_that_mean_different_things_are_told_apart(tmp_path: Path) -> None:
    union = merge([dataset(tmp_path / str(n), n, ("train",)) for n in (1, 2)], tmp_path / "u", name="u").manifest
    assert union.facts.classes == {"set 1.label": ("1",), "set 2.label": ("2",)}
    assert [dict(row.labels) for row in union] == [{"set 1.label": "1"}, {"set 2.label": "2"}]


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (("40.5", "71"), ("9", "71"), ("9", "40.5", "71")),
        (tuple(map(str, range(0, 60, 2))), ("3",), tuple(map(str, sorted([*range(0, 60, 2), 3])))),
        (("0", "1"), ("0", "1", "2"), None),
        (("40.5", "71"), ("9", "unknown"), None),
    ],
)
def test_measured_numbers_keep_their_name_and_classes_do_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: tuple[str, ...], second: tuple[str, ...], merged: object
) -> None:
    given = zip((1, 2), (first, second), strict=True)
    parts = [dataset(tmp_path / str(n), n, ("train",), classes={"label": names}) for n, names in given]
    union = merge(parts, tmp_path / "u", name="u").manifest
    expected = {"set 1.label": first, "set 2.label": second} if merged is None else {"label": merged}
    assert union.facts.classes == expected
    assert {key for row in union for key in row.labels} == expected.keys()
    assert ("check that they have the same unit" in caplog.text) == (merged is not None)


def test_labels_that_mean_the_same_keep_their_name(tmp_path: Path) -> None:
    same = {"classes": {"label": ("1", "2")}}
    union = merge([dataset(tmp_path / str(n), n, ("train",), **same) for n in (1, 2)], tmp_path / "u", name="u")
    assert union.manifest.facts.classes == {"label": ("1", "2")}


@pytest.mark.parametrize("shared", ["patient_id", "sha256"])
def test_what_two_splits_share_stays_in_the_more_protected_one(tmp_path: Path, shared: str) -> None:
    one, other = dataset(tmp_path / "1", 1, ("test",)), dataset(tmp_path / "2", 2, ("train", "train"))
    Store(other.folder / "images").link(one.store, one.rows[0].sha256)
    changed = replace(other.rows[0], **{shared: getattr(one.rows[0], shared)})
    union = merge([one, replace(other, rows=(changed, other.rows[1]))], tmp_path / "u", name="u")
    assert [row.image_id for row in union.manifest] == ["i-1-0", "i-2-1"]
    assert [entry.where for entry in union.left_out] == ["i-2-0"]


def test_a_dataset_twice_is_refused(tmp_path: Path) -> None:
    part = dataset(tmp_path / "1", 1, ("train",))
    with pytest.raises(DataError, match=r"1 images are in several of .* first i-1-0; name each dataset once"):
        merge([part, part], tmp_path / "u", name="u")


def test_volumes_become_slices_across_their_coarsest_axis(tmp_path: Path) -> None:
    union = merge([volume(tmp_path / "v", mask=True)], tmp_path / "u", name="u", slices=3).manifest
    voxels = np.arange(4 * 6 * 5).reshape(4, 6, 5)
    assert [row.image_id for row in union] == ["i-v-0001", "i-v-0003", "i-v-0005"]
    for row, index in zip(union, (1, 3, 5), strict=True):
        expected = voxels[::-1, index, ::-1].T  # the top row is superior, the left column the patient's right
        assert (row.kind, row.patient_id, row.unit, row.intercept) == ("image", "p-v", "HU", -1024.0)
        assert row.shape == (1, 5, 4)
        np.testing.assert_array_equal(union.store.get(row.sha256)[0], expected)
        assert row.mask is not None
        np.testing.assert_array_equal(union.store.get(row.mask), expected % 3)


def test_a_volume_gives_no_more_slices_than_it_has() -> None:
    found = list(slices_of(np.zeros((1, 4, 5, 3)), 2, 10))
    assert [index for index, _ in found] == [0, 1, 2]


def test_label_maps_that_mean_different_things_are_left_behind_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = volume(tmp_path / "a", mask=True)
    second = replace(first, rows=(replace(first.rows[0], image_id="i-w", patient_id="p-w", study_id="s-w"),))
    other = replace(second, facts=replace(second.facts, mask_classes=("x", "y", "z")))
    assert all(row.mask for row in merge([first, second], tmp_path / "u", name="u").manifest)
    assert "label maps" not in caplog.text
    assert not any(row.mask for row in merge([first, other], tmp_path / "w", name="w").manifest)
    assert "all label maps are dropped, because their classes are not the same" in caplog.text


def other_organs(folder: Path, mask_classes: tuple[str, ...]) -> Manifest:
    """Another patient with the same label map, whose classes have other names, and with an ignored voxel."""
    one = volume(folder, mask=True)
    labels = one.store.get(one.rows[0].mask)
    labels[0, 0, 0] = IGNORED
    names = {"image_id": "i-w", "patient_id": "p-w", "study_id": "s-w", "mask": one.store.put(labels)}
    return replace(one, rows=(replace(one.rows[0], **names),), facts=replace(one.facts, mask_classes=mask_classes))


@pytest.mark.parametrize("slices", [0, 2])
def test_label_maps_are_united_by_the_names_of_their_classes(tmp_path: Path, slices: int) -> None:
    parts = [volume(tmp_path / "a", mask=True), other_organs(tmp_path / "b", ("a", "c", "d"))]
    union = merge(parts, tmp_path / "u", name="u", slices=slices, label_maps="union").manifest
    assert union.facts.mask_classes == ("a", "b", "c", "d")
    assert {row.patient_id: row.annotated for row in union} == {"p-v": ("b", "c"), "p-w": ("c", "d")}
    found = {row.patient_id: union.store.get(row.mask) for row in union}
    assert set(np.unique(found["p-v"])) == {0, 1, 2}
    assert set(np.unique(found["p-w"])) == {0, 2, 3} | (set() if slices else {IGNORED})
    if not slices:
        theirs = parts[1].store.get(parts[1].rows[0].mask)
        assert np.array_equal(found["p-w"] == 3, theirs == 2)
        assert len(list((tmp_path / "u" / "images").glob("*/*"))) == 1 + 2, "the volumes are equal, the label maps not"


def test_the_union_of_equal_classes_is_as_it_was(tmp_path: Path) -> None:
    parts = [volume(tmp_path / "a", mask=True), other_organs(tmp_path / "b", ("a", "b", "c"))]
    equal, union = (merge(parts, tmp_path / how, name="u", label_maps=how).manifest for how in ("equal", "union"))
    assert equal.hash == union.hash


@pytest.mark.parametrize(
    ("mask_classes", "message"),
    [
        (("a", "class 1", "c"), r"have no names \(class 1\), and label_maps=union merges classes by name"),
        (("b", "c", "d"), "the background of its label maps is 'b', and 'a' in another dataset"),
        ((), r"have no names \(instances\)"),
    ],
)
def test_classes_that_cannot_be_united_by_name_are_refused(
    tmp_path: Path, mask_classes: tuple[str, ...], message: str
) -> None:
    parts = [volume(tmp_path / "a", mask=True), other_organs(tmp_path / "b", mask_classes)]
    with pytest.raises(DataError, match=message):
        merge(parts, tmp_path / "u", name="u", label_maps="union")


def test_a_patient_is_recognized_whether_or_not_a_source_has_a_second_issuer(tmp_path: Path) -> None:
    alone = dataset(tmp_path / "1", 1, ("train",))
    (patient,) = {row.patient_id for row in alone}
    several = dataset(tmp_path / "2", 2, ("test",))
    renamed = tuple(replace(row, patient_id="p-of-one-issuer", patient_any_issuer=patient) for row in several)
    several = replace(several, rows=renamed)
    left_out = merge([alone, several], tmp_path / "u", name="u").left_out
    assert [entry.where for entry in left_out] == [row.image_id for row in alone]
    write_training_patients(tmp_path, alone)
    assert seen_patients(tmp_path, several) == {"p-of-one-issuer"}


def test_a_mapping_that_was_taken_in_one_part_alone_is_refused(tmp_path: Path) -> None:
    one, other = (dataset(tmp_path / str(n), n, ("train",)) for n in (1, 2))
    one = replace(one, facts=replace(one.facts, values={"mapping": "T1"}))
    merge([one, other], tmp_path / "u", name="u")
    offered = tuple(replace(row, attributes={"offered_mappings": "T1 (ms)"}) for row in other)
    with pytest.raises(DataError, match=r"values\.mapping unset, but another of the datasets with T1"):
        merge([one, replace(other, rows=offered)], tmp_path / "v", name="v")
