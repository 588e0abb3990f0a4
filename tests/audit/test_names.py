"""The words of a patient's name are always searched for, even if they have other meanings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from medvit.audit.matcher import Matcher
from medvit.audit.names import PLACEHOLDERS
from medvit.audit.needles import IdentifyingValues, Needle, collect_needles
from medvit.audit.own_words import OWN_WORDS
from medvit.deidentification.identifiers import values
from medvit.deidentification.vocabulary import WORDS

_SURNAMES = """
Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson
Thomas Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young
Allen King Wright Scott Torres Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter
Roberts Long Price Case Day Field Head Hand Foot Page Stone Rose Black Gray West North Cross Bone Chest Hart Marks
Power Root Wood Ray Frame Pearson Zimmerman Chen Huang Zhang Wang Zhao Zhou Yang Kim Park Choi Jung Kang Cho Yoon Lim
Han Shin Tran Pham Phan Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer
Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Meier
Lehmann Köhler Herrmann König Dubois Durand Leroy Moreau Simon Laurent Lefèvre Michel Bertrand Roux Fournier Girard
Bonnet Petit Blanc Rousseau Muller Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco Bruno Gallo
Conti Costa Mancini Fontana Silva Santos Ferreira Pereira Oliveira Sousa Rodrigues Fernandes Gomes Lopes Ribeiro Çelik
Yılmaz Kaya Demir Şahin Öztürk Aydın Özdemir Novák Svoboda Dvořák Černý Kowalski Nowak Wiśniewski Wójcik Ivanov Petrov
Popov Kuznetsov Andersson Johansson Karlsson Nilsson Hansen Olsen Larsen Korhonen Virtanen Singh Kumar Sharma Patel
Gupta Khan Ali Ahmed Hussein Hassan Sato Suzuki Takahashi Tanaka Watanabe Ito Yamamoto Nakamura Kobayashi Kato Иванов
Смирнов Παπαδόπουλος כהן محمد 田中 佐藤 鈴木 김민준
"""  # noqa: RUF001
SURNAMES = _SURNAMES.split()
SHORT = ["Li", "Wu", "An", "Ma", "Xu", "Ng", "Vu", "Do", "Le", "Oh", "Yi", "Öz", "王", "李", "김"]


def matcher(name: str, folder: Path) -> Matcher:
    return Matcher(needles(name, folder))


def needles(name: str, folder: Path) -> list[Needle]:
    image = Dataset()
    image.PatientName, image.file_meta = name, FileMetaDataset()
    image.Manufacturer = name.replace("^", " ")  # a harmless place, which must not take the name out of the search
    found = IdentifyingValues(tuple(values(image)), shown=frozenset([name.replace("^", " ")]))
    return list(collect_needles([], folder, [found], num_files=1, dataset="x").by_text.values())


@pytest.mark.parametrize("text", ["of {}, twice", "{}", 'who: "{}"', "a_{}_b", "{}^Quentin"])
def test_a_surname_is_found_as_a_word(text: str, tmp_path: Path) -> None:
    missed = [
        written
        for name in SURNAMES
        for search in [matcher(f"{name}^Zebedee", tmp_path)]
        for written in (name, name.upper(), name.lower())
        if not any("PatientName" in needle.source for needle in search.in_text(text.format(written)))
    ]
    assert missed == []


def test_a_common_word_says_that_it_may_be_a_coincidence(tmp_path: Path) -> None:
    common = set()
    for name in map(str.casefold, SURNAMES):
        (needle,) = (one for one in needles(f"{name}^Zebedee", tmp_path) if one.text == name)
        if "which may be a coincidence" in needle.description:
            common.add(name)
    folded = {name.casefold() for name in SURNAMES}
    assert common >= folded & (OWN_WORDS | WORDS)
    assert {"chest", "long", "case"} <= common
    assert common.isdisjoint({"chen", "pearson", "zimmerman", "müller", "nguyen"})


@pytest.mark.parametrize("name", ["Long", "White", "Ali", "Han", "Case"])
def test_a_common_word_is_not_found_within_another(name: str, tmp_path: Path) -> None:
    assert not matcher(f"{name}^Zebedee", tmp_path).in_text(f"x{name}x {name}er un{name}")


@pytest.mark.parametrize("name", SHORT)
def test_a_short_name_is_found_beside_another_or_as_the_whole(name: str, tmp_path: Path) -> None:
    beside, alone = matcher(f"{name}^Quentin", tmp_path), matcher(name, tmp_path)
    for text in (f"{name}^Quentin", f"of Quentin {name}.", f"{name.upper()}, QUENTIN", f"a {name}_Quentin b"):
        assert beside.in_text(text)
    for text in (f"x;{name};y", f'{{"who": "{name}"}}', f"a\n{name}\nb", f"<td>{name}</td>"):
        assert alone.in_text(text)
    for text in (f"as {name} does", f"x{name}x", f"{name}y beside others"):
        assert not beside.in_text(text) and not alone.in_text(text)  # noqa: PT018


@pytest.mark.parametrize(("name", "text"), [("Li^An", "of An Li"), ("Wang^Wei=王^伟", "王伟"), ("Ng^Oh", "ng oh")])
def test_two_short_components_are_found_beside_each_other(name: str, text: str, tmp_path: Path) -> None:
    assert matcher(name, tmp_path).in_text(text)


def test_accents_may_be_missing_or_parted(tmp_path: Path) -> None:
    import unicodedata

    for name, others in {"Müller": ("Muller", "Mueller"), "Şahin": ("Sahin",), "Öz": ()}.items():
        found = matcher(f"{name}^Quentin", tmp_path)
        assert found.in_text(f"of {unicodedata.normalize('NFD', name)} Quentin")
        assert all(found.in_text(f"of {other}") for other in others)


@pytest.mark.parametrize("name", ["Anonymous", "Test^Patient", "NO^NAME", "Phantom^001"])
def test_a_placeholder_names_nobody(name: str, tmp_path: Path) -> None:
    assert not matcher(name, tmp_path).in_text("patient test phantom no name anonymous")
    assert matcher("Case^Zebedee", tmp_path).in_text("case 7")
    assert "case" in PLACEHOLDERS
