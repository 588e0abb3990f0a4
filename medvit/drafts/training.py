"""Drafts of pretrain and finetune, with preprocessing by modality and sizes by machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from medvit.dicom.header import RADIOGRAPHS
from medvit.drafts.draft import Draft, DraftOption
from medvit.drafts.images import Images, Machine, Project
from medvit.ingest.survey.found import Survey
from medvit.ingest.survey.images import ImageGroup
from medvit.ingest.survey.screen import classes_in_words

DraftedTask = Literal["classification", "segmentation"]

PATCH_2D, PATCH_3D = 16, 8
"""Side of a patch in pixels (2D) and in voxels (3D)."""
SIMILAR = 1.1
"""Maximum ratio of the largest to the smallest spacing along an axis for which images are not resampled."""
FLAT = 3.0
"""Ratio of slice gap to pixel spacing above which training on slices is worth a try."""
TRAIN_SHARE, TILES_PER_SLIDE = 0.7, 100
"""Assumed share of the images in the train split, and assumed number of tiles per slide; the number of steps depends on
both.
"""
SKIPPED_TILES = ["pen", "blurred"]


def draft_pretrain(images: Images, project: Project) -> Draft:
    """Return the configuration of pretraining with a masked autoencoder, which suits every kind of images."""
    about = (
        "Pretrain a backbone on the training images; labels are not used. A masked autoencoder (MAE) works for small "
        "datasets and any modality. For large datasets and GPUs, see the presets of published methods in configs/."
    )
    machine = project.machine
    is_slide = images.group.kind == "slide"
    entries = [
        DraftOption("dataset", project.place("dataset")),
        DraftOption("output", project.place("backbone")),
        *images.slices(),
        *([DraftOption("slides.skip_tiles", SKIPPED_TILES, "Tiles to exclude.")] if is_slide else []),
        *_preprocess(images),
        *_backbone(images, machine),
        *_objective(images, machine),
        DraftOption("optim.lr", 1e-3),
        *_trainer(images, machine, batches=(4, 16) if images.is_3d else (16, 128)),
    ]
    return project.draft("pretrain", about, entries)


def draft_finetune(survey: Survey, images: Images, project: Project, task: DraftedTask, suffix: str) -> Draft:
    """Return the configuration of fine-tuning for one task; `suffix` distinguishes the files of several tasks."""
    machine, is_slide = project.machine, images.group.kind == "slide"
    goal = "a label" if task == "classification" else "the label maps"
    about = f"Fine-tune the pretrained backbone to predict {goal}. The best epoch on the validation split is kept."
    entries = [
        DraftOption("dataset", project.place("dataset")),
        DraftOption(
            "checkpoint", project.place("backbone"), "Without a checkpoint, training starts from random weights."
        ),
        DraftOption("output", project.place(f"model{suffix}")),
        *images.slices(),
        *_label(survey, task, suffix),
        *(_bags(machine) if is_slide else _adaptation(images, machine, task)),
        *_trainer(images, machine, batches=(2, 4) if images.is_3d else (8, 32)),
    ]
    return project.draft("finetune", about, entries, suffix=suffix)


def _preprocess(images: Images) -> Iterator[DraftOption]:
    """Yield the options of preprocessing, which the checkpoint stores for the model."""
    kind = "volume" if images.is_3d else "image"
    left_out = f"The dataset also contains images that this training excludes: {', '.join(images.others)}."
    if images.group.kind == "slide" and images.are_slides_mixed:
        left_out = (
            f"In addition to pictures ({', '.join(images.others)}), there are slides, which are excluded: see "
            "tiles.pack in ingest.yaml."
        )
    yield DraftOption("preprocess.kind", kind, left_out if images.others else "")
    yield DraftOption("preprocess.channels", 3 if images.is_oct else images.group.channels)
    if images.is_3d:
        yield from _spacing(images.group)
    elif images.group.kind == "image":
        text = "All images are resized to this. Small findings need more, as [512, 512], and more memory."
        yield DraftOption("preprocess.size", [224, 224], text)
    if images.is_fundus:
        yield DraftOption("preprocess.interpolation", "cubic")
        text = "Cropped to the round field of view; photographs without a black border are not cropped."
        yield DraftOption("preprocess.field_of_view.missing", "whole", text)
    yield from _intensity(images)


def _spacing(group: ImageGroup) -> Iterator[DraftOption]:
    spacing = group.median_spacing_mm
    if spacing is None:
        return
    rounded = [float(f"{mm:.2g}") for mm in spacing]
    if _has_one_spacing(group):
        text = "All volumes have about this spacing (R, A, S, in mm). Set it if volumes to come may differ:"
        yield DraftOption("preprocess.spacing_mm", rounded, text, is_off=True)
    else:
        text = "Spacings differ, so all volumes are resampled to their median (R, A, S, in mm)."
        yield DraftOption("preprocess.spacing_mm", rounded, text)
    if max(spacing) > FLAT * min(spacing):
        text = (
            "Slices are far apart. To train on slices as images instead, use this with preprocess.kind=image, "
            "preprocess.size=[224,224] and a patch size of 16, without spacing_mm and views.size:"
        )
        yield DraftOption("slices.planes", ["acquired"], text, is_off=True)


def _has_one_spacing(group: ImageGroup) -> bool:
    return all(max(axis) <= SIMILAR * min(axis) for axis in zip(*group.spacings_mm, strict=True))


def _intensity(images: Images) -> Iterator[DraftOption]:
    group, key = images.group, "preprocess.intensity"
    if images.is_3d and group.modality == "CT":
        text = "A soft tissue window, in HU. Lung: center -600, width 1500. Bone: center 400, width 1800."
        yield DraftOption(f"{key}.method", "window", text)
        yield DraftOption(f"{key}.window_center", 40)
        yield DraftOption(f"{key}.window_width", 400)
        return
    if images.is_oct:
        yield DraftOption(f"{key}.method", "range", "8 bits per pixel: the range of the type, then about zero mean.")
        yield DraftOption(f"{key}.mean", [0.2])
        yield DraftOption(f"{key}.std", [0.2])
        return
    if group.kind == "slide" or (group.kind == "image" and group.is_8_bit):
        yield DraftOption(f"{key}.method", "range", "8 bits per pixel: the range of the type, then about zero mean.")
        yield DraftOption(f"{key}.mean", [0.5] * group.channels)
        yield DraftOption(f"{key}.std", [0.25] * group.channels)
        return
    yield DraftOption(f"{key}.method", "zscore", _why_zscore(group.modality))


def _why_zscore(modality: str) -> str:
    if modality in RADIOGRAPHS:
        return "Radiographs differ in exposure and bit depth: each gets zero mean and unit variance."
    if modality == "MR":
        return "MR intensities have no common scale: each image gets zero mean and unit variance."
    if modality:
        return "Each image gets zero mean and unit variance."
    return (
        "The modality is unknown, or there are several. Each image gets zero mean and unit variance, which "
        "works for all; for CT in HU, a window is better (method: window, window_center: 40, window_width: "
        "400)."
    )


def _backbone(images: Images, machine: Machine) -> Iterator[DraftOption]:
    if machine.has_gpu:
        text = "For a GPU: small has 22 million weights, base 86 million; micro, with 3 million, is for a CPU."
        yield DraftOption("backbone.size", "small", text)
    else:
        text = "For a CPU: micro has 3 million weights. On a GPU, use small (22 million) or base (86 million)."
        yield DraftOption("backbone.size", "micro", text)
    yield DraftOption("backbone.patch_size", PATCH_3D if images.is_3d else PATCH_2D)


def _objective(images: Images, machine: Machine) -> Iterator[DraftOption]:
    yield DraftOption("objective.name", "mae")
    if not machine.has_gpu:
        yield DraftOption("objective.decoder_width", 128, "A small decoder, for a CPU.")
        yield DraftOption("objective.decoder_depth", 2)
        yield DraftOption("objective.decoder_heads", 4)
    if images.is_3d and images.group.extents:
        yield DraftOption("objective.views.size", crop_of(images, machine), "Voxels of a crop along R, A, S.")
    if images.flipped_axes:
        text = "Axes along which a mirrored image is as plausible as the original."
        yield DraftOption("objective.views.augment.flipped_axes", images.flipped_axes, text)


def crop_of(images: Images, machine: Machine) -> list[int]:
    """Return the size of a crop in voxels.

    Each side is the median side of the volumes, at most 96 (48 on a CPU), rounded up to whole patches.
    """
    limit, group = 96 if machine.has_gpu else 48, images.group
    sides: Sequence[float] = group.median_shape
    spacing = group.median_spacing_mm
    if spacing is not None and not _has_one_spacing(group):
        extents = [one for one in group.extents if one.spacing_mm is not None]
        in_mm = [[n * mm for n, mm in zip(one.shape, one.spacing_mm or (), strict=True)] for one in extents]
        sides = [sorted(axis)[len(axis) // 2] / mm for axis, mm in zip(zip(*in_mm, strict=True), spacing, strict=True)]
    return [min(limit, -(-round(side) // PATCH_3D) * PATCH_3D) for side in sides]


def _label(survey: Survey, task: DraftedTask, suffix: str) -> Iterator[DraftOption]:
    if task == "segmentation":
        if suffix:
            yield DraftOption("label", "label maps", "No label has this key, so the model is trained on label maps.")
        return
    key, *others = survey.label_keys
    text = f"The label to predict: {classes_in_words(dict(sorted(survey.classes(key).items())))}."
    yield DraftOption("label", key, f"{text} Other labels: {', '.join(others)}." if others else text)


def _adaptation(images: Images, machine: Machine, task: DraftedTask) -> Iterator[DraftOption]:
    if machine.has_gpu:
        yield DraftOption("peft.name", "lora", "LoRA trains about 1 % of the weights; full trains all of them.")
        yield DraftOption("optim.lr", 1e-3)
    else:
        text = "A small, briefly pretrained backbone gains most when all its weights are trained; otherwise use lora."
        yield DraftOption("peft.name", "full", text)
        yield DraftOption("optim.lr", 5e-4)
    yield DraftOption("head.name", "dense" if task == "segmentation" else "linear")
    if task == "segmentation" and images.is_3d and images.group.extents:
        text = "Voxels of a training crop and of a sliding-window step along R, A, S."
        yield DraftOption("crop", crop_of(images, machine), text)
    if images.flipped_axes:
        yield DraftOption("augment.flipped_axes", images.flipped_axes, "As in pretraining.")


def _bags(machine: Machine) -> Iterator[DraftOption]:
    text = "Tiles are embedded once by the frozen backbone; gated attention over them predicts the label of a slide."
    yield DraftOption("head.name", "abmil", text)
    yield DraftOption("seeds", 5 if machine.has_gpu else 3, "Number of heads that are averaged.")
    yield DraftOption("slides.skip_tiles", SKIPPED_TILES, "Pen marks must not influence a model.")
    yield DraftOption("optim.lr", 1e-3)


def _trainer(images: Images, machine: Machine, *, batches: tuple[int, int]) -> Iterator[DraftOption]:
    """Yield batch sizes and steps; `batches` are the batch sizes on a CPU and on a GPU."""
    batch = batches[machine.has_gpu]
    yield DraftOption("loader.batch_size", batch)
    if machine.has_gpu:
        yield DraftOption("loader.num_workers", min(8, machine.num_cpus), "Processes that prepare batches.")
    num_images = TRAIN_SHARE * len(images.group.candidates)
    num_images *= TILES_PER_SLIDE if images.group.kind == "slide" else 1
    text = "A short run, to see every stage work. For results, raise epochs; medvit plan estimates time and memory."
    yield DraftOption("trainer.epochs", 50 if machine.has_gpu else 5, text)
    yield DraftOption(
        "trainer.steps_per_epoch", max(10, min(500 if machine.has_gpu else 100, -(-round(num_images) // batch)))
    )
