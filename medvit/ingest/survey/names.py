"""Names that may be printed because they cannot name a person, and modalities that words of a path suggest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from medvit.deidentification.vocabulary import removed
from medvit.readers.label_maps import LABEL_FOLDERS

MODALITY_WORDS: Mapping[str, frozenset[str]] = {
    "CT": frozenset({"ct", "cbct"}),
    "MR": frozenset({"mr", "mri", "t1", "t1w", "t2", "t2w", "flair"}),
    "DX": frozenset({"xray", "cxr", "radiograph", "radiographs", "radiography"}),
    "MG": frozenset({"mammogram", "mammograms", "mammography"}),
    "US": frozenset({"ultrasound", "sonography", "echocardiography"}),
    "OP": frozenset({"fundus", "retina", "retinal", "retinopathy"}),
    "OPT": frozenset({"oct"}),
    "SM": frozenset({"histology", "histopathology", "pathology", "wsi", "nuclei"}),
}
"""Words that suggest a modality for files that do not state theirs."""


def names_nobody(name: str) -> bool:
    """Return whether all words of a name are imaging terms, findings or small numbers."""
    return name.isascii() and not removed(name.replace("_", " ").replace("-", " "))


def folder_name(name: str) -> str:
    """Return the name of a folder of label maps if it is common, such as `masks/`, else `a folder of its own`."""
    is_known = re.fullmatch(rf"({'|'.join(LABEL_FOLDERS)}|masks?)(tr|ts)?", name, re.IGNORECASE)
    return f"{name}/" if is_known else "a folder of its own"


def suggested_modalities(paths: Iterable[str]) -> dict[str, str]:
    """Return the modalities that words in the paths suggest, each with the word that suggests it."""
    words = {word for path in paths for word in re.findall(r"[a-z0-9]+", path.casefold().replace("x-ray", "xray"))}
    found = {code: sorted(words & known) for code, known in MODALITY_WORDS.items()}
    return {code: hits[0] for code, hits in found.items() if hits}
