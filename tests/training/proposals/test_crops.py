"""Proposed crops and levels on the data sets that the results are about."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medvit.backbones.dynunet import plan_unet
from medvit.dataset.fingerprint import ClassFacts, Fingerprint
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import ConfigError
from medvit.records import Row
from medvit.tasks import Target
from medvit.training.proposals.batches import _wanted_batch
from medvit.training.proposals.crops import _foreground, _foreground_by, _levels, propose_extent, round_up
from medvit.training.task import TaskAssignment
from medvit.transforms.preprocess import Preprocess


def of_shapes(shapes: list[tuple[int, ...]], channels: int = 1) -> Manifest:
    """Return a manifest of training images with these shapes, without pixels."""
    kind = "volume" if len(shapes[0]) == 3 else "image"
    rows = [
        Row(f"i-{n}", f"p-{n}", "s", "e", "", kind, "x", "train", (channels, *shape), "uint8", f"{n}")
        for n, shape in enumerate(shapes)
    ]
    return Manifest(tuple(rows), Facts("x", mask_classes=("background", "a")), Path())


def wanted(training: Manifest, crop: tuple[int, ...], task: str, preprocess: Preprocess) -> int:
    return _wanted_batch(crop, TaskAssignment(task, Target("", ("a", "b")), training, training), preprocess)[0]


def test_the_hippocampus_is_seen_whole_in_crops_of_40_56_40(shared_data: Path) -> None:
    paths = sorted((shared_data / "msd-hippocampus" / "images").glob("*.nii.gz"))
    training = of_shapes([nibabel.load(path).shape for path in paths])
    preprocess = Preprocess(kind="volume")
    extent, reason = propose_extent(training, preprocess, "segmentation")
    assert round_up(extent, (8, 8, 8)) == (40, 56, 40), "of a transformer"
    plan = plan_unet(extent, (1.0, 1.0, 1.0))
    assert round_up(extent, np.prod(plan.strides, axis=0)) == (40, 56, 40), "of DynUNet, as in nnU-Net"
    assert _levels(len(plan.strides))[0] == 1
    assert reason.startswith("the median training image has 35 x ")
    assert 2 <= wanted(training, (40, 56, 40), "segmentation", preprocess) <= 9, "nnU-Net: 9 of 208 volumes"


def test_a_size_with_another_number_of_axes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.size has 2 numbers; volumes need 3"):
        propose_extent(of_shapes([(8, 8, 8)]), Preprocess(kind="volume", size=(4, 4)), "segmentation")


def test_photographs_of_drive_are_cut_into_large_crops_at_full_resolution(shared_data: Path) -> None:
    paths = sorted((shared_data / "drive" / "training" / "images").glob("*.tif"))
    training = of_shapes([Image.open(path).size[::-1] for path in paths], channels=3)
    preprocess = Preprocess(kind="image", channels=3)
    extent, reason = propose_extent(training, preprocess, "segmentation")
    assert extent == (512, 512)
    assert "584 x 565 pixels" in reason
    assert wanted(training, extent, "segmentation", preprocess) == 2


def test_small_images_of_medmnist_are_seen_whole_in_large_batches() -> None:
    training = of_shapes([(28, 28)] * 470)
    preprocess = Preprocess(kind="image", size=(224, 224))
    assert propose_extent(training, preprocess, "classification")[0] == (224, 224)
    assert wanted(training, (224, 224), "classification", preprocess) == 32
    volumes, whole = of_shapes([(28, 28, 28)] * 40), Preprocess(kind="volume")
    assert round_up(propose_extent(volumes, whole, "classification")[0], (8, 8, 8)) == (32, 32, 32)
    assert wanted(volumes, (32, 32, 32), "classification", whole) == 32


def test_a_label_of_the_whole_image_needs_crops_of_the_largest_one() -> None:
    training, preprocess = of_shapes([(10, 20), (30, 8), (12, 12)]), Preprocess(kind="image")
    assert propose_extent(training, preprocess, "classification")[0] == (30, 20)
    assert propose_extent(training, preprocess, "segmentation")[0] == (12, 12)
    assert propose_extent(of_shapes([(9, 9, 1)]), Preprocess(kind="volume"), "segmentation")[0] == (9, 9, 1)


@pytest.mark.parametrize(("voxels", "share", "choice"), [((99, 1, 0), 0.5, "voxel"), ((50, 40, 10), 0.33, "voxel")])
def test_crops_on_foreground_follow_its_share(voxels: tuple[int, ...], share: float, choice: str) -> None:
    classes = tuple(ClassFacts(name=f"c{n}", num_voxels=count, num_images=1) for n, count in enumerate(voxels))
    fingerprint = Fingerprint(digest="", groups=(), classes=classes)
    assert _foreground(fingerprint)[0] == share
    assert _foreground_by(fingerprint)[0] == choice
    rare = replace_last(fingerprint, 1)
    assert _foreground_by(rare)[0] == ("class" if voxels[1] > 10 else "voxel")


def test_classes_are_compared_in_the_label_maps_that_annotate_them() -> None:
    maps = {"background": (900, 20), "large": (100, 20), "seldom annotated": (8, 1)}
    classes = tuple(
        ClassFacts(name=name, num_voxels=voxels, num_images=1, num_annotated=annotated)
        for name, (voxels, annotated) in maps.items()
    )
    assert _foreground_by(Fingerprint(digest="", groups=(), classes=classes))[0] == "voxel"


def replace_last(fingerprint: Fingerprint, count: int) -> Fingerprint:
    *others, last = fingerprint.classes
    return fingerprint.model_copy(update={"classes": (*others, last.model_copy(update={"num_voxels": count}))})
