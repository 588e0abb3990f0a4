"""Card of a dataset: correct figures, preserved prose, listed gaps."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.cards import write_card
from medvit.cards.croissant import CONFORMS_TO
from medvit.cards.model import write_model_card
from medvit.cards.prose import PROSE_FOLDER, CardHead, Prose, find_prose, fitting, read_prose
from medvit.dataset import quarantine
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.dataset.store import Store
from medvit.errors import ConfigError
from medvit.records import Row, Split
from tests.leakage.test_leakage import row

SPLITS: tuple[Split, ...] = ("train", "train", "train", "val", "test", "test")
ENTRIES = (
    Quarantined("f-1", "unreadable", "it is cut | short", 1),
    Quarantined("f-2", "unreadable", "it is cut | short", 2),
    Quarantined("f-3", "not_an_image", "a text", 1),
)
Make = Callable[..., Manifest]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A written dataset of six volumes whose voxels are all -1000 + their number, with label maps half of class 1."""

    def make(facts: Facts | None = None, modality: str = "CT") -> Manifest:
        store = Store(tmp_path / "images")
        mask = store.put(np.repeat(np.array([0, 1], np.uint8), 32).reshape(4, 4, 4))
        rows = [
            Row(
                image_id=f"i-{number}",
                patient_id=f"p-{number // 2}",
                study_id=f"s-{number}",
                series_id=f"e-{number}",
                modality=modality,
                kind="volume",
                dataset="toy",
                split=split,
                shape=(1, 4, 4, 4),
                dtype="int16",
                sha256=store.put(np.full((1, 4, 4, 4), 24 + number, np.int16)),
                labels={"label": "benign" if number % 2 else "malignant"},
                mask=mask,
                spacing_mm=(1.0, 1.0, 2.5),
                intercept=-1024.0,
                unit="HU",
            )
            for number, split in enumerate(SPLITS)
        ]
        classes = {"label": ("benign", "malignant")}
        known = facts or Facts("toy", classes=classes, mask_classes=("background", "organ"))
        manifest = Manifest(tuple(rows), known, tmp_path)
        manifest.write()
        quarantine.write(ENTRIES, tmp_path)
        return manifest

    return make


def card_of(manifest: Manifest, **options: object) -> str:
    write_card(manifest, ENTRIES, **options)  # type: ignore[arg-type]
    return (manifest.folder / "card.md").read_text(encoding="utf-8")


def test_the_front_matter_is_true_and_reads_back(make: Make) -> None:
    manifest = make()
    card_of(manifest)
    head = read_prose(manifest.folder / "card.md").head
    assert head == CardHead(name="toy", images={"CT": 6}, patients=3, hash=manifest.hash)


def test_voxels_of_a_class_are_those_of_label_maps_in_which_it_is_annotated(make: Make) -> None:
    manifest = make(Facts("toy", mask_classes=("background", "organ", "lesion")))
    partly = {0: ("organ",), 1: ("lesion",)}
    empty = manifest.store.put(np.zeros((4, 4, 4), np.uint8))
    rows = [replace(one, annotated=partly.get(number)) for number, one in enumerate(manifest)]
    rows[1] = replace(rows[1], mask=empty)
    for shown, expected in ((rows, ["50.000%", "50.000%", "0.000%"]), (rows[:2], ["unknown", "50.000%", "0.000%"])):
        manifest = replace(manifest, rows=tuple(shown))
        text = card_of(manifest)
        found = re.findall(r"\| \d \| (?:background|organ|lesion) \| (\S+) \|", text)
        assert found == expected


@pytest.mark.parametrize(
    "line",
    [
        "| patients | 3 | 2 | 1 | 1 |",
        "| volumes, CT | 6 | 3 | 1 | 2 |",
        "| benign | 3 | 1 | 1 | 1 |",
        "| malignant | 3 | 2 | 0 | 1 |",
        "| 1 | organ | 50.000% |",
        "| spacing along K, mm | 2.5 | 2.5 | 2.5 |",
        "| CT (HU) | 6 | -997.5 [-1000, -995] | -997.5 [-1000, -995] | -997.5 [-1000, -995] |",
        "| unreadable | it is cut \\| short | 2 | 3 |",
        "| not_an_image | a text | 1 | 1 |",
    ],
)
def test_the_figures_are_those_of_the_dataset(make: Make, line: str) -> None:
    assert line in card_of(make()).splitlines()


def test_the_card_tells_assumed_patients_wherever_it_counts_patients(make: Make) -> None:
    manifest = make()
    doubtful = replace(manifest, rows=tuple(replace(row, patient_is_assumed=row.split != "test") for row in manifest))
    card = card_of(doubtful)
    head = read_prose(manifest.folder / "card.md").head
    assert (head.patients, head.assumed_patients) == (3, 2)
    assert "| patients | 3 (2 assumed) | 2 (all assumed) | 1 (all assumed) | 1 |" in card.splitlines()
    assert "- patients: 2 of 3 patients are assumed: without an identifier" in card
    named = replace(manifest, rows=tuple(replace(row, patient_is_assumed=False) for row in manifest))
    assert "assumed:" not in card_of(named).split("---\n", 2)[2]


