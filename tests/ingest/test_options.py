"""Options of ingest are in groups; the names that they had before give the same options, with a warning."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from medvit.config import RENAMED, keys, read_yaml, to_yaml, to_yaml_flow
from medvit.errors import ConfigError
from pipelines._help import misspelt, options
from pipelines.ingest import IngestConfig

PROJECT = Path(__file__).parents[2]
PLACES = {"source": "source", "dataset": "dataset"}
FLAT: dict[str, Any] = {
    "labels": "labels.csv",
    "label_by": "study",
    "label_unmatched": "warn",
    "label_columns": ["grade"],
    "label_missing": ["NA"],
    "label_from": "auto",
    "positive": {"grade": "3"},
    "mask_classes": ["background", "lesion"],
    "mask_values": "instances",
    "mask_ignore": [255],
    "patient_from": r"(p\d+)",
    "modality": "OPT",
    "geometry": {"irregular": "resample", "nifti": "sform"},
    "stacks": {"spacing_mm": [0.24, 0.0039, 0.011]},
    "mask_folder": ["gt"],
    "eye": {"not_fundus": "flag"},
    "max_volume_gib": 3.0,
    "values": {"pet": "SUVbw"},
    "burned_in": {"policy": "mask", "threshold": 0.5},
    "tiles": {"size": 128, "pack": True},
    "license": "CC0",
    "source_url": "somewhere",
    "description": "Images.",
    "card": "card.md",
}
"""Every option that is in a group now, under the name that it had, at another value than its default."""


def grouped(flat: dict[str, Any]) -> dict[str, Any]:
    """Options under their present names."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        group, _, key = IngestConfig.RENAMED[name].partition(".")
        tree.setdefault(group, {})[key] = value
    return tree


NOW = IngestConfig.parse({**PLACES, **grouped(FLAT)})


def test_the_options_below_are_all_that_had_other_names_and_none_is_at_its_default() -> None:
    assert FLAT.keys() == IngestConfig.RENAMED.keys() - {"licence"}
    before = IngestConfig.parse(PLACES)
    for name in FLAT:
        group, _, key = IngestConfig.RENAMED[name].partition(".")
        assert getattr(getattr(before, group), key) != getattr(getattr(NOW, group), key), name


def test_flat_names_give_the_same_options_in_python_yaml_and_arguments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert IngestConfig.parse({**PLACES, **FLAT}) == NOW
    warned = {record.getMessage().partition(" ")[0] for record in caplog.records if record.levelno == logging.WARNING}
    assert warned == FLAT.keys()
    (tmp_path / "flat.yaml").write_text(to_yaml({**PLACES, **FLAT}), encoding="utf-8")
    assert IngestConfig.load(tmp_path / "flat.yaml") == NOW
    words = [f"{key}={to_yaml_flow(value)}" for key, value in FLAT.items()]
    assert IngestConfig.load(None, ["source=source", "dataset=dataset", *words]) == NOW
    assert not misspelt("ingest", words)


@pytest.mark.parametrize("name", sorted(FLAT))
def test_one_flat_name_beside_present_ones_is_read_and_under_both_names_refused(tmp_path: Path, name: str) -> None:
    rest = grouped({key: value for key, value in FLAT.items() if key != name})
    (tmp_path / "mixed.yaml").write_text(to_yaml({**PLACES, **rest, name: FLAT[name]}), encoding="utf-8")
    assert IngestConfig.load(tmp_path / "mixed.yaml") == NOW
    with pytest.raises(ConfigError, match=f"{name} is now called {IngestConfig.RENAMED[name]}, and both are given"):
        IngestConfig.parse({**PLACES, **grouped(FLAT), name: FLAT[name]})


def test_what_medvit_saved_is_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    kept = read_yaml(PROJECT / "tests" / "fixtures" / "2026-11" / "dataset" / "config.yaml")
    config = IngestConfig.parse_saved({**kept, **PLACES}, source="config.yaml")
    assert not caplog.records
    assert (config.scanning.modality, config.facts.license) == ("CT", "CC0-1.0")
    assert config.labeling.mask_classes == tuple(kept["mask_classes"])


def test_one_option_of_a_group_leaves_the_others_as_they_are() -> None:
    config = IngestConfig.load(None, ["source=a", "dataset=b", "scanning.modality=CT", "labeling.by=study"])
    assert config.scanning.model_fields_set == {"modality"}
    assert config.scanning.geometry == IngestConfig.parse(PLACES).scanning.geometry
    assert config.labeling.model_dump(exclude={"by"}) == IngestConfig.parse(PLACES).labeling.model_dump(exclude={"by"})


def test_the_configs_of_the_project_give_the_options_that_they_gave_before_these_were_in_groups() -> None:
    flat = read_yaml(PROJECT / "tests" / "fixtures" / "flat_ingest_options.yaml")
    paths = {path.parent.name: path for path in (PROJECT / "configs").glob("*/ingest.yaml")}
    assert flat.keys() <= paths.keys()
    for name, tree in flat.items():
        now = IngestConfig.load(paths[name], [f"{key}={value}" for key, value in PLACES.items()])
        assert now == IngestConfig.parse({**PLACES, **tree}), name


def test_configs_use_present_names_alone(caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted((PROJECT / "configs").glob("*/ingest.yaml")):
        IngestConfig.load(path, [f"{key}={value}" for key, value in PLACES.items()])
    assert not caplog.records


def test_a_misspelt_flat_name_is_answered_with_the_present_one() -> None:
    assert "unknown key 'lable_from'; did you mean 'labeling.from_folders'?" in misspelt(
        "ingest", ["lable_from=folder"]
    )
    assert "did you mean 'labeling.mask_ignore'" in misspelt("ingest", ["labeling.mask_ingore=255"])
    earlier = {key.name: key.default for key in options("ingest") if key.type == RENAMED}
    assert (earlier["labels"], earlier["tiles.slide_mpp"]) == ("labeling.table", "taking.tiles.slide_mpp")
    assert set(earlier.values()) <= {key.name.removesuffix(".name") for key in keys(IngestConfig)} | set(
        IngestConfig.RENAMED.values()
    )
