"""Images that pretraining excludes on request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.errors import ConfigError, DataError
from pipelines.ingest import ingest
from pipelines.pretrain import PretrainConfig, pretrain

OFF = {"enabled": False}


def test_a_misspelt_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="skip_flags"):
        PretrainConfig.parse({"dataset": "a", "output": "b", "skip_flags": ["blnk"]})


def test_flagged_images_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "train" / "0.png")
    made = ingest(source=tmp_path / "train", dataset=tmp_path / "a", key=tmp_path / "key", tracking=OFF).folder
    with pytest.raises(DataError, match="all 1 images have a flag of skip_flags"):
        pretrain(dataset=made, output=tmp_path / "out", skip_flags=["constant"], tracking=OFF)
