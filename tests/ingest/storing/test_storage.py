"""Each kind of image is stored in exactly one way, with any options."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from medvit.engine import EngineConfig
from medvit.ingest.mask_meaning import MaskMeaning
from medvit.ingest.scan import ScanningConfig
from medvit.ingest.site import Site
from medvit.ingest.storing import Workplace
from medvit.ingest.storing.masks import Masks
from medvit.ingest.storing.storage import Storage, TakingConfig
from medvit.records import Kind


def test_every_kind_of_image_is_stored_in_one_way(tmp_path: Path) -> None:
    site = Site.open(tmp_path / "site.key", "d")
    place = Workplace(tmp_path, site, EngineConfig(), {})
    storage = Storage.of(TakingConfig(), ScanningConfig(), Masks({}, MaskMeaning()), place)
    assert {kind: sum(way.takes(kind) for way in storage.ways) for kind in get_args(Kind)} == dict.fromkeys(
        get_args(Kind), 1
    )
    assert storage.store(()).taken == {}
    assert storage.rows((), ()) == ()
    assert "site.key" not in repr(storage), "a path of the site names what it should not"
