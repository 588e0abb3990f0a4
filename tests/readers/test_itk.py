from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medvit.errors import DataError
from medvit.readers import find, read
from medvit.readers.options import GeometryConfig
from medvit.records import Item


def volume() -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(4, 3, 2))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    return image


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_every_voxel_lies_where_itk_puts_it(tmp_path: Path, name: str):
    source = volume()
    sitk.WriteImage(source, str(tmp_path / name))
    (item,) = find(sorted(tmp_path.iterdir()))
    image = read(item)
    assert len(item.files) == (2 if name in ("a.mhd", "a.nhdr") else 1)
    assert image.affine.orientation == "RAS"
    assert image.pixels.dtype == np.int16
    for index in np.ndindex(2, 3, 4):
        ras = np.array(source.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]  # ITK uses LPS
        voxel = np.round(image.affine.inverse()(ras)).astype(int)
        assert image.pixels[(0, *voxel)] == source[index]


def test_voxels_without_a_header_are_refused(tmp_path: Path):
    (tmp_path / "a.raw").write_bytes(b"\1" * 24)
    (found,) = find([tmp_path / "a.raw"])
    assert found.code == "not_an_image"


def test_a_nrrd_that_does_not_tell_left_from_right_is_refused(tmp_path: Path):
    sitk.WriteImage(volume(), str(tmp_path / "a.nrrd"))
    header, _, voxels = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    lines = [line for line in header.split(b"\n") if not line.startswith(b"space")]
    (tmp_path / "a.nrrd").write_bytes(b"\n".join([*lines, b"spacings: 1 2 3"]) + b"\n\n" + voxels)
    (found,) = find([tmp_path / "a.nrrd"])
    assert found.code == "geometry"


def test_an_image_in_two_dimensions_has_its_pixel_size(tmp_path: Path):
    source = sitk.GetImageFromArray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    source.SetSpacing((0.25, 0.25))
    sitk.WriteImage(source, str(tmp_path / "a.mha"))
    (item,) = find([tmp_path / "a.mha"])
    image = read(item)
    assert (item.kind, image.pixels.shape, image.mpp) == ("image", (1, 2, 3), 250.0)


def test_a_label_map_may_be_of_another_format(tmp_path: Path):
    import nibabel as nib

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 3, 2), np.int16)), str(tmp_path / "a.mha"))
    labels = np.arange(24).reshape(2, 3, 4).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([-1.0, -1, 1, 1])), tmp_path / "a_seg.nii.gz")
    (item,) = find(sorted(tmp_path.iterdir()))
    assert isinstance(item, Item)
    assert np.array_equal(read(item).mask, labels[::-1, ::-1])


def written(folder: Path, name: str, *, is_compressed: bool = False) -> Path:
    sitk.WriteImage(volume(), str(folder / name), is_compressed)
    return next((file for file in sorted(folder.iterdir()) if file.suffix.endswith(("raw", "gz"))), folder / name)


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_voxels_of_another_number_than_promised_are_refused(tmp_path: Path, name: str, is_compressed: bool):
    voxels = written(tmp_path, name, is_compressed=is_compressed)
    (item,) = find(sorted(tmp_path.iterdir()))
    assert isinstance(item, Item)
    content = voxels.read_bytes()
    voxels.write_bytes(content[:-20])
    short = next(iter(find(sorted(tmp_path.iterdir()))))
    assert short.code == "unreadable"
    assert "cut short" in short.reason
    if not is_compressed:
        voxels.write_bytes(content + bytes(2))
        longer = next(iter(find(sorted(tmp_path.iterdir()))))
        assert "declares 48 bytes of voxels, the file contains 50" in longer.reason


@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nhdr", "a.nrrd"])
@pytest.mark.parametrize("place", ["../secret/site.key", "{folder}/secret/site.key", "~/site.key", "LIST", "link.raw"])
def test_no_header_names_a_file_outside_its_folder(tmp_path: Path, monkeypatch, name: str, place: str):
    source, secret = tmp_path / "source", tmp_path / "secret"
    source.mkdir()
    secret.mkdir()
    (secret / "site.key").write_bytes(bytes(48))
    (source / "link.raw").symlink_to(secret / "site.key")
    monkeypatch.setenv("HOME", str(secret))
    field = "data file: " if name.endswith(("nrrd", "nhdr")) else "ElementDataFile = "
    original = "a.nhdr" if name.endswith(("nrrd", "nhdr")) else "a.mhd"
    sitk.WriteImage(volume(), str(source / original))
    header = (source / original).read_text(encoding="latin-1").replace(f"{field}a.raw", "").rstrip()
    (source / original).unlink()
    named = "LIST\n../secret/site.key" if place == "LIST" else place.format(folder=tmp_path)
    (source / name).write_text(f"{header}\n{field}{named}\n", encoding="latin-1")
    (found,) = find([source / name])
    assert found.code in ("unsupported", "unreadable")
    assert "data file" in found.reason
    with pytest.raises(DataError):
        read(Item("itk", (source / name,), "volume"))


