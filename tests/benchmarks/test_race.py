"""The comparison of medvit with a plain loop over MONAI: its measures, on values that are known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import race
from benchmarks.plain_prediction import main as plain_loop
from medvit.artifacts import Checkpoint
from medvit.models.image import Model, ModelConfig
from medvit.phantoms import write_ct_studies
from medvit.transforms.preprocess import Preprocess


def test_dice_is_one_for_equal_masks_and_half_for_half_of_the_volume() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:, :, :2] = 1
    thinner = mask.copy()
    thinner[:, :, 0] = 0
    assert race._dices(mask, mask) == [1.0, 1.0, 1.0]
    assert race._dices(mask, thinner) == [pytest.approx(2 / 3), 1.0, 1.0]
    assert race._dices(mask, np.where(mask, 2, 0).astype(np.uint8)) == [0.0, 0.0, 1.0]


def test_the_ratio_is_the_geometric_mean_with_an_interval() -> None:
    assert race._ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == "2.00 [2.00, 2.00]"
    text = race._ratio([1.0, 4.0, 2.0], [1.0, 1.0, 1.0])
    mean, low, high = (float(one.strip("[],")) for one in text.split())
    assert mean == 2.0
    assert low * high == pytest.approx(mean**2, rel=0.02)


def test_the_memory_of_children_counts() -> None:
    code = "import subprocess,sys; subprocess.run([sys.executable, '-c', 'x=bytearray(10**8); input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        deadline = 100
        while sum(map(race._memory_mib, race._tree(process.pid))) < 95 and deadline:
            deadline -= 1
            os.sched_yield()
            subprocess.run(["sleep", "0.1"], check=True)
        assert len(race._tree(process.pid)) == 2
        assert sum(map(race._memory_mib, race._tree(process.pid))) > 95
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def test_the_plain_loop_writes_a_mask_for_each_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig.parse(
        {
            "kind": "segmentation",
            "backbone": {"name": "vit", "ndim": 3, "channels": 1, "patch_size": 8, "width": 12, "depth": 4, "heads": 2},
            "peft": {"name": "full"},
            "head": {"name": "dense", "channels": 4},
            "classes": ("background", "liver"),
            "roi": (24, 24, 16),
            "applies_to": {"kind": "volume"},
        }
    )
    preprocess = Preprocess.parse({"kind": "volume", "spacing_mm": (16, 16, 16), "intensity": {"method": "window"}})
    state = Model(config, config.backbone.build()).state_dict()
    Checkpoint(tmp_path / "model", config.tree(), preprocess.tree(), state).save()
    for name in (race.FIRST, race.COUNTED):
        write_ct_studies(tmp_path / "studies" / name, 1)
        race._write_volumes(tmp_path / "studies" / name, tmp_path / "volumes" / name, tmp_path / "key")
    plain_loop(str(tmp_path / "model"), str(tmp_path / "volumes"), str(tmp_path / "out"), "")
    (volume,) = (tmp_path / "volumes" / race.COUNTED).iterdir()
    mask = race._mask(tmp_path / "out" / race.COUNTED / volume.name.removesuffix(".nii.gz"))
    assert mask.shape == (48, 48, 32)
    lowest = np.asarray(nib.load(volume).dataobj).min()
    assert -1100 < lowest < -900  # HU of air, as medvit reads them
    assert '"seconds"' in capsys.readouterr().out
