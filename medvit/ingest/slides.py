"""Takes slides: their tiles are listed, their pixels stay where they are.

What stands for a slide in the store is its picture at low power, so its content address is the same for the same scan,
whatever the file is called and whatever words are in it.

A slide is done when `tiles/IMAGE_ID.parquet` is there with the state that its file and the options had; a run that goes
on, or an ingest after an earlier one, takes only what is missing.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from medvit.dataset.store import Store
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig, map_items
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, MedvitError, OutputError
from medvit.files.atomic import replacing
from medvit.ingest.file_stamps import READING_ROOMS, version_of
from medvit.ingest.scan import Scan
from medvit.ingest.store_images import Stored, facts_of
from medvit.leakage.perceptual_hash import hash_image
from medvit.records import Candidate, Refusal, Row, Taken
from medvit.wsi.locations import SlideFiles, write_locations
from medvit.wsi.overview import draw
from medvit.wsi.slide import MODALITY, TIFF_SUFFIXES, open_slide
from medvit.wsi.tiles import FOLDER, TileGrid
from medvit.wsi.tiling import TilesConfig, cut

log = logging.getLogger("medvit")

STATE, TAKEN = "state", "taken"
"""Facts that the file of a grid keeps on how it came to be."""


def as_slides(found: Scan, config: TilesConfig) -> Scan:
    """The images of a source, plain TIFF pictures as slides if the microns per pixel of such were given."""
    if config.slide_mpp is None:
        return found
    return replace(found, candidates=tuple(map(_as_slide, found.candidates)))


def _as_slide(candidate: Candidate) -> Candidate:
    item = candidate.item
    if item.reader != "image" or not item.files[0].name.lower().endswith(TIFF_SUFFIXES):
        return candidate
    return replace(candidate, item=replace(item, reader="slide", kind="slide", modality=MODALITY))


def apart(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """The candidates that are slides, and the others."""
    return (
        [candidate for candidate in candidates if candidate.item.kind == "slide"],
        [candidate for candidate in candidates if candidate.item.kind != "slide"],
    )


@dataclass(frozen=True)
class _Waiting:
    candidate: Candidate
    image_id: str
    state: str


@dataclass(frozen=True)
class ReadSlide:
    """Lists the tiles of one slide in a dataset's folder, with pictures of it and of where they lie."""

    folder: Path
    config: TilesConfig

    def __call__(self, waiting: _Waiting) -> Taken:
        """What a row says of the slide.

        Raises:
            DataError: One of its kinds, if the slide cannot be read or has no tissue.
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


def store_slides(
    candidates: Sequence[Candidate],
    config: TilesConfig,
    folder: Path,
    engine: EngineConfig,
    pseudonyms: Pseudonyms,
    found: Scan,
    earlier: Path | None = None,
) -> Stored:
    """Lists the tiles of all slides; one that fails never stops the others.

    What has not changed since the dataset in the folder `earlier` was made is taken from there.

    Raises:
        OutputError: If the dataset cannot be written.
    """
    options = config.model_dump(exclude={"pack"})
    waiting = [
        _Waiting(
            one,
            pseudonyms.image(one),
            pseudonyms.state(options, version_of(READING_ROOMS), *facts_of(one, found.stamps)),
        )
        for one in candidates
    ]
    done: dict[str, Taken] = {}
    for one in waiting:
        known = _known(folder, one) or (earlier and _taken_over(earlier, folder, one))
        if known:
            done[one.candidate.key] = known
    if done:
        log.info("%d of %d slides are there from the run before", len(done), len(candidates))
    refusals: list[Refusal] = []
    missing = [one for one in waiting if one.candidate.key not in done]
    for outcome in map_items(ReadSlide(folder, config), missing, config=engine, title="slides", unit="slide"):
        if outcome.result is not None:
            done[outcome.item.candidate.key] = outcome.result
        else:
            refusals.append(_refusal(outcome))
    return Stored(done, tuple(refusals))


def leave_places(
    candidates: Sequence[Candidate], rows: Sequence[Row], config: TilesConfig, pseudonyms: Pseudonyms, key: Path
) -> None:
    """Writes beside the key where the slides among the rows lie.

    Raises:
        OutputError: If it cannot be written.
    """
    there = {row.image_id: row for row in rows if row.kind == "slide"}
    places: dict[str, SlideFiles] = {}
    for candidate in apart(candidates)[0]:
        name = pseudonyms.image(candidate)
        if name in there:
            places[name] = SlideFiles(tuple(str(file.absolute()) for file in candidate.item.files), config.slide_mpp)
    if places:
        write_locations(key, next(iter(there.values())).dataset, places)


def remove_unused_tiles(folder: Path, rows: Sequence[Row]) -> None:
    """Removes from a finished dataset the tiles of slides that are no rows of it."""
    names = {row.image_id for row in rows if row.kind == "slide"}
    if not (folder / FOLDER).is_dir():
        return
    for path in (folder / FOLDER).iterdir():
        if path.stem not in names:
            path.unlink()
    if not names:
        (folder / FOLDER).rmdir()


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
