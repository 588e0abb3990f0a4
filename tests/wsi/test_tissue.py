"""Tissue is distinguished from glass, ink, bubbles and fading, on generated pictures and on real labeled tiles."""

from pathlib import Path

import numpy as np
import pytest
from einops import reduce
from PIL import Image
from scipy import ndimage

from medvit.errors import DataError, UnsupportedError
from medvit.phantoms.slide import COARSE, MPP
from medvit.phantoms.slide import slide as phantom
from medvit.wsi.tissue import WORKING_MPP, find_tissue, require_tissue

GLASS = 244.0
EOSIN_AND_HEMATOXYLIN = np.array([0.30, 0.55, 0.25])
"""Optical density of red, green and blue."""
INKS = {"green": [0.75, 0.15, 0.35], "blue": [0.9, 0.45, 0.1], "red": [0.05, 0.85, 0.8]}
TRUTH = {
    "almost-white-1": False,
    "almost-white-2": False,
    "high-nuclei-score-level2": True,
    "low-nuclei-score-level1": True,
    "medium-nuclei-score-level2": True,
    "no-tissue": False,
    "no-tissue-green-pen": False,
    "no-tissue-line": False,
    "no-tissue-red-pen": False,
    "no-tissue2": False,
    "tissue-level0-4302-10273-4814-10785": True,
    "tissue-level0-7352-11762-7864-12274": True,
}
LEVEL_MPP = {"level0": 0.5, "level1": 2.0, "level2": 8.0}
MIN_TISSUE = 0.1


def glass(side: int = 300) -> np.ndarray:
    return np.zeros((3, side, side))


def disk(side: int = 300, *, radius: float = 80, center: tuple[float, float] = (150, 150)) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def with_tissue(density: np.ndarray, where: np.ndarray, strength: float = 1.0) -> np.ndarray:
    texture = np.random.default_rng(0).uniform(0.5, 1.5, where.shape)
    return density + strength * EOSIN_AND_HEMATOXYLIN[:, None, None] * where * texture


def shot(density: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 1.0, density.shape)
    return np.clip(GLASS * 10**-density + noise, 0, 255).astype(np.uint8)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_tissue_is_found_even_when_its_stain_has_faded(strength: float):
    found = find_tissue(shot(with_tissue(glass(), disk(), strength)), WORKING_MPP)
    assert overlap(found.tissue, disk()) > 0.9
    assert not found.ink.any()


def test_blank_glass_holds_nothing_and_is_refused():
    pixels = shot(glass())
    found = find_tissue(pixels, WORKING_MPP)
    assert not found.tissue.any()
    for blank in (pixels, np.full((3, 64, 64), 243, np.uint8)):
        with pytest.raises(DataError, match="no tissue was found on the slide, only blank glass"):
            require_tissue(found, blank)


def test_a_gray_slide_is_refused_as_gray_and_not_as_blank_glass():
    pixels = np.broadcast_to(shot(with_tissue(glass(), disk()))[1], (3, 300, 300))
    with pytest.raises(UnsupportedError, match="the slide is gray, and tissue is found by its color"):
        require_tissue(find_tissue(pixels, WORKING_MPP), pixels)


@pytest.mark.parametrize("color", INKS)
def test_ink_is_told_from_tissue(color: str):
    stroke = ndimage.gaussian_filter(disk(radius=50, center=(60, 60)).astype(float), 4.0)
    tissue = disk(radius=60, center=(210, 210))
    density = with_tissue(glass(), tissue) + np.array(INKS[color])[:, None, None] * stroke
    found = find_tissue(shot(density), WORKING_MPP)
    assert overlap(found.tissue, tissue) > 0.85
    assert overlap(found.ink, stroke > 0.2) > 0.7
    assert not (found.tissue & found.ink).any()


def test_the_thin_rim_of_a_stroke_is_no_tissue():
    for seed in range(2):
        drawn = phantom(np.random.default_rng(seed), "tumor", has_ink=True)
        pixels = (
            reduce(drawn.pixels.astype(float), "(h f) (w g) c -> c h w", "mean", f=COARSE, g=COARSE)
            .round()
            .astype(np.uint8)
        )
        found, truth = find_tissue(pixels, COARSE * MPP), drawn.labels > 0
        assert (found.tissue & ~truth).sum() < 0.06 * truth.sum()
        assert (truth & ~found.tissue & ~found.ink).sum() < 0.01 * truth.sum()


def test_a_slide_of_ink_alone_is_refused_as_such():
    stroke = ndimage.gaussian_filter(disk().astype(float), 4.0)
    pixels = shot(np.array(INKS["green"])[:, None, None] * stroke + glass())
    with pytest.raises(DataError, match="no tissue was found on the slide, only ink"):
        require_tissue(find_tissue(pixels, WORKING_MPP), pixels)


def test_bubbles_and_dust_are_no_tissue():
    rim = disk(radius=90) & ~disk(radius=86)
    dust = np.random.default_rng(2).uniform(size=(300, 300)) > 0.999
    gray = 0.05 * disk(radius=86) + 0.8 * rim + 0.6 * dust
    assert find_tissue(shot(glass() + gray), WORKING_MPP).tissue.mean() < 0.005


def test_a_tinted_glass_changes_nothing():
    tint = np.array([0.0, 0.02, 0.03])[:, None, None]
    found = find_tissue(shot(with_tissue(glass() + tint, disk())), WORKING_MPP)
    assert overlap(found.tissue, disk()) > 0.9


def judged(folder: Path, name: str) -> float:
    """The share of tissue of a labeled tile, at the scale in its name; pen and glass at that of level 1."""
    mpp = next((mpp for level, mpp in LEVEL_MPP.items() if level in name), LEVEL_MPP["level1"])
    side = max(16, round(512 * mpp / WORKING_MPP))
    picture = Image.open(folder / f"{name}.png").convert("RGB").resize((side, side), Image.Resampling.BOX)
    return float(find_tissue(np.asarray(picture).transpose(2, 0, 1), WORKING_MPP).tissue.mean())


def test_all_twelve_labeled_tiles_are_judged_right(shared_data: Path):
    folder = shared_data / "wsi" / "tiles"
    found = {name: judged(folder, name) >= MIN_TISSUE for name in TRUTH}
    table = {(truth, found[name]): 0 for name, truth in TRUTH.items()}
    for name, truth in TRUTH.items():
        table[truth, found[name]] += 1
    assert table == {(True, True): 5, (False, False): 7}, found
