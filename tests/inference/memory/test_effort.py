"""A prediction that runs out of memory is repeated with less, and the result says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.errors import MemoryShortError
from medvit.geometry import Affine
from medvit.inference.memory import effort
from medvit.inference.memory.effort import Effort, efforts, is_out_of_memory, whole_bytes
from medvit.inference.predictor import Predictor
from medvit.models.image import Model
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image
from tests.inference.memory.test_bricks import ROI, small_model, smooth


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    model = small_model()
    preprocess = Preprocess.parse({"kind": "volume"})
    Checkpoint(tmp_path / "model", model.config.tree(), preprocess.tree(), model.state_dict()).save()
    return Predictor(Checkpoint.load(tmp_path / "model"), "cpu")


def volume(shape: tuple[int, int, int] = (20, 12, 50)) -> Image:
    pixels = (1000 * smooth(shape)[0]).numpy().astype(np.int16)
    return Image(pixels, "volume", affine=Affine.from_spacing((1.0, 1.0, 1.0)))


def with_memory_for(model: Model, num_values: int) -> None:
    """Let a model run out of memory if its input has more values than this."""

    def check(_: object, inputs: tuple[Tensor]) -> None:
        if inputs[0].numel() > num_values:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(check)


def test_fewer_windows_at_once_give_the_same_mask_and_a_note(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    expected = predictor(volume())
    assert expected.notes == ()
    with_memory_for(predictor.model, int(np.prod(ROI)))
    found = predictor(volume())
    assert np.mean(found.mask == expected.mask) > 0.99  # products in bfloat16 depend on the size of a batch
    assert found.notes == (Effort(1).note,)
    assert "memory is short" in caplog.text


def test_smaller_windows_are_tried_last_and_named(predictor: Predictor) -> None:
    with_memory_for(predictor.model, int(np.prod(ROI)) // 2)
    (note,) = predictor(volume()).notes
    assert "smaller windows, 8 x 8 x 8" in note


def test_the_next_image_is_predicted_in_the_usual_way(predictor: Predictor) -> None:
    expected = predictor(volume())
    handle = predictor.model.register_forward_pre_hook(_always_short)
    with pytest.raises(MemoryShortError, match="needs more memory than is free"):
        predictor(volume())
    handle.remove()
    found = predictor(volume())
    assert found.notes == ()
    np.testing.assert_array_equal(found.mask, expected.mask)


def _always_short(*_: object) -> None:
    raise MemoryError


def test_large_volumes_are_computed_by_bricks_from_the_start(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predictor(volume())
    monkeypatch.setattr(effort, "WHOLE_BYTES", 1)
    found = predictor(volume())
    assert np.mean(found.mask == expected.mask) > 0.99
    assert found.notes == ()
    np.testing.assert_array_equal(found.affine.matrix, expected.affine.matrix)


def test_each_way_needs_less_than_the_one_before() -> None:
    model = small_model()
    ways = list(efforts(model, 20 * 12 * 50, 3, allows_bricks=True))
    assert ways == [Effort(2), Effort(1), Effort(1, by_bricks=True), Effort(1, by_bricks=True, roi=(8, 8, 8))]
    num_voxels = effort.WHOLE_BYTES // whole_bytes(1, 3) + 1
    assert next(iter(efforts(model, num_voxels, 3, allows_bricks=True))) == Effort(2, by_bricks=True)
    assert list(efforts(model, num_voxels, 3, allows_bricks=False)) == [Effort(2), Effort(1)]
    assert list(efforts(None, num_voxels, 3, allows_bricks=False)) == [Effort(2)]


def test_only_a_lack_of_memory_counts() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_out_of_memory(found.value)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**50)
    assert is_out_of_memory(of_numpy.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
