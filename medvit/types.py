"""In-memory data types shared by readers, transforms, models and training: frozen dataclasses, never dicts.

Axes: B batch, C channels, I J K voxels (R, A, S), H W rows and columns, V views, N patches, P prefix tokens,
D width, L classes; `*S` stands for (H, W) or (I, J, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from jaxtyping import Bool, Float, Int, Num, UInt8
from numpy import ndarray as Array

from medvit.geometry import Affine
from medvit.records import Kind, Padding, Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Orientation = Literal["sagittal", "coronal", "axial"]
"""Planes that follow one another along the axis R, A or S."""


@dataclass(frozen=True)
class Image:
    """Pixels `(C, *S)` of an image or volume, with their geometry.

    Volumes are (C, I, J, K) with axes nearest to R, A, S and an `affine`; images are (C, H, W).
    Pixels keep the integer type of their source; `slope` and `intercept` give the real intensity in `unit`.

    >>> import medvit
    >>> image = medvit.read("new-studies/study-0")
    >>> image.kind, image.pixels.shape, image.unit
    ('volume', (1, 24, 24, 16), 'HU')
    >>> bool(image.intensities().min() < -900)  # air
    True
    """

    pixels: Num[Array, "c *s"]
    kind: Kind
    modality: str = ""
    affine: Affine | None = None
    mpp: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    mask: Int[Array, "*s"] | None = None
    row: Row | None = None
    padding: Padding | None = None
    """Bounds of the stored padding values, if the file declares any."""

    fallback: str = ""
    """Option such as `values.pet=SUVbw` that the file did not allow; empty if the requested values were applied."""
    mapping: str = ""
    """Label of the DICOM real-world value mapping that gives `slope`, `intercept` and `unit`, if any."""
    offered: str = ""
    """Labels and units of the real-world value mappings in the file that were not applied."""
    plane_mm: tuple[float, float] | None = None
    """Distance between rows and between columns in mm, for slices of volumes."""
    channels: tuple[str, ...] = ()
    """Names of the channels, such as T1 and FLAIR; empty if they have no names, as in a color image."""

    def without_gaps(self) -> Image:
        """Return the image with padding and non-finite voxels replaced by a background (`medvit.measured.filled`)."""
        from medvit.measured import filled

        pixels = filled(self.pixels, self.padding, slope=self.slope, intercept=self.intercept)
        return self if pixels is self.pixels else replace(self, pixels=pixels)

    def intensities(self) -> Float[Array, "c *s"]:
        """Return the pixels in their real unit, as float32."""
        import numpy as np

        return self.pixels.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


@dataclass(frozen=True)
class Sample:
    """Preprocessed image, ready for a model: `pixels` (C, *S) as float32.

    `target` is a class index, a number, time and event (2,), a known class of each label (L,), or a mask (*S).

    `spacing` is the size of a pixel along each axis: in mm if known, else relative to the pixels of the source image.
    If it is unset, pixels are assumed to be square. A channel that the image lacks is NaN (`medvit.channels`).
    """

    pixels: Float[Tensor, "c *s"]
    row: Row
    target: Num[Tensor, "*t"] | None = None
    affine: Affine | None = None
    spacing: tuple[float, ...] | None = None
    annotated: Bool[Tensor, "l"] | None = None
    """Whether each class, the background included, is annotated in the mask; None: all are."""


@dataclass(frozen=True)
class Batch:
    """Stacked samples: `pixels` (B, C, *S); `targets` (B,), (B, L) or (B, *S). A channel that an image lacks is NaN."""

    pixels: Float[Tensor, "b c *s"]
    targets: Num[Tensor, "b *t"] | None = None
    rows: tuple[Row, ...] = ()
    annotated: Bool[Tensor, "b l"] | None = None
    """Whether each class is annotated in the mask of each image; None: all are in all masks."""

    @property
    def inputs(self) -> tuple[Tensor]:
        """Return the input of a model."""
        return (self.pixels,)

    @property
    def present(self) -> Bool[Tensor, "b c"]:
        """Return which channels each image has."""
        from medvit.channels import present_channels

        return present_channels(self.pixels)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        targets, annotated = (
            None if tensor is None else tensor.to(device, non_blocking=True)
            for tensor in (self.targets, self.annotated)
        )
        pixels = self.pixels.to(device, non_blocking=True)
        return replace(self, pixels=pixels, targets=targets, annotated=annotated)


@dataclass(frozen=True)
class Bags:
    """Bags of tile embeddings: `tiles` (B, N, D); `present` (B, N) is False for the padding of shorter bags."""

    tiles: Float[Tensor, "b n d"]
    present: Bool[Tensor, "b n"]
    targets: Int[Tensor, "b"] | None = None
    rows: tuple[Row, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """Return the inputs of a model: tiles and `present`."""
        return self.tiles, self.present

    def to(self, device: torch.device | str) -> Bags:
        """Return the bags with their tensors on `device`."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return replace(self, tiles=self.tiles.to(device), present=self.present.to(device), targets=targets)


