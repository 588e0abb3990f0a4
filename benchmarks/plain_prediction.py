"""Prediction of NIfTI volumes by a plain loop over MONAI, as a first version would be written; prints the time as JSON.

`python -m benchmarks.plain_prediction MODEL SOURCE OUTPUT KEY`
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, ScaleIntensityRange
from torch.nn import functional as F

from benchmarks.race import COUNTED, FIRST, THREADS
from medvit.artifacts import Checkpoint
from medvit.geometry import Affine, resampled_grid
from medvit.models.image import Model
from medvit.transforms.preprocess import Preprocess, resize

WINDOWS_A_BATCH = 4


@torch.inference_mode()
def main(model: str, source: str, output: str, _: str) -> None:
    """Predict the first volumes to load libraries, and then the others; print their seconds."""
    torch.set_num_threads(THREADS)
    checkpoint = Checkpoint.load(Path(model))
    network, preprocess = Model.from_checkpoint(checkpoint), Preprocess.parse(checkpoint.preprocess)
    low = preprocess.intensity.window_center - preprocess.intensity.window_width / 2
    high = low + preprocess.intensity.window_width
    window = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)
    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Orientation("RAS"), window])
    for name in (FIRST, COUNTED):
        started, cpu_started = time.perf_counter(), sum(os.times()[:4])
        for path in sorted((Path(source) / name).iterdir()):
            folder = Path(output) / name / path.name.removesuffix(".nii.gz")
            folder.mkdir(parents=True)
            _predict(network, preprocess, load(path), folder / "mask.nii.gz")
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "cpu_seconds": sum(os.times()[:4]) - cpu_started}))


def _predict(network: Model, preprocess: Preprocess, image: Any, path: Path) -> None:
    affine, shape = np.asarray(image.affine), tuple(image.shape[1:])
    pixels = image.as_tensor()[None]
    if preprocess.spacing_mm is not None:
        grid, _ = resampled_grid(shape, Affine(affine), preprocess.spacing_mm)
        pixels = resize(pixels[0], grid)[None]
    config = network.config
    logits = sliding_window_inference(
        pixels, config.roi, WINDOWS_A_BATCH, network, overlap=config.overlap, mode="gaussian"
    )
    probabilities = logits.softmax(dim=1)
    if probabilities.shape[2:] != shape:
        probabilities = F.interpolate(probabilities, size=shape, mode="trilinear", align_corners=False)
    mask = probabilities.argmax(dim=1)[0].to(torch.uint8).numpy()
    nib.save(nib.Nifti1Image(mask, affine), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
