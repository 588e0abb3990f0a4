"""The fingerprint of a dataset describes its training images alone, as computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medvit.dataset.fingerprint import Fingerprint, digest_of, lines_of
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.records import IGNORED, Row


def made(
    folder: Path, volumes: list[tuple[np.ndarray, np.ndarray | None, tuple[float, ...]]], **more: object
) -> Manifest:
    """Return a manifest of training volumes with label maps and spacings."""
    folder.mkdir()
    empty = Manifest((), Facts("tiny", mask_classes=("background", "liver", "lesion")), folder)
    rows = []
    for number, (voxels, mask, spacing) in enumerate(volumes):
        affine = Affine.from_spacing(spacing)
        row = Row(
            f"i-{number}",
            f"p-{number // 2}",
            f"s-{number}",
            f"e-{number}",
            "CT",
            "volume",
            "tiny",
            "train",
            voxels.shape,
            str(voxels.dtype),
            empty.store.put(voxels),
            mask=None if mask is None else empty.store.put(mask),
            spacing_mm=affine.spacing_mm,
            affine=tuple(affine.matrix.ravel()),
            unit="HU",
        )
        rows.append(replace(row, **more))
    return replace(empty, rows=tuple(rows))


def some_volumes(seed: int = 0) -> Volumes:
    generator = np.random.default_rng(seed)
    shapes = [(10, 12, 4), (12, 16, 6), (8, 8, 8), (14, 10, 5)]
    spacings = [(1.0, 1.0, 4.0), (0.8, 0.8, 3.0), (1.2, 1.2, 5.0), (1.0, 1.0, 2.0)]
    found = []
    for shape, spacing in zip(shapes, spacings, strict=True):
        voxels = generator.normal(0, 100, (1, *shape)).astype(np.int16)
        found.append((voxels, (generator.random(shape) < 0.2).astype(np.uint8), spacing))
    found[0][1][:2] = 2
    return found


def test_intensities_of_channels_with_other_names_are_not_mixed(tmp_path: Path) -> None:
    alike = made(tmp_path / "data", some_volumes(), attributes={"channels": "T1"})
    assert Fingerprint.of(alike).groups[0].intensity is not None
    rows = (replace(alike.rows[0], attributes={"channels": "T2"}), *alike.rows[1:])
    (group,) = Fingerprint.of(replace(alike, rows=rows)).groups
    assert (group.intensity, group.foreground) == (None, None)


def test_sizes_spacings_intensities_and_classes_are_those_computed_by_hand(tmp_path: Path) -> None:
    volumes = some_volumes()
    found = Fingerprint.of(made(tmp_path / "data", volumes, slope=2.0, intercept=-10.0))
    (group,) = found.groups
    assert (group.kind, group.modality, group.num_images, group.num_patients) == ("volume", "CT", 4, 2)
    shapes, spacings = np.array([one.shape[1:] for one, *_ in volumes]), np.array([mm for *_, mm in volumes])
    assert group.shape is not None
    assert group.spacing_mm is not None
    assert np.allclose(group.shape.median, np.median(shapes, axis=0))
    assert np.allclose(group.spacing_mm.low, np.percentile(spacings, 10, axis=0))
    assert group.anisotropy == pytest.approx(np.median(spacings.max(axis=1) / spacings.min(axis=1)))
    inside = np.concatenate([2.0 * voxels[0][mask > 0] - 10.0 for voxels, mask, _ in volumes])
    everywhere = np.concatenate([2.0 * voxels.ravel() - 10.0 for voxels, *_ in volumes])
    for statistics, values in ((group.foreground, inside), (group.intensity, everywhere)):
        assert statistics is not None
        by_hand = [values.mean(), values.std(), *np.percentile(values, (0.5, 50, 99.5))]
        measured = [statistics.mean, statistics.std, statistics.low, statistics.median, statistics.high]
        assert np.allclose([one for (one,) in measured], by_hand, rtol=1e-5)
    counts = np.bincount(np.concatenate([mask.ravel() for _, mask, _ in volumes]))
    assert [one.num_voxels for one in found.classes] == counts.tolist()
    assert [one.num_images for one in found.classes] == [4, 4, 1]
    assert [one.num_annotated for one in found.classes] == [4, 4, 4]
    assert found.foreground_share == pytest.approx(counts[1:].sum() / counts.sum())


def test_label_maps_that_do_not_annotate_a_class_are_not_counted_for_it(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", some_volumes())
    first = replace(manifest.rows[0], annotated=(manifest.facts.mask_classes[1],))
    found = Fingerprint.of(replace(manifest, rows=(first, *manifest.rows[1:])))
    assert [one.num_annotated for one in found.classes] == [3, 4, 3]


def test_images_of_other_splits_change_nothing_and_are_refused(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", some_volumes())
    other = replace(manifest.rows[1], split="test", spacing_mm=(9.0, 9.0, 9.0))
    mixed = replace(manifest, rows=(manifest.rows[0], other, *manifest.rows[2:]))
    alone = replace(manifest, rows=(manifest.rows[0], *manifest.rows[2:]))
    assert Fingerprint.of(mixed.split("train")) == Fingerprint.of(alone)
    with pytest.raises(DataError, match=r"training images alone; found \{'test': 1\} as well"):
        Fingerprint.of(mixed)


def test_the_same_images_in_another_order_have_the_same_fingerprint(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", some_volumes())
    turned = replace(manifest, rows=manifest.rows[::-1])
    assert Fingerprint.of(turned) == Fingerprint.of(manifest)
    assert digest_of(turned) == digest_of(manifest)
    assert digest_of(made(tmp_path / "other", some_volumes(seed=1))) != digest_of(manifest)


def test_a_fingerprint_names_no_image_and_no_patient(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", some_volumes(), labels={"name": "p-0", "age": "93"})
    text = json.dumps(Fingerprint.of(manifest).tree())
    identifiers = {value for row in manifest for value in (row.patient_id, row.image_id, row.study_id, row.series_id)}
    content = {value for row in manifest for value in (row.sha256, row.mask or row.sha256)}
    assert not [value for value in {*identifiers, *content, "93"} if f'"{value}"' in text]


def test_padding_and_ignored_voxels_are_in_no_statistic(tmp_path: Path) -> None:
    (voxels, mask, spacing), *_ = some_volumes()
    voxels[..., 0] = -2000
    mask[4] = IGNORED
    found = Fingerprint.of(made(tmp_path / "data", [(voxels, mask, spacing)], padding=(-2000.0, -2000.0)))
    (group,) = found.groups
    assert group.intensity is not None
    assert group.foreground is not None
    assert group.intensity.mean[0] == pytest.approx(voxels[voxels != -2000].mean(), rel=1e-5)
    known = (mask > 0) & (mask != IGNORED) & (voxels[0] != -2000)
    assert group.foreground.mean[0] == pytest.approx(voxels[0][known].mean(), rel=1e-5)
    assert sum(one.num_voxels for one in found.classes) == (mask != IGNORED).sum()


def test_images_volumes_and_modalities_are_described_apart(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", some_volumes())
    first, second, *rest = manifest.rows
    image = np.zeros((3, 20, 30), np.uint8)
    picture = replace(
        first, kind="image", modality="", shape=image.shape, dtype="uint8", sha256=manifest.store.put(image), mask=None
    )
    unscaled = replace(second, modality="MR", spacing_mm=None, affine=None)
    found = Fingerprint.of(replace(manifest, rows=(picture, unscaled, *rest)))
    assert [(group.kind, group.modality, group.num_images) for group in found.groups] == [
        ("image", "", 1),
        ("volume", "CT", 2),
        ("volume", "MR", 1),
    ]
    flat, _, without = found.groups
    assert (flat.spacing_mm, flat.channels, flat.num_without_spacing) == (None, (3,), 0)
    assert (without.spacing_mm, without.anisotropy, without.num_without_spacing) == (None, None, 1)
    assert [line[0] for line in lines_of(found)][:3] == ["images", "shape of the images", "CT volumes"]


def test_a_dataset_without_training_images_is_refused_and_one_slice_is_measured(tmp_path: Path) -> None:
    manifest = made(tmp_path / "data", [(np.ones((1, 6, 5, 1), np.int16), None, (1.0, 1.0, 8.0))])
    (group,) = Fingerprint.of(manifest).groups
    assert group.shape is not None
    assert group.shape.median == (6.0, 5.0, 1.0)
    assert group.foreground is None
    with pytest.raises(DataError, match="no training images to measure"):
        Fingerprint.of(replace(manifest, rows=()))


def test_only_some_images_of_a_large_dataset_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = made(tmp_path / "data", some_volumes())
    monkeypatch.setattr("medvit.dataset.fingerprint.MEASURED_IMAGES", 3)
    found = Fingerprint.of(manifest)
    assert (found.groups[0].num_images, found.groups[0].num_measured) == (4, 3)
    assert max(one.num_images for one in found.classes) == 3


def test_the_hippocampus_is_measured_as_by_hand(shared_data: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (shared_data / "msd-hippocampus" / "images").glob("*.nii.gz"))[:20]
    volumes = []
    for name in names:
        pair = (nibabel.load(shared_data / "msd-hippocampus" / part / name).dataobj for part in ("images", "labels"))
        voxels, mask = map(np.asarray, pair)
        volumes.append((voxels[None].astype(np.float32), mask.astype(np.uint8), (1.0, 1.0, 1.0)))
    found = Fingerprint.of(made(tmp_path / "data", volumes))
    (group,) = found.groups
    assert group.shape is not None
    assert group.foreground is not None
    assert np.allclose(group.shape.median, np.median([voxels.shape[1:] for voxels, *_ in volumes], axis=0))
    inside = np.concatenate([voxels[0][mask > 0] for voxels, mask, _ in volumes]).astype(float)
    assert group.foreground.mean[0] == pytest.approx(inside.mean(), rel=1e-5)
    assert np.allclose([group.foreground.low[0], group.foreground.high[0]], np.percentile(inside, (0.5, 99.5)))
    counts = np.bincount(np.concatenate([mask.ravel() for _, mask, _ in volumes]))
    assert [one.num_voxels for one in found.classes] == counts.tolist()
