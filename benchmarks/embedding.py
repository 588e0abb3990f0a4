"""Tiles of a slide embedded per second, compared with a plain loop over OpenSlide with the same backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray as Array

from benchmarks.timing import alternate, print_rates
from medvit.backbones import Backbone
from medvit.backbones.vit import VitConfig
from medvit.inference.slide_job import OpenFiles
from medvit.models.embedding_store import EmbeddingStore
from medvit.models.tile_embedder import Embedder, TileLoaderConfig, embed_tiles
from medvit.phantoms.large_slide import write_large
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import TileGrid
from medvit.wsi.tiling import in_file_order

SIDE, MPP, SIZE = 8_000, 0.25, 224
"""Side of the slide in pixels, microns per pixel, and side of a tile in pixels."""
COLUMNS, ROWS, OVERLAP = 16, 8, 0.5
"""Tiles per repeat: a band across the tissue."""
BATCH = 32
BACKBONES = {"micro, 3 million weights": {"size": "micro"}, "small, 22 million weights": {"size": "small"}}


def run(folder: Path, repeats: int) -> None:
    """Print tiles embedded per second, for backbones of two sizes."""
    path = folder / "slide.tif"
    write_large(path, SIDE, mpp=MPP)
    stride = round(SIZE * (1 - OVERLAP))
    x, y = np.meshgrid(SIDE // 3 + stride * np.arange(COLUMNS), SIDE // 3 + stride * np.arange(ROWS))
    corners = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)
    for name, options in BACKBONES.items():
        torch.manual_seed(0)
        backbone = VitConfig.parse({"ndim": 2, "channels": 3, "patch_size": 16, **options}).build().eval()
        tasks = {
            "OpenSlide, plain loop": partial(_plain, path, corners, backbone, is_half=False),
            "OpenSlide, plain loop in bfloat16": partial(_plain, path, corners, backbone, is_half=True),
            "medvit, one process": partial(_medvit, path, corners, backbone, 0),
            "medvit, a separate reading process": partial(_medvit, path, corners, backbone, 1),
        }
        times = alternate(tasks, repeats=repeats)
        title = f"tiles of {SIZE}² pixels, overlap {OVERLAP:.0%}, through a ViT of size {name}"
        print_rates(title, times, len(corners), digits=1)


@torch.inference_mode()
def _plain(path: Path, corners: Int64[Array, "n 2"], backbone: Backbone, _: Path, *, is_half: bool) -> None:
    from openslide import OpenSlide

    found = []
    with OpenSlide(path) as slide, torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        for start in range(0, len(corners), BATCH):
            regions = [
                np.asarray(slide.read_region((x, y), 0, (SIZE, SIZE)).convert("RGB"))
                for x, y in corners[start : start + BATCH].tolist()
            ]
            tokens = backbone(torch.from_numpy(np.stack(regions)).permute(0, 3, 1, 2).float() / 255.0)
            found.append(torch.cat([tokens.prefix[:, 0], tokens.patches.mean(1)], dim=1))
    torch.cat(found)


def _medvit(path: Path, corners: Int64[Array, "n 2"], backbone: Backbone, workers: int, folder: Path) -> None:
    chain = Preprocess(kind="image", channels=3, intensity=Normalization(method="range"))
    embedder = Embedder(backbone, chain, "class_mean")
    opened = OpenFiles((path,))
    slide = open_slide(path)
    ordered = in_file_order(corners, slide.tile_side)
    grid = TileGrid(ordered, SIZE, slide.mpp, np.ones(len(ordered), np.float32), np.zeros(len(ordered), np.uint8))
    slide.close()
    store = EmbeddingStore(folder, "bench", embedder.facts)
    with store.writing("slide", len(grid), embedder.width) as writer:
        for part in embed_tiles(opened, grid, embedder, TileLoaderConfig(batch_size=BATCH, num_workers=workers)):
            writer.append(part)