def nrrd(path: Path, space: str, **fields: str) -> Path:
    lines = ["NRRD0004", "type: int16", "dimension: 3", f"space: {space}", "sizes: 2 3 4", "endian: little"]
    known = {"space directions": "(1,0,0) (0,2,0) (0,0,3)", "space origin": "(10,20,30)", "encoding": "raw"} | fields
    lines += [f"{name}: {value}" for name, value in known.items() if value]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + np.arange(24, dtype="<i2").tobytes())
    return path


SIGNS = {
    "right-anterior-superior": (1, 1),
    "RAS": (1, 1),
    "left-anterior-superior": (-1, 1),
    "LAS": (-1, 1),
    "left-posterior-superior": (-1, -1),
    "lps": (-1, -1),
}


@pytest.mark.parametrize("space", SIGNS)
def test_a_nrrd_lies_where_its_space_says(tmp_path: Path, space: str):
    (item,) = find([nrrd(tmp_path / "a.nrrd", space)])
    image = read(item)
    world = np.array([10.0, 20.0, 30.0]) * [*SIGNS[space], 1]  # of the first voxel, whose value is 0
    voxel = np.round(image.affine.inverse()(world)).astype(int)
    assert image.pixels[(0, *voxel)] == 0
    assert np.allclose(image.affine(voxel), world)


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed"])
def test_a_space_without_sides_is_refused_until_axes_are_assumed(tmp_path: Path, space: str):
    path = nrrd(tmp_path / "a.nrrd", space)
    (refused,) = find([path])
    assert refused.code == "geometry"
    assert "geometry.assume=" in refused.reason
    for axes, sign in (("LPS", -1), ("RAS", 1)):
        (item,) = find([path], geometry=GeometryConfig(assume=axes))
        assert item.part == f"axes {axes}, as given"
        image = read(item)
        corner = image.affine.inverse()(np.array([10.0 * sign, 20.0 * sign, 30.0]))
        assert image.pixels[(0, *np.round(corner).astype(int))] == 0


def test_a_nrrd_without_directions_is_refused(tmp_path: Path):
    path = nrrd(tmp_path / "a.nrrd", "RAS", **{"space directions": "", "space origin": "", "spacings": "1 2 3"})
    assert "space directions" in next(iter(find([path]))).reason


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("m", 1000), ("cm", 10), ("um", 0.001)])
def test_units_of_space_are_honored(tmp_path: Path, unit: str, scale: float):
    (item,) = find([nrrd(tmp_path / "a.nrrd", "RAS", **{"space units": f'"{unit}" "{unit}" "{unit}"'})])
    assert read(item).affine.spacing_mm == pytest.approx((scale, 2 * scale, 3 * scale))
    (refused,) = find([nrrd(tmp_path / "a.nrrd", "RAS", **{"space units": '"mm" "mm" "parsec"'})])
    assert refused.code == "geometry"


def meta(path: Path, *lines: str) -> Path:
    header = ["ObjectType = Image", "NDims = 3", "DimSize = 2 3 4", "ElementSpacing = 1 2 3", *lines]
    header += ["ElementType = MET_SHORT", "ElementByteOrderMSB = False", "ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(header).encode() + np.arange(24, dtype="<i2").tobytes())
    return path


@pytest.mark.parametrize(
    ("lines", "is_taken"),
    [
        ((), False),
        (("AnatomicalOrientation = ???",), False),
        (("AnatomicalOrientation = RAI",), True),
        (("AnatomicalOrientation = LPI",), False),
        (("TransformMatrix = 1 0 0 0 1 0 0 0 1",), True),
        (("TransformMatrix = 1 0 0 0 1 0 0 0 1", "AnatomicalOrientation = RAI"), True),
        (("TransformMatrix = 1 0 0 0 1 0 0 0 1", "AnatomicalOrientation = LPI"), False),
        (("TransformMatrix = -1 0 0 0 -1 0 0 0 1", "AnatomicalOrientation = LPI"), True),
        (("TransformMatrix = 0 1 0 0 0 1 1 0 0", "AnatomicalOrientation = AIR"), True),
        (("TransformMatrix = 0 1 0 0 0 1 1 0 0", "AnatomicalOrientation = IRA"), False),
    ],
)
def test_a_metaimage_is_taken_where_it_names_its_axes_in_one_way(tmp_path: Path, lines: tuple[str, ...], is_taken):
    (found,) = find([meta(tmp_path / "a.mha", *lines)])
    assert isinstance(found, Item) == is_taken
    if not is_taken:
        assert found.code == "geometry"
