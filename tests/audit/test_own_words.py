"""Words that medvit writes by itself are not needles, and the name of a person is never among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

import medvit
from medvit.audit import own_words
from medvit.audit.needles import IdentifyingValues, Needles, collect_needles
from medvit.audit.own_words import OWN_WORDS
from medvit.audit.rarity import MIN_LETTERS, MIN_SIGNS, is_rare
from medvit.audit.search import Search
from medvit.config import keys
from medvit.deidentification.identifiers import values
from medvit.deidentification.vocabulary import is_common, words_of
from pipelines.__main__ import STAGES, find


def authors() -> list[str]:
    """Surnames that the code cites, at least as long as the shortest needle."""
    texts = [path.read_text(encoding="utf-8") for path in Path(medvit.__file__).parent.rglob("*.py")]
    cited = {name for text in texts for name in re.findall(r"([^\W\d_]+) et al\b", text)}
    return sorted(name for name in cited if len(name) >= MIN_LETTERS)


def least(word: str) -> int:
    return MIN_LETTERS if word.isascii() else MIN_SIGNS


def of_patient(name: str, folder: Path) -> Needles:
    image = Dataset()
    image.PatientName, image.file_meta = name, FileMetaDataset()
    return collect_needles([], folder, [IdentifyingValues(tuple(values(image)))], num_files=1)


def test_the_list_is_sorted_and_holds_words_in_lower_case() -> None:
    written = own_words._WRITTEN.split()
    assert written == sorted(set(written))
    assert [word for word in written if words_of(word) != [word]] == []


def test_the_list_holds_no_word_that_is_never_sought_anyway() -> None:
    assert [word for word in sorted(OWN_WORDS) if is_common(word) or len(word) < least(word)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_no_key_of_a_config_is_sought(stage: str) -> None:
    words = {word for key in keys(find(stage).config_type) for word in words_of(key.name)}
    assert [word for word in sorted(words) if is_rare(word)] == []


def test_no_author_that_the_code_cites_is_in_the_list() -> None:
    assert {"Caron", "Macenko", "Reinhard"} <= set(authors())
    assert [name for name in authors() if name.casefold() in OWN_WORDS] == []


@pytest.mark.parametrize("name", ["Caron", "Macenko", "Reinhard", "Zimmermann"])
def test_a_patient_named_like_a_cited_author_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text(f"a dataset\nof {name.upper()}, twice\n")
    (trace,) = Search(of_patient(f"{name}^Ann", tmp_path)).folder(tmp_path, "the dataset")
    assert str(trace) == "the dataset, card.md, line 2: a value of (0010,0010) PatientName"


@pytest.mark.parametrize(
    ("word", "is_sought"), [("retrain", False), ("contras", False), ("contra", True), ("retrainer", True)]
)
def test_a_long_word_within_a_written_one_is_not_sought(word: str, is_sought: bool) -> None:
    assert is_rare(word) is is_sought
