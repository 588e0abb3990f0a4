"""Detection rate of planted near duplicates of real images, and false positives among different images.

Images are divided into halves by their hash. One half shows how far copies agree, and how far different images do. The
other half is searched with the default bounds. The names of the data sets below are folders of `--data`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from PIL import Image

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.store import Store
from medvit.leakage import Check, find_overlaps
from medvit.leakage.perceptual_hash import hash_image
from medvit.leakage.second_look import agreement, prepared
from medvit.records import Row

Pixels = UInt8[Array, "c h w"]
SETS: Mapping[str, str] = {
    "busi-ultrasound": "*/*).png",
    "brain-tumor-mri-2d": "*/*/*.jpg",
    "bbbc038-nuclei": "images/*.png",
    "drive": "*/images/*",
    "retinamnist": "retinamnist.npz",
    "pneumoniamnist": "pneumoniamnist-train-val.npz",
}
PERCEPTUAL: tuple[Check, ...] = ("perceptual",)
COUNT = 40
"""Maximum number of images in each half."""


def shifted(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Return an image shifted by up to a fraction of each side, and black outside of the original image."""
    down, right = (round(size * share * rng.uniform(-1, 1)) for size in pixels.shape[1:])
    moved = np.zeros_like(pixels)
    here, there = (
        [
            slice(max(0, n), size + min(0, n))
            for n, size in ((sign * down, pixels.shape[1]), (sign * right, pixels.shape[2]))
        ]
        for sign in (1, -1)
    )
    moved[:, here[0], here[1]] = pixels[:, there[0], there[1]]
    return moved


def cropped(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Return an image whose sides are cropped by up to a fraction of their length, at both ends."""
    cuts = [round(size * share * rng.uniform(0.5, 1)) for size in pixels.shape[1:]]
    first = [int(rng.integers(0, cut + 1)) for cut in cuts]
    places = [slice(n, size - cut + n) for n, cut, size in zip(first, cuts, pixels.shape[1:], strict=True)]
    return np.ascontiguousarray(pixels[:, places[0], places[1]])


def recompressed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image after JPEG compression with a quality of 30 to 90."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(file, "JPEG", quality=int(rng.integers(30, 91)))
    return _channels_first(np.asarray(Image.open(file)))


def brightened(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image with another gamma, gain and offset."""
    changed = (pixels / 255.0) ** rng.uniform(0.7, 1.4) * rng.uniform(0.8, 1.2) + rng.uniform(-0.05, 0.05)
    return np.asarray((np.clip(changed, 0, 1) * 255).astype(np.uint8))


def resized(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return an image resized by a factor of 0.7 to 1.4."""
    image, factor = Image.fromarray(pixels.transpose(1, 2, 0).squeeze()), rng.uniform(0.7, 1.4)
    size = (round(image.width * factor), round(image.height * factor))
    return _channels_first(np.asarray(image.resize(size, Image.Resampling.BILINEAR)))


KINDS: Mapping[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "JPEG 30-90": recompressed,
    "gamma, gain, offset": brightened,
    "shift to 3 %": lambda pixels, rng: shifted(pixels, 0.03, rng),
    "shift to 6 %": lambda pixels, rng: shifted(pixels, 0.06, rng),
    "crop to 2 %": lambda pixels, rng: cropped(pixels, 0.02, rng),
    "crop to 5 %": lambda pixels, rng: cropped(pixels, 0.05, rng),
    "crop to 10 %": lambda pixels, rng: cropped(pixels, 0.1, rng),
    "crop to 5 %, JPEG, gamma, resized": lambda pixels, rng: resized(
        brightened(recompressed(cropped(pixels, 0.05, rng), rng), rng), rng
    ),
}


def run(data: Path, folder: Path) -> None:
    """Print the agreement of copies and of different images in one half, and the detection rate in the other."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pattern in SETS.items():
        images = list(_images(data, name, pattern))
        chosen, others = ([one for one in images if _is_chosen(one) is part] for part in (True, False))
        print(f"\n{name}: {len(chosen)} images to choose bounds on, {len(others)} to search")
        _print_agreement(_some(chosen), np.random.default_rng(0))
        _print_found(others, folder / name, np.random.default_rng(1))


def _print_agreement(images: Sequence[Pixels], rng: np.random.Generator) -> None:
    looks = [prepared(one) for one in images]
    different = [agreement(one, other) for one, other in combinations(looks, 2)]
    print(f"  different images: {_percentiles(different, (50, 99, 99.9, 100))} (50, 99, 99.9, 100 %)")
    for kind, change in KINDS.items():
        copies = [agreement(look, prepared(change(one, rng))) for look, one in zip(looks, images, strict=True)]
        print(f"  {kind}: {_percentiles(copies, (0, 5, 50))} (0, 5, 50 %)")


def _print_found(images: Sequence[Pixels], folder: Path, rng: np.random.Generator) -> None:
    """Search the images for near duplicates, first alone, then with copies of some of them, for each kind of copy."""
    store = Store(folder / "images")
    rows = [_row(store, f"i-{number}", one) for number, one in enumerate(images)]
    alone = find_overlaps({"": Manifest(tuple(rows), Facts(folder.name), folder)}, PERCEPTUAL)
    print(f"found among {len(rows)} unchanged images: {len(alone)} groups of {sum(len(o.members) for o in alone)}")
    for kind, change in KINDS.items():
        numbers = _some(range(len(images)))
        copies = [_row(store, f"c-{number}", change(images[number], rng)) for number in numbers]
        whole = Manifest((*rows, *copies), Facts(folder.name), folder)
        groups = [{m.row.image_id for m in overlap.members} for overlap in find_overlaps({"": whole}, PERCEPTUAL)]
        found = sum(any({f"i-{n}", f"c-{n}"} <= group for group in groups) for n in numbers)
        print(f"  {kind}: {found} of {len(copies)} copies found")


def _row(store: Store, name: str, pixels: Pixels) -> Row:
    return Row(
        image_id=name,
        patient_id=name,
        study_id=name,
        series_id=name,
        modality="OT",
        kind="image",
        dataset="",
        split="train",
        shape=pixels.shape,
        dtype="uint8",
        sha256=store.put(pixels),
        flags=(),
        perceptual_hash=hash_image(pixels),
    )


def _images(data: Path, name: str, pattern: str) -> Iterator[Pixels]:
    if pattern.endswith(".npz"):
        arrays = np.load(data / "medmnist" / pattern)
        for key in sorted(key for key in arrays.files if key.endswith("images")):
            yield from map(_channels_first, arrays[key])
        return
    for path in sorted((data / name).glob(pattern)):
        yield _channels_first(np.asarray(Image.open(path)))


def _channels_first(pixels: UInt8[Array, "h w *c"]) -> Pixels:
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels[..., :3].transpose(2, 0, 1))


def _is_chosen(pixels: Pixels) -> bool:
    return hashlib.sha256(pixels.tobytes()).digest()[0] % 2 == 0


def _some(images: Sequence[Any]) -> Sequence[Any]:
    return images[:: max(1, len(images) // COUNT)][:COUNT]


def _percentiles(values: Sequence[float], shares: tuple[float, ...]) -> str:
    found: Float[Array, "n"] = np.percentile(values, shares)
    return ", ".join(f"{value:.2f}" for value in found)
