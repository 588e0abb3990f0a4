"""Quality of color fundus photographs: sharpness, exposure and field, each from 0 to 1, and the lowest of the three.

All scores are measured within the field of view, resized to `SIDE` pixels, so that cameras are comparable. The bounds
are calibrated on the 30 photographs of DRIVE, 1600 photographs of RetinaMNIST, phantoms, and blurred, darkened,
brightened and cropped copies of all of these:

- Sharpness is the standard deviation of detail finer than `FINE` pixels divided by that of detail up to `COARSE`
  pixels, in the green channel; it is independent of brightness and contrast. In DRIVE, it is 0.51 to 0.67. After
  smoothing, it is 0.40 to 0.52 (sigma of 0.5 pixels), 0.27 to 0.34 (1 pixel) and 0.15 to 0.19 (2 pixels). Noise counts
  as detail, so a noisy blurred image can have a high score.
- Exposure is the median lightness. It is 0.29 to 0.56 in DRIVE, and 0.18 to 0.59 in RetinaMNIST (5th to 95th
  percentile).
- Field is the fraction of the disc of the field of view that is inside the frame and illuminated.

An image is not a fundus photograph if it has no round field, or lacks the colors of blood and pigment: in the mean
color, red must exceed blue by `MIN_RED_OVER_BLUE`, and blue must not exceed green by more than `MAX_BLUE_OVER_GREEN`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from numpy import ndarray as Array

from medvit.readers.laterality import PHOTOGRAPH
from medvit.records import Flag
from medvit.transforms.field_of_view import Disc, find_disc
from medvit.types import Image

QUALITY = "fundus_quality"
"""Key of `Row.attributes`: the worst of sharpness, exposure and field."""
PARTS = ("fundus_sharpness", "fundus_exposure", "fundus_field")
KEYS = (QUALITY, *PARTS)

SIDE = 256
FINE, COARSE = 1.0, 4.0
"""Sigmas, in pixels, of the smoothings between which detail is measured."""
CORE = 0.85
"""Share of the radius within which detail is measured: the rim itself is an edge."""
MIN_JUDGED = 96
"""Minimum pixels across the field for judging sharpness."""

SHARPNESS = (0.12, 0.50)
"""Ratio of fine to coarse detail with the sharpness score 0, and ratio with the score 1."""
BLURRED = 0.36
"""Ratio of fine to coarse detail below which a photograph is flagged as blurred. After smoothing by 1/256 of the field,
all photographs of DRIVE are below it.
"""
LIGHTNESS = (0.04, 0.18, 0.62, 0.90)
"""Median lightness at which the exposure score is 0, 1, still 1, and 0 again."""
TOO_DARK, TOO_BRIGHT = 0.11, 0.72
FIELD = (0.4, 0.9)
CUT = 0.7
"""Visible share of the field below which the photograph is flagged as cut."""
DIM = 0.25
"""Share of the median lightness below which a pixel is not illuminated."""

MIN_RED_OVER_BLUE, MAX_BLUE_OVER_GREEN = 0.015, 0.03
"""Bounds on differences between channels of the mean color, whose channels sum to 1. All 1600 photographs of
RetinaMNIST and 30 of DRIVE are within them; 885 images of breast ultrasound, brain MR, nuclei and tissue are not.
"""


@dataclass(frozen=True)
class Quality:
    """Quality of a photograph.

    `is_fundus` states whether the photograph shows a fundus. `sharpness`, `exposure` and `field` are scores from 0 to 1
    (best); each is None if it cannot be judged.
    """

    is_fundus: bool
    flags: tuple[Flag, ...] = ()
    sharpness: float | None = None
    exposure: float | None = None
    field: float | None = None

    @property
    def attributes(self) -> dict[str, str]:
        """Return the scores as texts with two decimals, keyed by the names in `KEYS`.

        The result is empty if the image does not show a fundus.
        """
        parts = {key: value for key, value in zip(PARTS, self.parts, strict=True) if value is not None}
        if not parts:
            return {}
        return {key: f"{value:.2f}" for key, value in {QUALITY: min(parts.values()), **parts}.items()}

    @property
    def parts(self) -> tuple[float | None, ...]:
        """Sharpness, exposure and field, in the order of `PARTS`."""
        return self.sharpness, self.exposure, self.field


def is_judged(image: Image) -> bool:
    """Return whether an image is declared as a color fundus photograph: modality OP and three 8-bit channels."""
    pixels = image.pixels
    return image.modality == PHOTOGRAPH and image.kind == "image" and len(pixels) == 3 and pixels.dtype == np.uint8


def judge(image: Image) -> Quality:
    """Return the quality of a color fundus photograph (3, H, W) of eight bits."""
    pixels = image.pixels
    disc = find_disc(pixels)
    # An image this coarse shows a disc as a polygon: only its colors decide.
    if (disc is None and min(pixels.shape[1:]) >= MIN_JUDGED) or not _has_colors(pixels, disc):
        return Quality(is_fundus=False, flags=("not_fundus",))
    if disc is None:
        height, width = pixels.shape[1:]
        disc = Disc((height - 1) / 2, (width - 1) / 2, radius=max(height, width) / 2)
    crop = disc.crop(1.0)
    color, seen = _scaled(crop.of(pixels)), _scaled(crop.of(np.ones((1, *pixels.shape[1:]), np.uint8)))[0] > 0.5
    distance = _distance()
    inside = (distance <= 1.0) & seen if not disc.is_whole_frame else seen
    lightness = color.mean(axis=0) / 255.0
    median = float(np.median(lightness[inside]))
    ratio = _detail(color[1], inside & ((distance <= CORE) | disc.is_whole_frame))
    share = None if disc.is_whole_frame else _share_seen(lightness, inside, distance <= 1.0, median)
    is_sharp_known = 2.0 * disc.radius + 1.0 >= MIN_JUDGED
    defects: dict[Flag, bool] = {
        "blurred": is_sharp_known and ratio < BLURRED,
        "underexposed": median < TOO_DARK,
        "overexposed": median > TOO_BRIGHT,
        "cut_field": share is not None and share < CUT,
    }
    return Quality(
        is_fundus=True,
        flags=tuple(flag for flag, is_present in defects.items() if is_present),
        sharpness=_ramp(ratio, *SHARPNESS) if is_sharp_known else None,
        exposure=min(_ramp(median, *LIGHTNESS[:2]), 1.0 - _ramp(median, *LIGHTNESS[2:])),
        field=None if share is None else _ramp(share, *FIELD),
    )


def _has_colors(pixels: Num[Array, "c h w"], disc: Disc | None) -> bool:
    inside = np.ones(pixels.shape[1:], bool) if disc is None else disc.inside(pixels.shape[1:])
    mean = pixels[:, inside].mean(axis=1)
    red, green, blue = mean / max(float(mean.sum()), 1e-6)
    return bool(red - blue >= MIN_RED_OVER_BLUE and blue - green <= MAX_BLUE_OVER_GREEN)


def _scaled(square: Num[Array, "c s s"]) -> Float[Array, "c t t"]:
    """Return square channels resized to `SIDE` x `SIDE` pixels, by averaging or interpolation."""
    from PIL import Image as Picture

    planes = (Picture.fromarray(plane.astype(np.float32)) for plane in square)
    return np.stack([np.asarray(plane.resize((SIDE, SIDE), Picture.Resampling.BILINEAR)) for plane in planes])


def _distance() -> Float[Array, "t t"]:
    """Return the distance of each pixel from the center, in radii of the field of view."""
    middle = (SIDE - 1) / 2
    rows, columns = np.ogrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(rows - middle, columns - middle) / (SIDE / 2))


def _detail(green: Float[Array, "t t"], inside: Bool[Array, "t t"]) -> float:
    """Return the standard deviation of fine detail divided by that of coarse detail."""
    from scipy.ndimage import gaussian_filter

    fine, coarse = gaussian_filter(green, FINE), gaussian_filter(green, COARSE)
    return float((green - fine)[inside].std() / max(float((fine - coarse)[inside].std()), 1e-6))


def _share_seen(
    lightness: Float[Array, "t t"], inside: Bool[Array, "t t"], disc: Bool[Array, "t t"], median: float
) -> float:
    return float((inside & (lightness >= DIM * median)).sum() / disc.sum())


def _ramp(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0.0, 1.0))
