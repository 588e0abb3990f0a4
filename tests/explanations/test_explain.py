"""Maps on the grid of the image: outputs, slices of volumes, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image as Picture

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError
from medvit.explanations.drawing import map_figure, overlaid, planes_of, scale_of, write_map, write_overlay
from medvit.explanations.explain import ExplanationOptions, explain, on_native
from medvit.explanations.methods import method_of
from medvit.explanations.outputs import chosen_output, output_score
from medvit.explanations.page import ABOUT_CHECKS, GENERAL, explanations_document
from medvit.geometry import Affine
from medvit.inference.predictor import Predictor
from medvit.models.image import Model
from medvit.transforms.field_of_view import FieldSquare
from medvit.transforms.preprocess import Prepared, Preprocess
from medvit.types import Image, Prediction
from tests.explanations.conftest import SIDE, tiny

QUICK = ExplanationOptions.parse({"steps": 2, "window": 0.5, "check_steps": 2, "random_orders": 1})


def predictor(folder: Path, model: Model, **preprocess: Any) -> Predictor:
    chain = Preprocess.parse({"kind": "image", "channels": 1, **preprocess}).tree()
    made = Checkpoint(folder / "model", model.config.tree(), chain, model.state_dict()).save()
    return Predictor(Checkpoint.load(made.folder), "cpu")


def test_the_output_is_the_log_odds_of_the_class() -> None:
    model, pixels = tiny({"name": "linear"}), torch.randn(2, 1, SIDE, SIDE)
    output = chosen_output(model.config, Prediction(("a", "b", "c"), probabilities=np.array([0.1, 0.2, 0.7])))
    assert (output.index, output.name) == (2, "c")
    odds = output_score(model, pixels, output)
    torch.testing.assert_close(odds.sigmoid(), model(pixels).softmax(dim=1)[:, 2])
    with pytest.raises(ConfigError, match="target=d: the model does not predict it; give one of a, b, c"):
        chosen_output(model.config, Prediction(("a", "b", "c")), "d")


def test_a_map_of_a_resized_and_cropped_photograph_lies_on_the_photograph() -> None:
    """A crop of 20 pixels at row 4 and column 10, resized to 40 pixels: the bright quarter comes back in place."""
    values = torch.zeros(40, 40)
    values[:20, 20:] = 1.0
    image = Image(np.zeros((3, 30, 40), np.uint8), "image")
    found = on_native(values, image, Prepared(torch.zeros(3, 40, 40), crop=FieldSquare(4, 10, 20)))
    expected = np.zeros((30, 40))
    expected[4:14, 20:30] = 1.0
    assert np.abs(found - expected).mean() < 0.01
    assert (found[:, :10] == 0.0).all()


def test_maps_of_slices_are_stacked_in_the_order_of_the_volume(tmp_path: Path) -> None:
    """A model of axial slices; the map of a volume with one bright voxel column is about this column."""
    model = tiny({"name": "linear"}, slices={"planes": ["axial"]})
    volume = np.zeros((1, 20, 24, 3), np.float32)
    volume[0, 3:6, 17:20] = 100.0
    image = Image(volume, "volume", affine=Affine.from_spacing((1.0, 1.0, 3.0)))
    own = predictor(tmp_path, model, intensity={"method": "range"})
    found = explain(own, image, method_of("integrated_gradients", own.model), QUICK)
    assert found.values.shape == (20, 24, 3)
    places = np.argwhere(np.abs(found.values) > 0.3 * np.abs(found.values).max())
    assert np.abs(np.median(places[:, :2], axis=0) - (4, 18)).max() < 3


def test_value_and_checks_belong_to_the_prediction(tmp_path: Path) -> None:
    own = predictor(tmp_path, tiny({"name": "attention"}))
    image = Image(np.random.default_rng(0).normal(100, 20, (1, 30, 26)).astype(np.float32), "image")
    found = explain(own, image, method_of("auto", own.model), QUICK)
    assert found.values.shape == (30, 26)
    probabilities = found.prediction.probabilities
    assert probabilities is not None
    assert found.value == pytest.approx(float(probabilities.max()), abs=1e-2)  # the prediction may be in 16 bits
    assert -1.0 <= found.checks.correlation <= 1.0
    again = explain(own, image, method_of("auto", own.model), QUICK)
    np.testing.assert_array_equal(again.values, found.values)
    assert again.checks == found.checks


def test_a_map_of_a_volume_is_a_nifti_file_on_its_grid(tmp_path: Path) -> None:
    affine = Affine.from_spacing((1.0, 2.0, 3.0), origin_mm=(5.0, 6.0, 7.0))
    values = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    write_map(tmp_path, Image(np.zeros((1, 5, 6, 7), np.int16), "volume", affine=affine), values)
    written = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(written.get_fdata().astype(np.float32), values)
    np.testing.assert_allclose(written.affine, affine.matrix)


def test_an_overlay_has_the_pixels_of_the_image_and_shows_it_where_the_map_is_zero(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 12, 17), np.uint8)
    values = np.zeros((12, 17))
    values[3, 5], values[8, 2] = 2.0, -1.0
    write_overlay(tmp_path / "overlay.png", Image(pixels, "image"), values, is_signed=True)
    shown = np.moveaxis(np.asarray(Picture.open(tmp_path / "overlay.png")), -1, 0)
    changed = (shown != pixels).any(axis=0)
    assert set(zip(*np.nonzero(changed), strict=True)) == {(3, 5), (8, 2)}
    assert shown[0, 3, 5] > shown[2, 3, 5]  # red for evidence
    write_map(tmp_path, Image(pixels, "image"), values)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), values.astype(np.float32))


def test_the_scale_of_a_signed_map_is_symmetric() -> None:
    low, high = scale_of(np.array([-1.0, 0.0, 3.0]), is_signed=True)
    assert low == -high
    assert scale_of(np.zeros(4), is_signed=False) == (0.0, 1.0)


def test_planes_of_a_volume_cross_at_the_maximum_with_the_right_of_the_patient_on_the_left() -> None:
    values = np.zeros((6, 7, 8))
    values[5, 1, 6] = 1.0  # right (R+ is the patient's right), posterior, superior
    planes = planes_of(Image(np.zeros((1, 6, 7, 8), np.int16), "volume"), values)
    assert [plane.name for plane in planes] == ["axial", "coronal", "sagittal"]
    assert [tuple(np.argwhere(plane.values)[0]) for plane in planes] == [(5, 0), (1, 0), (1, 5)]
    picture = overlaid(planes[0], (0.0, 1.0), is_signed=False)
    assert picture.shape == (7, 6, 3)
    figure = map_figure(Image(np.zeros((1, 6, 7, 8), np.int16), "volume"), values, is_signed=False, label="map")
    assert len(figure.axes) == 7  # three planes, without and with the map, and the scale


def test_the_page_says_what_maps_do_not_show() -> None:
    method = method_of("auto", tiny({"name": "linear"}))
    page = explanations_document("title", {}, method, [], ABOUT_CHECKS)
    texts = [line for section in page.sections for block in section.blocks for line in getattr(block, "lines", [])]
    assert method.not_shown in texts
    assert set(GENERAL) <= set(texts)
