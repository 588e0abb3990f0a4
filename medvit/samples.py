"""What passes between the rooms, in memory: frozen dataclasses, never dicts.

Axes: B batch, C channels, I J K voxels (R, A, S), H W rows and columns, V views, N patches, P prefix tokens,
D width, L classes; `*S` stands for (H, W) or (I, J, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Bool, Float, Int, Num
from numpy import ndarray as Array

from medvit.geometry import Affine

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["image", "volume", "slide"]
Split = Literal["train", "val", "test"]
Values = Literal["stored", "displayed", "SUVbw"]
"""Which values of an image are wanted: as stored with their unit, as its file displays them, or uptake of PET."""
Look = Literal["constant", "blank", "low_contrast", "clipped", "inverted", "padded", "tiny", "spacing"]
OfFundus = Literal["not_fundus", "blurred", "underexposed", "overexposed", "cut_field"]
Flag = Literal[Look, OfFundus]
"""What `medvit.ingest.quality` may find wrong with an image, and `medvit.ingest.fundus` with one of the fundus."""


@dataclass(frozen=True)
class Identity:
    """Who and what an image is, in the words of its file: never printed, never stored, only pseudonymized.

    `patient`, `study`, `series` hold the original identifiers, empty where the file has none.
    """

    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)


@dataclass(frozen=True)
class Item:
    """One image that a reader found: enough to read it later, in another process.

    `description` (DICOM SeriesDescription) serves to choose a series; it is free text and is never stored.
    """

    reader: str
    files: tuple[Path, ...]
    kind: Kind
    modality: str = ""
    index: int | None = None
    """Which image of a file that holds many."""
    frames: tuple[tuple[int, int], ...] = ()
    """(number in `files`, frame) of each slice in order, where files hold many frames; empty: a slice a file."""
    part: str = ""
    """What it is among the images of its series, as `echo time 30 ms`; computed words, no free text."""
    is_resampled: bool = False
    """Whether its slices make no regular grid, so that reading puts them on one."""
    values: Values = "stored"
    """Which values to read; what a file does not allow, it does not give."""
    identity: Identity = field(default_factory=Identity)
    description: str = field(default="", repr=False)
    split: Split | None = None
    """The official split, where the data say one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    mask: Path | None = None
    """A label map on the grid of the image."""
    headers: tuple[Any, ...] = field(default=(), repr=False, compare=False)
    """What its reader knows of each file already, so that reading need not find it out again."""


@dataclass(frozen=True)
class Refusal:
    """Files that are not taken, and why; `reason` names no patient and no path."""

    files: tuple[Path, ...]
    code: str
    reason: str


@dataclass(frozen=True)
class Row:
    """One line of a manifest: an image, volume or slide. Identifiers are pseudonyms.

    Real intensity = `slope` * stored value + `intercept`, in `unit` ("HU", "" where unknown).
    """

    image_id: str
    patient_id: str
    study_id: str
    series_id: str
    modality: str
    kind: Kind
    dataset: str
    split: Split
    shape: tuple[int, ...]
    """(C, *S)."""
    dtype: str
    sha256: str
    """Content address of the pixels in the store; of a slide, of its low-power picture there."""
    labels: Mapping[str, str] = field(default_factory=dict)
    mask: str | None = None
    """Content address of the label map in the store, (*S)."""
    spacing_mm: tuple[float, float, float] | None = None
    affine: tuple[float, ...] | None = None
    """Voxel to world, RAS+ mm, the 16 entries row by row."""
    mpp: float | None = None
    """Microns per pixel, of images that have a physical scale but no position."""
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    part: str = ""
    """What it is among the images of its series, as `echo time 30 ms`."""
    flags: tuple[Flag, ...] | None = None
    """What looks wrong with the image; none where nobody looked, as before flags were known."""
    perceptual_hash: str | None = None
    """As `medvit.similarity` makes it, empty of an image without any structure; none where it was not made."""
    file_sha256: str | None = None
    """Hash of the one file an image came from; none of DICOM, whose files hold identifiers that a hash would test."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """How and of whom it was taken, by the keys of `medvit.readers.acquisition`, `medvit.ingest.eye` and
    `medvit.ingest.fundus`; nothing that identifies."""

    def __str__(self) -> str:
        return f"{self.kind} {self.image_id}"


@dataclass(frozen=True)
class TileRow(Row):
    """A tile of a slide, as a row of kind image: a region that is read from the slide's file when it is asked for.

    All that is known of the slide is said of the tile; `mpp` and `shape` are those of the tile.
    """

    slide: Row | None = None
    x: int = 0
    """Upper left corner in pixels of level 0 of the slide, along a row."""
    y: int = 0
    """The same, downward."""


@dataclass(frozen=True)
class Image:
    """Pixels `(C, *S)` and where they lie.

    Volumes are (C, I, J, K) with axes nearest to R, A, S and an `affine`; images are (C, H, W).
    Pixels keep the integer type of their source; `slope` and `intercept` give the real intensity in `unit`.
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

    def intensities(self) -> Float[Array, "c *s"]:
        """Pixels in their real unit, float32."""
        import numpy as np

        return self.pixels.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