def test_what_is_missing_is_said_to_be_missing(make: Make) -> None:
    card = card_of(make())
    for key in ("license", "source", "description"):
        assert f"- {key}: missing" in card
    complete = card_of(make(Facts("toy", license="CC0", source="a paper", description="a toy")))
    assert "missing;" not in complete


def test_an_unknown_modality_is_said_to_be_unknown(make: Make) -> None:
    card = card_of(make(modality=""))
    assert "modality: missing for 6 images; give scanning.modality=..." in card


def test_equal_pixels_in_two_splits_are_told(make: Make) -> None:
    manifest = make()
    first, *others = manifest.rows
    twins = replace(manifest, rows=(first, *(replace(row, sha256=first.sha256) for row in others)))
    assert "images with identical pixels in more than one split: 1" in card_of(twins)


@pytest.mark.usefixtures("whole_figures")
def test_the_pictures_are_there(make: Make) -> None:
    manifest = make()
    pictures = re.findall(r"!\[[^\]]+\]\((card/[\w-]+\.png)\)", card_of(manifest))
    names = {Path(picture).stem for picture in pictures}
    assert {name for name in names if not name.startswith("montage")} == {"classes", "sizes", "spacings", "intensities"}
    assert all((manifest.folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.usefixtures("whole_figures")
def test_equal_datasets_get_equal_cards(make: Make) -> None:
    manifest = make()
    files = [manifest.folder / name for name in ("card.md", "card.json", "card/classes.png", "card/intensities.png")]
    card_of(manifest)
    before = [file.read_bytes() for file in files]
    card_of(manifest)
    assert [file.read_bytes() for file in files] == before


def test_prose_is_kept_and_its_figures_are_checked(make: Make, tmp_path: Path) -> None:
    prose = tmp_path / "prose.md"
    prose.write_text("---\nname: toy\nimages: {CT: 7}\n---\nA toy.\n\n## Good to know\n\n- It is small.\n")
    card = card_of(make(), prose=read_prose(prose))
    assert "\nA toy.\n\n## Good to know\n\n- It is small.\n\n## Contents" in card
    assert "counts: the project's card states {'CT': 7}, this dataset has {'CT': 6}" in card


def test_a_dataset_without_finite_voxels_has_a_card(make: Make) -> None:
    manifest = make()
    address = manifest.store.put(np.full((1, 4, 4, 4), np.nan, np.float32))
    rows = tuple(replace(row, sha256=address, dtype="float32") for row in manifest)
    assert "## Contents" in card_of(replace(manifest, rows=rows))


@pytest.mark.parametrize(
    "text", ["no front matter", "---\nname: x\nlicense: CC0\n---\n", "---\n- a list\n---\n", "---\n"]
)
def test_prose_without_proper_front_matter_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.md").write_text(text)
    with pytest.raises(ConfigError, match="front matter"):
        read_prose(tmp_path / "x.md")


def test_croissant_describes_the_manifest(make: Make) -> None:
    manifest = make()
    card_of(manifest)
    card = json.loads((manifest.folder / "card.json").read_text(encoding="utf-8"))
    assert card["conformsTo"] == CONFORMS_TO
    for file in card["distribution"]:
        content = (manifest.folder / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    fields = card["recordSet"][0]["field"]
    columns = [field["source"]["extract"]["column"] for field in fields]
    assert columns == [name for name in Row.__dataclass_fields__ if name not in ("labels", "attributes")]
    identifiers = Counter([field["@id"] for field in fields] + [file["@id"] for file in card["distribution"]])
    assert set(identifiers.values()) == {1}


@pytest.mark.parametrize("path", sorted(PROSE_FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_the_cards_of_the_project_are_complete(path: Path) -> None:
    head = read_prose(path).head
    assert head.name == path.stem
    assert head.license
    assert head.source
    assert head.images
    assert find_prose(None, head.name) == read_prose(path)


def test_prose_on_a_data_set_is_taken_of_its_images_and_of_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prose = Prose(CardHead(name="drive", images={"OP": 20}), "Photographs.")
    one = row(tmp_path, 0, np.zeros((1, 8, 8), np.uint8), modality="OP")
    assert fitting(prose, [one] * 20) == fitting(prose, [one] * 19) == prose
    assert fitting(prose, [replace(one, modality="")] * 20) == prose
    for number in (1, 18, 21):
        assert fitting(prose, [one] * number) is None
        assert fitting(prose, [replace(one, modality="")] * number) is None
    assert fitting(prose, [replace(one, modality="CT")] * 20) is None
    assert "the 1 images do not match the stored card data_cards/drive.md, which describes 20 (OP 20)" in caplog.text


@pytest.mark.parametrize(
    ("name", "files", "pattern"),
    [("msd-hippocampus", 200, "msd-hippocampus/images/*.nii.gz")],
)
def test_the_counts_of_the_cards_of_the_project_are_those_of_the_files(
    shared_data: Path, name: str, files: int, pattern: str
) -> None:
    assert len(list(shared_data.glob(pattern))) == files
    assert sum(read_prose(PROSE_FOLDER / f"{name}.md").head.images.values()) == files


@pytest.mark.parametrize("name", ["retinamnist", "adrenalmnist3d"])
def test_the_counts_of_the_cards_of_medmnist_are_those_of_the_arrays(shared_data: Path, name: str) -> None:
    with np.load(shared_data / "medmnist" / f"{name}.npz") as arrays:
        counts = {split: len(arrays[f"{split}_labels"]) for split in ("train", "val", "test")}
    prose = read_prose(PROSE_FOLDER / f"{name}.md")
    assert sum(prose.head.images.values()) == sum(counts.values())
    assert f"{counts['train']} to train, {counts['val']} to validate, {counts['test']} to test" in prose.text


def test_the_page_states_what_the_text_states(make: Make) -> None:
    manifest = make(Facts("toy", license="CC0", classes={"label": ("benign", "malignant")}))
    prose = Prose(CardHead(name="toy"), "Some *words*.\n\n## Good to know\n\n- It is small.")
    text = card_of(manifest, prose=prose).split("---\n", 2)[2]
    page = (manifest.folder / "card.html").read_text(encoding="utf-8")
    shown = parsed(page)
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert shown["h2"] == [one for one in headings if one != "Good to know"]
    assert "Good to know" in shown["h3"]
    cells = [cell.strip() for line in re.findall(r"^\| (.*) \|$", text, re.M) for cell in line.split(" | ")]
    numbers = [cell for cell in cells if re.fullmatch(r"[\d.]+%?", cell)]
    assert len(numbers) > 30
    assert not Counter(numbers) - Counter(shown["td"] + shown["th"])
    pictures = re.findall(r"!\[([^\]]+)\]", text)
    assert Counter(pictures) == Counter(re.findall(r'<img alt="([^"]*)"', page))


def test_the_page_loads_nothing_and_is_no_markup_of_others(make: Make) -> None:
    names = (HOSTILE, "<script>alert(1)</script>")
    facts = Facts("toy", description=HOSTILE, classes={HOSTILE: names}, mask_classes=("background", HOSTILE))
    text = "![a](http://b/c.png) [d](http://e) <http://f> <script src='http://g'></script>\n\n<img src='http://h'>"
    card_of(make(facts), prose=Prose(CardHead(name="toy"), text))
    page = ((make(facts).folder) / "card.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|iframe|object|base)\b", page)
    assert all(one.startswith("data:image/png;base64,") for one in re.findall(r'<img[^>]* src="([^"]*)', page))
    assert all(one.startswith("#") for one in re.findall(r'href="([^"]*)', page))
    assert "url(" not in page.partition("</style>")[0]
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in page


def parsed(page: str) -> dict[str, list[str]]:
    """Return the texts of elements by tag."""
    found: dict[str, list[str]] = {"h2": [], "h3": [], "td": [], "th": []}
    for tag, texts in found.items():
        each = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.S)
        texts += [html.unescape(re.sub("<[^>]+>", "", one)).strip() for one in each]
    return found


HOSTILE = "<img src=x>[y](http://z)|`"


def test_classes_are_no_markup_in_the_card_of_a_dataset(make: Make) -> None:
    manifest = make(Facts("toy", classes={HOSTILE: (HOSTILE,)}, mask_classes=("background", HOSTILE)))
    card = card_of(manifest)
    assert r"&lt;img src=x&gt;\[y\]" in card
    assert "<img" not in card.replace(f"`` {HOSTILE} ``", "")
    assert not re.search(r"(?<!\\)\]\(http", card.replace(f"`` {HOSTILE} ``", ""))


def test_classes_are_no_markup_in_the_card_of_a_model(tmp_path: Path) -> None:
    model = {"kind": "classification", "backbone": {}, "classes": [HOSTILE, "kidney_tumor"]}
    write_model_card(Checkpoint(tmp_path, model, {}, {}), figures={}, training={"images": HOSTILE})
    text = (tmp_path / "model_card.md").read_text(encoding="utf-8")
    assert "<img" not in text
    assert not re.search(r"(?<!\\)\]\(http", text)
    assert ", kidney_tumor" in text
