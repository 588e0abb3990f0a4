"""Exports of Heidelberg's OCT: written by eyepy, read as volumes with their eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.ingest.laterality import EyeConfig, eye_attributes
from medvit.phantoms import oct as tomogram
from medvit.readers import find, read
from medvit.records import Candidate, Item, Patient, Refusal

pytest.importorskip("eyepy", reason="the extra medvit[oct] is not installed")


def write_vol(path: Path, heights_mm: list[float] | None = None) -> np.ndarray:
    """A phantom of a left eye as .vol; its B-scans (frames, rows, columns), the first one the lowest."""
    import construct
    from eyepy.core.utils import to_vol_intensity
    from eyepy.io.he.vol_reader import vol_format

    between, deep, along = tomogram.SPACING_MM
    scans = tomogram.oct_volume(np.random.default_rng(0), "normal", side="left").pixels
    frames, rows, columns = scans.shape
    heights = heights_mm or [between * (frames - 1 - number) for number in range(frames)]
    day = "2020-01-01T00:00:00"
    lines = [
        {
            "bscan_hdr_size": 256,
            "start_x": 0.0,
            "end_x": along * (columns - 1),
            "start_y": y,
            "end_y": y,
            "num_seg": 0,
            "quality": 30.0,
            "shift": 0,
            "iv_transformation": [0.0] * 6,
            "layer_segmentations": np.zeros((0, columns), np.float32),
            "data": to_vol_intensity(scan),
        }
        for scan, y in zip(scans, heights, strict=True)
    ]
    head = {"version": "HSF-OCT-103", "size_x": columns, "size_y": rows, "n_bscans": frames, "bscan_hdr_size": 256}
    head |= {"scale_x": along, "scale_y": deep, "distance": between, "scan_pattern": 3, "scan_position": "OS"}
    head |= {"size_x_slo": 8, "size_y_slo": 8, "scale_x_slo": 0.75, "scale_y_slo": 0.75}
    head |= {"id": "1", "reference_id": "", "patient_id": "SECRET-9", "prog_id": ""}
    head |= {"dob": day, "visit_date": day, "exam_time": 0}
    time = "exam_time" / construct.Int64ul  # which eyepy cannot write, only read
    whole = construct.Struct(*(time if part.name == "exam_time" else part for part in vol_format.subcons))
    head |= dict.fromkeys(("grid_type", "grid_offset", "grid_type1", "grid_offset1"), 0)
    path.write_bytes(whole.build(head | {"localizer": np.zeros((8, 8), np.uint8), "bscans": lines}))
    return scans


def test_a_volume_comes_back_at_its_place(tmp_path: Path) -> None:
    scans = write_vol(tmp_path / "x.vol")
    (item,) = find([tmp_path / "x.vol"])
    assert isinstance(item, Item)
    assert (item.kind, item.modality, item.identity.patient) == ("volume", "OPT", "SECRET-9")
    image = read(item)
    assert image.affine is not None
    assert image.affine.orientation == "RAS"
    between, deep, along = tomogram.SPACING_MM
    assert image.affine.spacing_mm == pytest.approx((along, deep, between))
    shown = np.flip(image.pixels[0], axis=(0, 1)).transpose(2, 1, 0)
    # The format stores brightness as a float on another scale, so values are rounded twice.
    assert np.abs(shown.astype(int) - scans.astype(int)).max() <= 2


def test_the_header_says_which_eye(tmp_path: Path) -> None:
    write_vol(tmp_path / "x.vol")
    (item,) = find([tmp_path / "x.vol"])
    assert isinstance(item, Item)
    one = Candidate(item, ("x.vol",), Patient("p", True))
    assert eye_attributes(one, "OPT", EyeConfig()) == {"laterality": "left"}
    with pytest.raises(ValueError, match="its header names left, its path names right"):
        eye_attributes(Candidate(item, ("x_OD.vol",), Patient("p", True)), "OPT", EyeConfig())


def test_a_missing_bscan_is_refused(tmp_path: Path) -> None:
    heights = [-0.25 * (number + (number > 6)) for number in range(16)]
    write_vol(tmp_path / "x.vol", heights)
    (item,) = find([tmp_path / "x.vol"])
    assert isinstance(item, Item)
    with pytest.raises(ValueError, match=r"0\.250 to 0\.500 mm apart; expected 0\.250 mm each: are B-scans missing"):
        read(item)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    write_vol(tmp_path / "x.vol")
    content = (tmp_path / "x.vol").read_bytes()
    (tmp_path / "x.vol").write_bytes(content[:1000])
    (one,) = find([tmp_path / "x.vol"])
    assert isinstance(one, Refusal)
    assert "SECRET" not in one.reason


def test_a_header_that_promises_more_scans_than_the_file_holds_is_refused_before_they_are_read(tmp_path: Path) -> None:
    write_vol(tmp_path / "x.vol")
    content = (tmp_path / "x.vol").read_bytes()
    (tmp_path / "x.vol").write_bytes(content[:16] + (2**20).to_bytes(4, "little") + content[20:])
    (found,) = find([tmp_path / "x.vol"])
    assert isinstance(found, Refusal)
    assert "the header declares" in found.reason
