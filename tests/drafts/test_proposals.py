"""Drafts fit the survey, are valid unchanged, and remain valid with any option that they offer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvit.config import Tree
from medvit.drafts.draft import Draft
from medvit.drafts.images import Machine, Project
from medvit.drafts.proposals import proposals
from medvit.ingest.splits import SplitConfig, split_of
from medvit.ingest.survey.found import ClassFolders, PatientGuess, RefusalReason, Survey
from medvit.ingest.survey.images import ImageGroup
from medvit.ingest.survey.tables import FoundTable
from medvit.records import Candidate, Extent, Identity, Item, Kind, Patient, Split
from pipelines.__main__ import find

SECRET = "Lindqvist"


def images(
    kind: Kind = "image",
    modality: str = "",
    *,
    labels: Sequence[str] = (),
    num: int = 40,
    has_masks: bool = False,
    reader: str = "dicom",
    split: Split | None = None,
) -> list[Candidate]:
    mask = Path(f"/{SECRET}/labels/x") if has_masks else None
    found = []
    for n in range(num):
        path = f"{SECRET}/{n}"
        item = Item(reader, (Path("/") / path,), kind, modality, identity=Identity(SECRET, f"{SECRET}.{n}"), mask=mask)
        answers = {"label": labels[n % len(labels)]} if labels else {}
        found.append(Candidate(item, (path,), Patient(f"{SECRET}-{n}", is_known_elsewhere=True), answers, split))
    return found


def surveyed(candidates: Sequence[Candidate], *extents: Extent, **also: Any) -> Survey:
    members: dict[tuple[Kind, str], list[Candidate]] = defaultdict(list)
    for one in candidates:
        members[one.item.kind, one.item.modality].append(one)
    found = tuple(ImageGroup(*key, tuple(those), extents) for key, those in members.items())
    return replace(Survey(40, tuple(candidates), found, None, (), None, (), (), {}, None), **also)


def drafts(survey: Survey, *, has_gpu: bool = False, modality: str = "") -> dict[str, Draft]:
    project = Project(f"/{SECRET}/source", Path("project"), modality, Machine(has_gpu, 8), num_processes=4)
    return {draft.file_name: draft for draft in proposals(survey, project)}


def preprocess(survey: Survey, **options: Any) -> Tree:
    tree: Tree = drafts(survey, **options)["pretrain.yaml"].tree()["preprocess"]
    return tree


THICK = Extent((280, 320, 20), spacing_mm=(0.5, 0.5, 5.0))
THIN = Extent((64, 64, 40), spacing_mm=(1.0, 1.0, 1.0))
PHOTO = Extent((512, 512), 3, 8)
TABLE = FoundTable(
    Path(f"/{SECRET}/t.csv"), 40, ("StudyInstanceUID", "grade"), "study", "StudyInstanceUID", 38, {"grade": 2}
)
REFUSED = tuple(
    RefusalReason("geometry", f"{text} decides", 3, True) for text in ("gap", "geometry.nifti", "geometry.assume")
)

SURVEYS = {
    "CT volumes": surveyed(images("volume", "CT"), THICK, THICK, refused=REFUSED),
    "CT with label maps": surveyed(images("volume", "CT", has_masks=True), THIN, THICK, mask_folders=("in labels/",)),
    "MR of few patients": surveyed(images("volume", "MR", num=2), THIN),
    "MR of four patients": surveyed(images("volume", "MR", num=4, labels=("a", "b")), THIN),
    "volumes of any kind": surveyed(images("volume", reader="nifti"), THIN, suggested={"MR": "t1"}),
    "volumes without spacing": surveyed(images("volume", labels=("0", "1"), reader="array"), Extent((28, 28, 28))),
    "radiographs": surveyed(images("image", "DX", labels=("normal", "opacity")), Extent((2000, 2000), bits=16)),
    "pictures": surveyed(images(labels=("a", "b", "c"), has_masks=True, reader="image"), PHOTO),
    "ultrasound": surveyed(images("image", "US"), PHOTO, patients=PatientGuess(r"(p\d+)", 3)),
    "photographs of the fundus": surveyed(images("image", "OP", labels=("0", "1", "2")), PHOTO),
    "OCT": surveyed(images("volume", "OPT", labels=("normal", "drusen")), Extent((25, 496, 512), spacing_mm=(1, 1, 1))),
    "slides": surveyed(
        [*images("slide", "SM", labels=("normal", "tumor"), reader="slide"), *images(num=9)],
        Extent((9000, 9000), 3, 8, mpp=0.8),
    ),
    "official splits": surveyed(images(labels=("a", "b"), split="train"), PHOTO),
    "a table": surveyed(images("image", "DX", labels=("a", "b")), PHOTO, tables=(TABLE,), table=TABLE),
    "a table to rename": surveyed(images(), PHOTO, tables=(replace(TABLE, problem="rename its column"),)),
    "folders of people": surveyed(images(), PHOTO, folders=ClassFolders({SECRET: 20, "benign": 20}, are_taken=False)),
    "assumed patients": surveyed(
        [replace(one, patient=Patient(one.patient.id, is_assumed=True)) for one in images()], PHOTO
    ),
}


@pytest.mark.parametrize("name", SURVEYS)
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_draft_is_valid_with_any_of_the_options_that_it_offers(name: str, has_gpu: bool) -> None:
    for draft in drafts(SURVEYS[name], has_gpu=has_gpu).values():
        kind = find(draft.stage).config_type
        inputs = {"source": "somewhere"} if draft.stage == "predict" else {}
        kind.parse(draft.tree() | inputs, source=draft.file_name)
        for offered in (one for one in draft.entries if one.is_off):
            kind.parse(draft.tree(offered) | inputs, source=f"{draft.file_name} with {offered.key}")


@pytest.mark.parametrize("name", SURVEYS)
def test_only_the_private_draft_names_what_the_source_is_called(name: str) -> None:
    for draft in drafts(SURVEYS[name]).values():
        assert (SECRET in draft.text()) == (draft.file_name == "ingest.yaml") == draft.is_private
        lines = [line for line in draft.text().splitlines() if SECRET in line]
        assert all(f"/{SECRET}/" in line for line in lines)  # paths of the source, nothing else


def test_labels_lead_to_classification_label_maps_to_segmentation_and_both_to_both() -> None:
    def files(name: str) -> str:
        return " ".join(one.removesuffix(".yaml") for one in drafts(SURVEYS[name]))

    assert files("CT volumes") == "ingest pretrain"
    assert files("radiographs") == files("CT with label maps") == "ingest pretrain finetune evaluate predict"
    assert files("pictures") == (
        "ingest pretrain finetune evaluate predict finetune-masks evaluate-masks predict-masks"
    )
    assert drafts(SURVEYS["CT with label maps"])["finetune.yaml"].tree()["head"] == {"name": "dense"}
    assert drafts(SURVEYS["radiographs"])["finetune.yaml"].tree()["label"] == "label"
    assert drafts(SURVEYS["slides"])["finetune.yaml"].tree()["head"] == {"name": "abmil"}


def test_preprocessing_follows_the_modality() -> None:
    window = {"method": "window", "window_center": 40, "window_width": 400}
    assert preprocess(SURVEYS["CT volumes"])["intensity"] == window
    for name in ("MR of few patients", "volumes of any kind", "radiographs"):
        assert preprocess(SURVEYS[name])["intensity"] == {"method": "zscore"}
    assert preprocess(SURVEYS["pictures"])["intensity"]["method"] == "range"
    assert preprocess(SURVEYS["photographs of the fundus"])["field_of_view"] == {"missing": "whole"}
    assert "field_of_view" not in preprocess(SURVEYS["pictures"])
    assert preprocess(SURVEYS["slides"])["kind"] == "image"


def test_volumes_are_resampled_only_where_their_spacings_differ() -> None:
    assert "spacing_mm" not in preprocess(SURVEYS["CT volumes"])
    assert preprocess(SURVEYS["CT with label maps"])["spacing_mm"] == [0.75, 0.75, 3.0]


def test_crops_are_whole_patches_no_larger_than_most_volumes() -> None:
    def crop(name: str, *, has_gpu: bool = False) -> list[int]:
        return list(drafts(SURVEYS[name], has_gpu=has_gpu)["pretrain.yaml"].tree()["objective"]["views"]["size"])

    assert crop("CT volumes") == [48, 48, 24]
    assert crop("CT volumes", has_gpu=True) == [96, 96, 24]
    assert crop("volumes without spacing") == [32, 32, 32]


def test_the_backbone_follows_the_machine() -> None:
    sizes = [drafts(SURVEYS["radiographs"], has_gpu=gpu)["pretrain.yaml"].tree()["backbone"] for gpu in (False, True)]
    assert [one["size"] for one in sizes] == ["micro", "small"]


def test_a_modality_is_written_where_it_was_given_and_else_only_suggested() -> None:
    survey = SURVEYS["volumes of any kind"]
    assert "modality" not in drafts(survey)["ingest.yaml"].tree()
    assert "\n# modality: MR\n" in drafts(survey)["ingest.yaml"].text()
    assert drafts(survey, modality="CT")["ingest.yaml"].tree()["modality"] == "CT"
    assert "modality" not in drafts(SURVEYS["radiographs"], modality="CT")["ingest.yaml"].text()


def test_few_patients_get_a_salt_that_leaves_no_split_empty() -> None:
    survey = SURVEYS["MR of four patients"]
    splits = SplitConfig.parse(drafts(survey)["ingest.yaml"].tree()["splits"])
    assert Counter(split_of(one.patient.id, splits) for one in survey.candidates).keys() == {"train", "val", "test"}
    alone = SplitConfig.parse(drafts(SURVEYS["MR of few patients"])["ingest.yaml"].tree()["splits"])
    assert "train" in {split_of(f"{SECRET}-{n}", alone) for n in range(2)}


def test_slides_beside_pictures_are_reported_since_pretraining_leaves_them_out() -> None:
    assert "there are slides, which are excluded" in drafts(SURVEYS["slides"])["pretrain.yaml"].text()
    unlabeled = surveyed([*images("slide", "SM", reader="slide"), *images(num=9)], PHOTO)
    assert "excludes: 40 of kind slide" in drafts(unlabeled)["pretrain.yaml"].text()
    assert "# tiles: {pack: true}" in drafts(unlabeled)["ingest.yaml"].text()


def test_tiles_have_a_magnification_that_every_slide_has() -> None:
    assert drafts(SURVEYS["slides"])["ingest.yaml"].tree()["tiles"]["magnification"] == "10x"
