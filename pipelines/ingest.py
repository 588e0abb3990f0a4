"""From a folder of raw images to a dataset: pixels in the store, a manifest of pseudonyms, splits and a data card."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from medvit import card_plots, cards, croissant, quarantine
from medvit.cards import Prose, find_prose, write_card
from medvit.engine import EngineConfig
from medvit.ingest import Candidate, burned_in, crosswalk, dicom_copies, storing
from medvit.ingest.burned_in import BurnedInConfig
from medvit.ingest.curation import CurationConfig, curate
from medvit.ingest.dicom_copies import DeidentifyConfig
from medvit.ingest.labels import LabelFrom, classes, from_folders
from medvit.ingest.pseudonyms import Pseudonyms
from medvit.ingest.rows import failures, mask_classes, quarantined, require_some, rows, way_back
from medvit.ingest.scan import Scan, scan
from medvit.ingest.splits import SplitConfig, assign
from medvit.ingest.storing import ReadAndStore, take
from medvit.ingest.table import from_table
from medvit.ingest.updating import Update
from medvit.manifest import Facts, Manifest
from medvit.readers.regular import Geometry
from medvit.readers.values import ValuesConfig
from medvit.sources import Location, RetrieveConfig, fetch
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")


def _pattern(text: str) -> str:
    try:
        num_groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"expected a regular expression, but {error}") from None
    if num_groups != 1:
        raise ValueError(f"expected one group, as in 'patient-(\\d+)', found {num_groups}")
    return text


class IngestConfig(StageConfig):
    """Options of `medvit ingest`."""

    OUTPUT: ClassVar[str] = "dataset"
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "retrieve", "keep_headers")

    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR; or https://HOST/ROOT for DICOMweb, pacs://AET@HOST:PORT for DICOM."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    dataset: Path
    """Dataset folder to make."""
    update: Path | None = None
    """Dataset made of this source before: what has not changed since is taken from it, and what has is counted."""
    name: str | None = Field(default=None, pattern=r"^[\w][\w. -]*$")
    """Name of the dataset; none takes that of its folder."""
    modality: str = ""
    """Modality of files that do not say theirs, by its DICOM code, such as MR, CT, DX or US."""
    labels: Path | None = Field(default=None, json_schema_extra={"private": True})
    """CSV with a column file (path relative to source, or unique name), labels, and maybe split and patient."""
    label_columns: tuple[str, ...] = ()
    """Columns of the CSV to take; none takes all but those that look as if they named people."""
    label_from: LabelFrom = "none"
    """Labels from folder names, which may name people: folder takes them, auto if nothing speaks against it."""
    mask_classes: tuple[str, ...] = ()
    """Names of the values 0, 1, 2... of label maps, background first; none numbers them."""
    patient_from: Annotated[str, AfterValidator(_pattern)] | None = None
    """Regular expression whose one group is the patient in a file's path; none takes DICOM PatientID, else the path."""
    geometry: Geometry = "refuse"
    """DICOM series that make no regular grid: refuse, resample to one (tilt sheared back), or keep slices as images."""
    values: ValuesConfig = Field(default_factory=ValuesConfig)
    splits: SplitConfig = Field(default_factory=SplitConfig)
    curation: CurationConfig = Field(default_factory=CurationConfig)
    licence: str = ""
    """Terms under which the images may be used, for the card."""
    source_url: str = ""
    """Where the images come from, for the card: a URL or a citation."""
    description: str = ""
    """What the dataset is, for the card."""
    card: Path | None = None
    """Markdown with prose for the card; none takes data_cards/NAME.md of the project where there is one."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, made on first use; the way back to names lies beside it, in KEY.crosswalk/."""
    keep_headers: bool = True
    """Keep headers, which name patients, in KEY.headers/; false removes them, and update= reads all headers anew."""
    deidentify: DeidentifyConfig = Field(default_factory=DeidentifyConfig)
    burned_in: BurnedInConfig = Field(default_factory=BurnedInConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @property
    def title(self) -> str:
        """Name of the dataset: the one given, or that of the dataset to update, or that of the folder."""
        if self.name is None and self.update is not None:
            return Facts.of_dataset(self.update).name
        return self.name or re.sub(r"[^\w. -]", "_", self.dataset.absolute().name)


@stage
def ingest(config: IngestConfig, run: Run) -> Manifest:
    """Makes a dataset of a folder of images: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF or npz."""
    name = config.title
    config.deidentify.check(resume=config.resume)
    if config.update is not None:
        run.dataset(config.update, "update")
    prose = find_prose(config.card, name)
    pseudonyms = Pseudonyms.with_key_file(config.key, name)
    update = Update(config.update, config.key, name, pseudonyms, is_kept=config.keep_headers)
    local = fetch(config.source, config.retrieve, work=run.folder)
    patients, memory = config.patient_from, update.remembered
    found = scan(local, patient_from=patients, geometry=config.geometry, engine=config.engine, remembered=memory)
    update.tell(found)
    candidates = labeled(found, config)
    assigned = assign(candidates, config.splits)

    images = run.folder / "images"
    stored = take(
        assigned.candidates,
        ReadAndStore(images, config.modality, len(config.mask_classes), config.values, config.burned_in),
        folder=run.folder,
        engine=config.engine,
        state=pseudonyms.state,
        stamps=found.stamps,
        earlier=config.update,
    )
    curated = curate(assigned.candidates, stored.taken, config.curation)
    refusals = (*found.refusals, *assigned.refusals, *stored.refusals, *curated.refusals)
    made = rows(curated.candidates, curated.taken, pseudonyms, name)
    require_some(made, refusals)

    burned_in.report((one.writing for one in stored.taken.values()), (refusal.code for refusal in refusals))
    run.failures += dicom_copies.write(
        config.deidentify,
        curated.candidates,
        curated.taken,
        pseudonyms,
        burned_in=config.burned_in,
        engine=config.engine,
    )
    masks = mask_classes(config.mask_classes, curated.taken.values())
    manifest = Manifest(made, facts_of(config, prose, classes=classes(made), mask_classes=masks), run.folder)
    left_out = quarantined(refusals, pseudonyms, found.root)
    crosswalk.write(config.key, name, way_back(candidates, refusals, pseudonyms, found.root))
    manifest.write()
    quarantine.write(left_out, run.folder)
    update.leave(found, manifest, left_out, prose)
    if not update.takes_card(manifest, left_out, prose):
        write_card(manifest, left_out, prose)
    storing.clean(manifest)
    local.discard()
    run.failures += failures(left_out)
    run.tracker.dataset(name, manifest.hash, "ingest")
    run.keep(cards.FILE_NAME, croissant.FILE_NAME)
    run.tracker.file(run.folder / card_plots.FOLDER, card_plots.FOLDER)
    return manifest


def labeled(found: Scan, config: IngestConfig) -> tuple[Candidate, ...]:
    """The images of a source with their labels, from the table if there is one, else from folders if asked for."""
    if config.labels is None:
        return from_folders(found.candidates, config.label_from)
    if config.label_from != "none":
        log.warning("label_from=%s is ignored: the labels come from the table", config.label_from)
    return from_table(found.candidates, config.labels, columns=config.label_columns, files=found.files)


def facts_of(config: IngestConfig, prose: Prose | None, **found: Any) -> Facts:
    """What is true of the dataset as a whole: from the config, else from prose on it, and what was `found`."""
    licence = config.licence or (prose.head.licence if prose else "")
    source = config.source_url or (prose.head.source if prose else "")
    return Facts(config.title, licence=licence, source=source, description=config.description, **found)
