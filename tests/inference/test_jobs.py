"""A slide to predict is cut into tiles as ingest cut those that the model was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.inference.jobs import tiles_as_trained
from medvit.models.slide import TileSpec
from medvit.phantoms import write_slides
from medvit.wsi.slide import Slide, open_slide
from medvit.wsi.tiles import PEN
from medvit.wsi.tiling import TilesConfig, cut

OPTIONS = {"size": 64, "mpp": 1.0, "min_tissue": 0.5}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """A slide with marker ink on a few tiles."""
    return open_slide((write_slides(tmp_path_factory.mktemp("slides"), 5)[-1],))


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_tiles_are_those_of_ingest_with_the_options_the_model_was_trained_with(slide: Slide, overlap: float) -> None:
    options = {**OPTIONS, "overlap": overlap}
    found, expected = tiles_as_trained(TileSpec.parse(options))(slide), cut(slide, TilesConfig.parse(options)).grid
    assert len(found) > 1
    np.testing.assert_array_equal(found.xy, expected.xy)
    assert (found.size, found.mpp) == (expected.size, expected.mpp)


def test_tiles_with_a_flag_that_training_skipped_are_skipped(slide: Slide) -> None:
    every = tiles_as_trained(TileSpec.parse(OPTIONS))(slide)
    found = tiles_as_trained(TileSpec.parse({**OPTIONS, "skip": ["pen"]}))(slide)
    assert 0 < int(every.has(PEN).sum()) < len(every)
    np.testing.assert_array_equal(found.xy, every.xy[~every.has(PEN)])
