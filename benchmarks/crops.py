"""Random crops per second from the store, compared with .nii.gz, Zarr and MONAI's PersistentDataset."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int16
from numpy import ndarray as Array

from benchmarks.sources import ct_like
from benchmarks.timing import alternate, print_table
from medvit.dataset.store import Store

SHAPE, CROP = (320, 256, 160), 96
NUM_CROPS = {"store (Blosc2)": 60, "Zarr": 20, ".nii.gz": 1, "MONAI PersistentDataset": 3}
"""Crops per repeat: enough to time the fast methods."""

Read = Callable[[tuple[slice, ...]], Array]


def run(folder: Path, repeats: int) -> None:
    """Print crops per second from one volume."""
    volume = ct_like(SHAPE, seed=0)
    ways = _ways(volume, folder)
    rng = np.random.default_rng(0)
    tasks = {name: partial(_read_crops, read, NUM_CROPS[name], rng) for name, read in ways.items()}
    times = alternate(tasks, repeats=repeats)
    rates = {name: NUM_CROPS[name] / timing.median for name, timing in times.items()}
    own = next(iter(rates.values()))
    lines = [(name, f"{rate:.1f}", f"{own / rate:.1f}") for name, rate in rates.items()]
    title = f"crops of {CROP}³ from a CT-like volume of {volume.nbytes / 2**20:.0f} MiB"
    print_table(title, ("", "crops/s", "store's lead"), lines)


def _ways(volume: Int16[Array, "i j k"], folder: Path) -> dict[str, Read]:
    store = Store(folder / "store")
    address = store.put(volume[None])
    packed = folder / "volume.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.eye(4)), packed)
    ways: dict[str, Read] = {"store (Blosc2)": lambda region: store.get(address, (slice(None), *region))[0]}
    if importlib.util.find_spec("zarr"):
        ways["Zarr"] = _zarr(volume, folder / "volume.zarr")
    else:
        print("skipped: Zarr is not installed (pip install 'medvit[bench]')")
    ways[".nii.gz"] = lambda region: np.asarray(nib.load(packed).dataobj[region])
    ways["MONAI PersistentDataset"] = _persistent(packed, folder / "monai")
    return ways


def _zarr(volume: Int16[Array, "i j k"], path: Path) -> Read:
    import zarr

    array = zarr.create_array(str(path), shape=volume.shape, chunks=(64, 64, 64), dtype=volume.dtype)
    array[:] = volume
    return lambda region: np.asarray(zarr.open_array(str(path), mode="r")[region])


def _persistent(path: Path, cache: Path) -> Read:
    from monai.data import NibabelReader, PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage

    # The cache contains the whole volume: a random crop requires reading all of it.
    transform = Compose([LoadImage(reader=NibabelReader(), image_only=True, dtype=np.int16), EnsureChannelFirst()])
    dataset = PersistentDataset([str(path)], transform, cache_dir=cache)
    return lambda region: np.asarray(dataset[0][(0, *region)])


def _read_crops(read: Read, num_crops: int, rng: np.random.Generator, _: Path) -> None:
    for _number in range(num_crops):
        starts = rng.integers(0, np.array(SHAPE) - CROP + 1)
        crop = read(tuple(slice(start, start + CROP) for start in starts))
        assert crop.shape == (CROP, CROP, CROP)