@dataclass(frozen=True)
class Sample:
    """One preprocessed image ready for a model: `pixels` (C, *S) float32, `target` a class index or a mask (*S)."""

    pixels: Float[Tensor, "c *s"]
    row: Row
    target: Int[Tensor, "*t"] | None = None
    affine: Affine | None = None


@dataclass(frozen=True)
class Batch:
    """Stacked samples: `pixels` (B, C, *S), `targets` (B,) or (B, *S)."""

    pixels: Float[Tensor, "b c *s"]
    targets: Int[Tensor, "b *t"] | None = None
    rows: tuple[Row, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor]:
        """What a model takes."""
        return (self.pixels,)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), targets=targets)


@dataclass(frozen=True)
class Bags:
    """Bags of tile embeddings: `tiles` (B, N, D), and `present` (B, N), false where a short bag was filled up."""

    tiles: Float[Tensor, "b n d"]
    present: Bool[Tensor, "b n"]
    targets: Int[Tensor, "b"] | None = None
    rows: tuple[Row, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What a model takes."""
        return self.tiles, self.present

    def to(self, device: torch.device | str) -> Bags:
        """The same bags with their tensors on `device`."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=True)
        return replace(self, tiles=self.tiles.to(device), present=self.present.to(device), targets=targets)


@dataclass(frozen=True)
class Views:
    """Training crops of a batch of images for self-supervision.

    `crops` (V, B, C, *S) are the global views, `local` (V', B, C, *s) the small ones, `studies` names the study of each
    of the B images, `said` holds their labels and what is known of their modality, side and view. `fine` (V, B, C, *t)
    are the global views with more pixels, where an objective wants them.
    """

    crops: Float[Tensor, "v b c *s"]
    local: Float[Tensor, "w b c *s"] | None = None
    studies: tuple[str, ...] = ()
    said: tuple[Mapping[str, str], ...] = ()
    fine: Float[Tensor, "v b c *t"] | None = None

    def to(self, device: torch.device | str) -> Views:
        """The same views with their tensors on `device`."""
        local, fine = (
            None if crops is None else crops.to(device, non_blocking=True) for crops in (self.local, self.fine)
        )
        return replace(self, crops=self.crops.to(device, non_blocking=True), local=local, fine=fine)


@dataclass(frozen=True)
class Tokens:
    """What a backbone gives: `prefix` (B, P, D), `patches` (B, N, D) in row-major order of `grid`."""

    prefix: Float[Tensor, "b p d"]
    patches: Float[Tensor, "b n d"]
    grid: tuple[int, ...]


@dataclass(frozen=True)
class Losses:
    """Named scalar losses, already weighted; `total` is their sum."""

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The scalar to minimize."""
        return sum(self.terms.values(), start=next(iter(self.terms.values())).new_zeros(()))


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Classification: `probabilities` (L,). Segmentation: `mask` (*S) on the grid of `affine`, class index a voxel.
    """

    classes: tuple[str, ...]
    probabilities: Float[Array, "l"] | None = None
    mask: Int[Array, "*s"] | None = None
    affine: Affine | None = None
