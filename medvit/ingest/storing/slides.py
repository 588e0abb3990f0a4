"""Whole slides: their tiles are listed, and their pixels remain in the source.

The store contains a low-magnification image of each slide, whose content address identifies the slide. A scan therefore
has one address, regardless of its file name and metadata.

A slide is finished when `tiles/IMAGE_ID.parquet` exists with the present state of its file and options. A resumed run,
or an update of an earlier dataset, processes only the other slides.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medvit.dataset.store import Store
from medvit.engine import map_items
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, MedvitError, OutputError
from medvit.files.atomic import replacing
from medvit.ingest.file_stamps import READING_ROOMS, version_of
from medvit.ingest.storing import Stored, Workplace
from medvit.ingest.storing.images import facts_of
from medvit.ingest.storing.pack_tiles import pack
from medvit.leakage.perceptual_hash import hash_image
from medvit.records import Candidate, Kind, Refusal, Row, Taken
from medvit.wsi.locations import SlideFiles
from medvit.wsi.overview import draw
from medvit.wsi.slide import MODALITY, open_slide
from medvit.wsi.tiles import FOLDER, TileGrid
from medvit.wsi.tiling import TilesConfig, cut

log = logging.getLogger("medvit")

STATE, TAKEN = "state", "taken"
"""Keys under which the file of a tile grid stores the state of its slide and the slide's record (`Taken`)."""


@dataclass(frozen=True)
class _Waiting:
    candidate: Candidate
    image_id: str
    state: str


@dataclass(frozen=True)
class ReadSlide:
    """Function object that writes the tile list of a slide into a dataset folder, with a picture of the tiles."""

    folder: Path
    config: TilesConfig

    def __call__(self, waiting: _Waiting) -> Taken:
        """List the tiles of a slide; return the record of the slide.

        Raises:
            DataError: If the slide cannot be read or has no tissue.
            OutputError: If the disk is full.
        """
        slide = open_slide(waiting.candidate.item.files, self.config.slide_mpp)
        try:
            slide.check()
            tiled = cut(slide, self.config)
            taken = Taken(
                sha256=Store(self.folder / "images").put(tiled.picture),
                shape=(3, *slide.shape),
                dtype="uint8",
                modality=MODALITY,
                mask=None,
                num_mask_values=0,
                spacing_mm=None,
                affine=None,
                mpp=slide.mpp,
                slope=1.0,
                intercept=0.0,
                unit="",
                flags=(),
                perceptual_hash=hash_image(tiled.picture),
            )
        finally:
            slide.close()
        facts = {**tiled.grid.facts, STATE: waiting.state, TAKEN: json.dumps(asdict(taken))}
        try:
            draw(tiled, self.folder / FOLDER / f"{waiting.image_id}.png")
            replace(tiled.grid, facts=facts).write(self.folder, waiting.image_id)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot write the tiles of a slide: {error.strerror}") from None
        return taken


@dataclass(frozen=True)
class Tiles:
    """Strategy for whole slides: their tiles are listed and, with `tiles.pack`, stored as separate images."""

    config: TilesConfig
    place: Workplace

    def takes(self, kind: Kind) -> bool:
        """Return whether the kind is slide."""
        return kind == "slide"

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """List the tiles of slides.

        Raises:
            OutputError: If the dataset cannot be written.
        """
        place = self.place
        options = self.config.model_dump(exclude={"pack"})
        waiting = [
            _Waiting(
                one,
                place.site.pseudonyms.image(one),
                place.site.pseudonyms.state(options, version_of(READING_ROOMS), *facts_of(one, place.stamps)),
            )
            for one in candidates
        ]
        done: dict[str, Taken] = {}
        for one in waiting:
            known = _known(place.folder, one) or (place.earlier and _taken_over(place.earlier, place.folder, one))
            if known:
                done[one.candidate.key] = known
        if done:
            log.info("%d of %d slides were processed by the earlier run", len(done), len(candidates))
        refusals: list[Refusal] = []
        missing = [one for one in waiting if one.candidate.key not in done]
        read = ReadSlide(place.folder, self.config)
        for outcome in map_items(read, missing, config=place.engine, title="slides", unit="slide"):
            if outcome.result is not None:
                done[outcome.item.candidate.key] = outcome.result
            else:
                refusals.append(_refusal(outcome))
        return Stored(done, tuple(refusals))

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Write the slide locations next to the key; return the rows of slides or, with packing, of their tiles.

        Raises:
            DataError: If a slide to pack can no longer be read.
            OutputError: If the locations, or tiles, cannot be written.
        """
        self.place.site.keep_locations(self._locations(candidates, rows))
        if not self.config.pack:
            return tuple(rows)
        return pack(rows, folder=self.place.folder, key=self.place.site.key, engine=self.place.engine)

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove the tiles of slides that have no row."""
        names = {row.image_id for row in rows if row.kind == "slide"}
        folder = self.place.folder / FOLDER
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.stem not in names:
                path.unlink()
        if not names:
            folder.rmdir()

    def _locations(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> dict[str, SlideFiles]:
        there = {row.image_id for row in rows}
        named = {self.place.site.pseudonyms.image(one): one.item.files for one in candidates}
        return {
            name: SlideFiles(tuple(str(file.absolute()) for file in files), self.config.slide_mpp)
            for name, files in named.items()
            if name in there
        }


def _known(folder: Path, waiting: _Waiting) -> Taken | None:
    try:
        grid = TileGrid.read(folder, waiting.image_id)
    except DataError:
        return None
    if grid.facts.get(STATE) != waiting.state:
        return None
    taken = Taken.of(json.loads(grid.facts[TAKEN]))
    return taken if taken.sha256 in Store(folder / "images") else None


def _taken_over(earlier: Path, folder: Path, waiting: _Waiting) -> Taken | None:
    known = _known(earlier, waiting)
    if known is not None:
        Store(folder / "images").link(Store(earlier / "images"), known.sha256)
        (folder / FOLDER).mkdir(exist_ok=True)
        for ending in ("png", "parquet"):
            name = f"{waiting.image_id}.{ending}"
            with replacing(folder / FOLDER / name) as partial:
                shutil.copyfile(earlier / FOLDER / name, partial)
    return known


def _refusal(outcome: Outcome[_Waiting, Taken]) -> Refusal:
    error, candidate = outcome.error, outcome.item.candidate
    if isinstance(error, OutputError):
        raise error
    if isinstance(error, MedvitError):
        return candidate.refused(error.code, str(error))
    # The text of a library's error may name a file or a patient.
    return candidate.refused("unreadable", f"reading stopped at an unexpected {type(error).__name__}")
