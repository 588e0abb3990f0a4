"""Results that an update of a dataset may reuse are those recorded for the versions that the rooms declare.

If a test fails here, the data that are read, stored or shown of the phantoms have changed: increase `VERSION` of the
room that changed them, so that updates do not mix old results with new ones, then record the new results with `python
-m tests.test_versions`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medvit import phantoms
from medvit.ingest.file_stamps import CARD_ROOMS, READING_ROOMS, TAKING_ROOMS, version_of
from medvit.ingest.storing import PROGRESS
from pipelines.ingest import IngestConfig, ingest

RECORDED = Path(__file__).with_name("versions.json")
LEFT_OUT = ("file_sha256", "perceptual_hash", "mask_state")
"""Facts that depend on how a library compresses, on the last bits of a matrix product, or on the time of a file."""
MAX_BITS = 2
"""Of 256, by which perceptual hashes may differ between processors."""


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The data that an ingest of phantoms reads, stores and shows, with the versions each depends on."""
    phantoms.write_ct_studies(folder / "source" / "ct", 2)
    phantoms.write_radiograph_studies(folder / "source" / "dx", 2)
    phantoms.write_ct_pairs(folder / "source" / "nifti", 1)
    phantoms.write_fundus(folder / "source" / "fundus", 2)
    key = folder / "site.key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    dataset = folder / "dataset"
    options = {"source": folder / "source", "dataset": dataset, "name": "phantoms", "key": key}
    ingest(IngestConfig.parse({**options, "tracking": {"enabled": False}, "taking": {"tiles": {"slide_mpp": 0.5}}}))
    headers = key.with_name("site.key.headers") / "phantoms.jsonl"
    read = sorted(without_path(line.split(b" ", 1)[1]) for line in headers.read_bytes().splitlines())
    taken = [json.loads(line)["taken"] for line in (dataset / PROGRESS).read_text(encoding="utf-8").splitlines()]
    stored = sorted(
        json.dumps({key: value for key, value in one.items() if key not in LEFT_OUT}, sort_keys=True) for one in taken
    )
    return {
        "read": {"versions": version_of(READING_ROOMS), "digest": digest(read)},
        "stored": {"versions": version_of(TAKING_ROOMS), "digest": digest(stored)},
        "hashes": {
            "versions": version_of(TAKING_ROOMS),
            "by_content": {one["sha256"]: one["perceptual_hash"] for one in taken},
        },
        "shown": {"versions": version_of(CARD_ROOMS), "digest": digest(list(shown(dataset)))},
    }


def without_path(line: bytes) -> str:
    """The item and image read from a file, without its path."""
    reader, _, content = line.decode().partition(" ")
    refusal, planes = json.loads(content)
    return json.dumps([reader, refusal, [{**plane, "file": ""} for plane in planes]], sort_keys=True)


def shown(dataset: Path) -> Iterator[str]:
    """The text of a data card, and its page without the bytes of pictures, which depend on libraries."""
    yield (dataset / "card.md").read_text(encoding="utf-8")
    yield re.sub('base64,[^"]*', "", (dataset / "card.html").read_text(encoding="utf-8"))


def digest(texts: list[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    return results(tmp_path_factory.mktemp("versions"))


@pytest.mark.parametrize("what", ["read", "stored", "shown"])
def test_results_change_only_with_the_version_of_a_room(what: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[what]
    assert found[what] == recorded, f"what is {what} of the phantoms has changed; see the first lines of this file"


def test_perceptual_hashes_change_only_with_the_version_of_a_room(found: Mapping[str, Mapping[str, Any]]) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["hashes"]
    assert found["hashes"]["versions"] == recorded["versions"]
    assert found["hashes"]["by_content"].keys() == recorded["by_content"].keys()
    for content, now in found["hashes"]["by_content"].items():
        assert bits_apart(now, recorded["by_content"][content]) <= MAX_BITS


def bits_apart(a: str, b: str) -> int:
    assert len(a) == len(b)
    return sum((ord(x) ^ ord(y)).bit_count() if x != y else 0 for x, y in zip(a, b, strict=True))


def record() -> None:
    """Write the results of this state of the code in place of those recorded."""
    with tempfile.TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(results(Path(folder)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
