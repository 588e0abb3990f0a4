"""The project's cards of real data sets: one for each, with the same figures as an ingest."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvit.cards.prose import PROSE_FOLDER, read_prose
from medvit.dataset.manifest import Manifest
from medvit.ingest.labels import LABEL, from_folders
from medvit.ingest.scan import scan
from pipelines.ingest import ingest


@dataclass(frozen=True)
class Source:
    """Location of the images that a card counts, and the modality of files that do not state theirs.

    `unread` are the modalities of images whose headers are sound and whose pixels are refused, each of a patient.
    """

    path: str
    modality: str = ""
    unread: tuple[str, ...] = ()
    has_slides: bool = False
    """Whether the card counts slides that are large enough for tiles."""


SOURCES = {
    "adrenalmnist3d": Source("medmnist/adrenalmnist3d.npz", "CT"),
    "bbbc038-nuclei": Source("bbbc038-nuclei", "SM"),
    "brain-mr-dicom-studies": Source("brain-mr-dicom-studies"),
    "brain-tumor-mri-2d": Source("brain-tumor-mri-2d", "MR"),
    "busi-ultrasound": Source("busi-ultrasound", "US"),
    "dcm_qa_ct": Source("dcm_qa_ct"),
    "dcm_qa_nih": Source("dcm_qa_nih/In"),
    "dcm_qa_ts": Source("dcm_qa_ts/In"),
    "dicom-odd": Source("dicom-odd", unread=("CT",)),
    "drive": Source("drive", "OP"),
    "highdicom-sm-seg-sr": Source("highdicom-sm-seg-sr"),
    "msd-hippocampus": Source("msd-hippocampus", "MR"),
    "nema-wg04": Source("nema-wg04"),
    "peers-odd": Source("peers-odd"),
    "pneumoniamnist": Source("medmnist/pneumoniamnist-train-val.npz", "DX"),
    "retinamnist": Source("medmnist/retinamnist.npz", "OP"),
    "torchio-ct-series": Source("torchio-ct-series"),
    "totalseg-ct": Source("totalseg-ct/ct_dicom"),
    "wsi": Source("wsi", "SM", has_slides=True),
}
WHOLE = ("torchio-ct-series", "dcm_qa_ts", "wsi", "totalseg-ct")
"""Small enough to be ingested whole, pixels and all."""


def test_every_data_set_that_is_used_has_a_card(shared_data: Path) -> None:
    folders = {path.name for path in shared_data.iterdir() if path.is_dir()}
    assert {Path(source.path).parts[0] for source in SOURCES.values()} == folders
    assert {path.stem for path in PROSE_FOLDER.glob("*.md")} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_the_figures_of_a_card_are_those_of_what_ingest_finds(shared_data: Path, name: str) -> None:
    source, head = SOURCES[name], read_prose(PROSE_FOLDER / f"{name}.md").head
    images = [
        one for one in scan(shared_data / source.path).candidates if source.has_slides or one.item.kind != "slide"
    ]
    counts = Counter(one.item.modality or source.modality or "unknown" for one in images)
    assert dict(counts - Counter(source.unread)) == head.images
    assert len({one.patient.id for one in images}) - len(source.unread) == head.patients
    if head.classes:
        named = from_folders(images, "folder" if source.path == name else "off")
        assert Counter(one.labels[LABEL] for one in named) == head.classes


@pytest.mark.parametrize("name", WHOLE)
def test_a_manifest_agrees_with_the_card_or_the_card_of_the_dataset_tells(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    options: dict[str, Any] = {"taking": {"burned_in": "keep"}, "key": tmp_path / "key", "tracking": {"enabled": False}}
    where = {"source": shared_data / SOURCES[name].path, "dataset": tmp_path / "d"}
    ingest(name=name, scanning={"modality": SOURCES[name].modality}, **where, **options)
    head = read_prose(PROSE_FOLDER / f"{name}.md").head
    assert Counter(row.modality for row in Manifest.read(tmp_path / "d")) == head.images
    assert "the project's card states" not in (tmp_path / "d" / "card.md").read_text(encoding="utf-8")


def test_a_card_that_is_wrong_is_told_in_the_card_of_the_dataset(shared_data: Path, tmp_path: Path) -> None:
    wrong = (PROSE_FOLDER / "torchio-ct-series.md").read_text(encoding="utf-8").replace("CT: 1", "CT: 2")
    (tmp_path / "wrong.md").write_text(wrong.replace("patients: 1", "patients: 3"), encoding="utf-8")
    options: dict[str, Any] = {
        "key": tmp_path / "key",
        "tracking": {"enabled": False},
        "facts": {"card": tmp_path / "wrong.md"},
    }
    ingest(source=shared_data / "torchio-ct-series", dataset=tmp_path / "d", name="torchio-ct-series", **options)
    card = (tmp_path / "d" / "card.md").read_text(encoding="utf-8")
    assert "counts: the project's card states {'CT': 2}, this dataset has {'CT': 1}" in card
    assert "patients: the project's card states 3, this dataset has 1" in card


def test_the_known_faults_that_cards_count_are_there(shared_data: Path) -> None:
    """Equal files of brain-tumor-mri-2d, and the picture of busi-ultrasound with two labels."""
    groups: dict[str, list[Path]] = {}
    for path in shared_data.glob("brain-tumor-mri-2d/T*/*/*.jpg"):
        groups.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), []).append(path)
    copies = [paths for paths in groups.values() if len(paths) > 1]
    crossing = [paths for paths in copies if len({path.parts[-3] for path in paths}) > 1]
    text = read_prose(PROSE_FOLDER / "brain-tumor-mri-2d.md").text
    assert text.startswith("Slices of brain MR")
    assert f"- {len(copies)} groups of files have the same bytes; {len(crossing)} of them are in both" in text
    one = shared_data / "busi-ultrasound" / "benign" / "benign (433).png"
    other = shared_data / "busi-ultrasound" / "malignant" / "malignant (145).png"
    assert one.read_bytes() == other.read_bytes()


def test_the_vessels_and_the_field_of_drive_fill_the_share_that_its_card_says(shared_data: Path) -> None:
    shares = {
        name: np.mean([np.mean(np.asarray(Image.open(path)) > 0) for path in shared_data.glob(f"drive/*/{name}/*.gif")])
        for name in ("1st_manual", "mask")
    }
    text = read_prose(PROSE_FOLDER / "drive.md").text
    assert f"Vessels fill about {shares['1st_manual']:.0%} of the frame".replace("%", " %") in text
    assert "the disc fills two thirds of the frame" in text
    assert shares["mask"] == pytest.approx(2 / 3, abs=0.03)
