from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.sources import Location, RetrieveConfig, sources
from medvit.sources.options import Query


class Holder(Config):
    """A config with a source, as a stage has."""

    source: Location = Field(json_schema_extra={"private": True})
    """Source."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)


def known(location: str) -> str:
    return next(source.name for source in sources() if source.knows(location))


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://archive/dicom-web", "dicomweb"),
        ("dicomweb+http://archive:8042/dicom-web", "dicomweb"),
        ("pacs://ARCHIVE@10.0.0.1:104", "pacs"),
        ("PACS+TLS://ARCHIVE@archive", "pacs"),
        ("some/folder", "folder"),
        ("C:/some/folder", "folder"),
    ],
)
def test_a_location_has_one_kind(location: str, name: str) -> None:
    assert known(location) == name
    assert Holder.load(None, [f"source={location}"]).source == location


def test_paths_may_be_given_as_such(tmp_path: Path) -> None:
    assert Holder.parse({"source": tmp_path}).source == str(tmp_path)


@pytest.mark.parametrize("scheme", ["https", "dicomweb+https", "pacs"])
def test_a_url_with_a_password_is_refused_with_a_hint_and_without_it(scheme: str) -> None:
    with pytest.raises(ConfigError, match=r"environment variables.*retrieve\.auth\.user_env") as caught:
        Holder.load(None, [f"source={scheme}://doe:hunter2@archive/dicom-web"])
    assert "hunter2" not in str(caught.value)
    assert "doe" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://doe@archive/x", "https://", "https://archive:port/", "https://a/?PatientID=7"]
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="source: the URL"):
        Holder.load(None, [f"source={url}"])


def test_what_is_written_down_has_no_place_and_no_path() -> None:
    words = [
        "source=https://archive/Doe",
        "retrieve.query.patients=Doe.txt",
        "retrieve.spool=Doe",
        "retrieve.tls.ca=Doe",
    ]
    config = Holder.load(None, [*words, "retrieve.auth.token_env=DOES_TOKEN", "retrieve.query.modality=CT"])
    assert "Doe" not in config.to_yaml(private=False)
    assert "modality" in config.to_yaml(private=False)
    assert Holder.parse(config.tree()) == config


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("auth.token_env=eyJhbGciOi.x.y", "name of an environment variable"),
        ("auth.user_env=A", "both user_env and password_env"),
        ("tls.key=key.pem", "needs its certificate"),
        ("keep=true", "needs a folder"),
        ("query.since=yesterday", "retrieve.query.since"),
        ("pacs.aet=a-title-of-17-chars", "retrieve.pacs.aet"),
        ("concurrency=0", "retrieve.concurrency"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        Holder.load(None, ["source=x", f"retrieve.{word}"])
    assert "eyJ" not in str(caught.value)


def test_days_may_be_written_as_dicom_writes_them() -> None:
    query = Query.load(None, ["since=20240131", "until=2024-02-01"])
    assert query.dates() == "20240131-20240201"
    assert Query.load(None, ["since=20240131"]).dates() == "20240131-"
    assert Query().dates() == ""
    with pytest.raises(ConfigError, match="swap them"):
        Query.load(None, ["since=20240131", "until=20240101"])


def test_a_list_of_patients_is_read_by_line(tmp_path: Path) -> None:
    path = tmp_path / "patients.txt"
    path.write_text("\ufeffA-1\n\n A-2 \nA-1\n", encoding="utf-8")
    assert Query(patients=path).patient_ids() == ("A-1", "A-2")
    assert Query().patient_ids() == ("",)


@pytest.mark.parametrize(("text", "sentence"), [("A\nDoe*\n", "line 2"), ("\n", "empty"), (None, "cannot be read")])
def test_a_list_that_would_match_others_is_refused_without_quoting_it(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    path = tmp_path / "patients.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        Query(patients=path).patient_ids()
    assert "Doe" not in str(caught.value)