@dataclass(frozen=True)
class Views:
    """Training views (crops) of a batch of images, for self-supervised training.

    `crops` (V, B, C, *S) are the global views and `local` (V', B, C, *s) the local ones. `studies` names the study of
    each of the B images; `descriptions` their labels, modality, laterality and view position. `fine` (V, B, C, *t) are
    the global views at a higher resolution, if an objective requires them.
    """

    crops: Float[Tensor, "v b c *s"]
    local: Float[Tensor, "w b c *s"] | None = None
    studies: tuple[str, ...] = ()
    descriptions: tuple[Mapping[str, str], ...] = ()
    fine: Float[Tensor, "v b c *t"] | None = None

    def to(self, device: torch.device | str) -> Views:
        """Return the views with their tensors on `device`."""
        local, fine = (
            None if crops is None else crops.to(device, non_blocking=True) for crops in (self.local, self.fine)
        )
        return replace(self, crops=self.crops.to(device, non_blocking=True), local=local, fine=fine)


@dataclass(frozen=True)
class Tokens:
    """Output of a backbone: `prefix` (B, P, D), `patches` (B, N, D) in row-major order of `grid`."""

    prefix: Float[Tensor, "b p d"]
    patches: Float[Tensor, "b n d"]
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Losses:
    """Named scalar losses, already multiplied by their weights; `total` is their sum."""

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of all losses, the scalar to minimize."""
        return sum(self.terms.values(), start=next(iter(self.terms.values())).new_zeros(()))


@dataclass(frozen=True)
class Prediction:
    """Prediction of a model for one image.

    Classification: `probabilities` (L,). Regression: `value`, in the unit of the label, which `classes` names.
    Ordinal classification: also the predicted grade, in `grades`.
    Survival: `probabilities` (L,) of being without the event until the times in `classes`, and mean and median `times`.
    Segmentation: `mask` (*S) on the grid of `affine`, one class index per voxel, and on request `voxel_probabilities`
    (L-1, *S) of all classes but the background, of which 255 is 1. Multi-task model: `by_label`, the
    prediction of each label.

    >>> import medvit
    >>> predictor = medvit.Predictor(medvit.Checkpoint.load("runs/model"), device="cpu")
    >>> prediction = predictor(medvit.read("new-studies/study-0"))
    >>> prediction.mask.shape
    (24, 24, 16)
    >>> bool((prediction.mask == prediction.classes.index("liver")).any())
    True
    """

    classes: tuple[str, ...]
    probabilities: Float[Array, "l"] | None = None
    mask: Int[Array, "*s"] | None = None
    affine: Affine | None = None
    value: float | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    """Times of a survival curve, in the unit of the label: its restricted mean, and its median if it falls to 0.5."""
    grades: Mapping[str, int] = field(default_factory=dict)
    """Median grade of an ordinal classification, keyed by the name of the label; empty for other tasks."""
    by_label: Mapping[str, Prediction] = field(default_factory=dict)
    voxel_probabilities: UInt8[Array, "k *s"] | None = None
    members: Float[Array, "m l"] | None = None
    """Probabilities (not calibrated), or numbers, of each model of an ensemble or each pass with dropout, if there are
    several.
    """
    prediction_set: PredictionSet | None = None
    """Values that contain the truth with a stated probability, if the model has conformal prediction."""
    notes: tuple[str, ...] = ()
    """Notes for people who read the result, such as a lack of memory."""


@dataclass(frozen=True)
class PredictionSet:
    """Values that contain the truth with the probability `coverage` (`medvit.models.conformal`).

    For a classification, `is_in` (L,) states which classes are in the set; for several labels, `is_in` (L, 2) whether
    the absence and the presence of each label are. For a regression, the values are those in `interval`.
    """

    coverage: float
    is_in: Bool[Array, "l *two"] | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class RunLength:
    """Amount of data and length of a training run.

    >>> RunLength(num_images=2000, step_images=16, num_steps=1000).described(300)
    '4,800 images, 2.4 passes over the training data'
    """

    num_images: int
    """Number of training images. If slices of volumes or tiles of slides are drawn, each of them counts as an image."""
    step_images: int
    """Number of images per step, over all devices and all batches whose gradients are accumulated."""
    num_steps: int
    num_accumulated: int = 1
    """Number of batches per step, whose gradients are accumulated."""

    @property
    def in_batches(self) -> RunLength:
        """The same run, but with each batch counted as a step; for values that are updated by every forward pass."""
        count = self.num_accumulated
        return RunLength(self.num_images, self.step_images // count, self.num_steps * count)

    def seen(self, step: int) -> int:
        """Return the number of images in the first `step` steps."""
        return step * self.step_images

    def passes(self, step: int) -> float:
        """Return how often each training image is seen in the first `step` steps, on average."""
        return self.seen(step) / max(1, self.num_images)

    def described(self, step: int, *, noun: str = "images") -> str:
        """Return a text with the images seen up to a step and the passes over the training images."""
        passes = f"{self.passes(step):.3g}"
        return f"{self.seen(step):,} {noun}, {passes} {'pass' if passes == '1' else 'passes'} over the training data"
