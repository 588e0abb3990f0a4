"""From a folder of raw images to a dataset: pixels in the store, a manifest of pseudonyms, splits and a data card."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from medvit import cards
from medvit.cards import croissant, plots, write_card
from medvit.cards.prose import Prose, find_prose, fitting
from medvit.config import Positive
from medvit.dataset import quarantine
from medvit.dataset.manifest import Facts, Manifest
from medvit.deidentification import burned_in, crosswalk
from medvit.deidentification.burned_in import BurnedInConfig
from medvit.deidentification.patient_ids import with_shared_uids
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig
from medvit.files.limits import MAX_VOLUME_GIB, allow_volumes
from medvit.ingest import deidentified_copy, near_duplicates, slides
from medvit.ingest.curation import CurationConfig, curate
from medvit.ingest.deidentified_copy import DeidentifyConfig
from medvit.ingest.label_keys import LabelBy
from medvit.ingest.label_table import LabelTable, Unmatched
from medvit.ingest.labels import LABEL, LabelFrom, classes, from_folders, positive_classes
from medvit.ingest.laterality import EyeConfig, GroupPattern, paired
from medvit.ingest.mask_meaning import MaskClasses, MaskCounts, MaskMeaning, MaskValues, meaning_of
from medvit.ingest.pack_tiles import pack
from medvit.ingest.rows import (
    failures,
    mask_classes,
    quarantined,
    require_some,
    rows,
    tell_assumed,
    tell_unlabeled,
    warn_of_identifiers,
    way_back,
)
from medvit.ingest.scan import Scan, scan
from medvit.ingest.splits import SplitAssignment, SplitConfig, assign
from medvit.ingest.store_images import ReadAndStore, Stored, mask_counts, remove_unused_arrays, store_images
from medvit.ingest.update import Update
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GeometryConfig, ValuesConfig
from medvit.records import Candidate
from medvit.sources import Location, RetrieveConfig, fetch, local_path
from medvit.stage import Run, StageConfig, stage
from medvit.wsi.tiling import TilesConfig

log = logging.getLogger("medvit")


def _spelled_out(value: Any) -> Any:
    """Texts of a list in which YAML takes NULL for nothing."""
    return ["NULL" if text is None else text for text in value] if isinstance(value, list | tuple) else value


MissingTexts = Annotated[tuple[str, ...], BeforeValidator(_spelled_out)]
IgnoredValues = Annotated[
    tuple[int, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | str) else value)
]


class IngestConfig(StageConfig):
    """Options of `medvit ingest`."""

    OUTPUT: ClassVar[str] = "dataset"
    USES_TORCH: ClassVar[bool] = False
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "retrieve", "keep_headers", "max_volume_gib")
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "name",
        "positive",
        "label_from",
        "label_columns",
        "mask_classes",
        "license",
        "source_url",
    )

    RENAMED: ClassVar[Mapping[str, str]] = {"licence": "license"}

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
    """CSV or Excel (.xlsx): a column that says what a line is about, labels, and maybe split and patient."""
    label_by: LabelBy = "file"
    """What lines are about: file (path relative to source, or unique name), study, series, accession or patient, in the
    column file, StudyInstanceUID, SeriesInstanceUID, AccessionNumber or PatientID."""
    label_unmatched: Unmatched = "refuse"
    """Lines about what the source does not have: refuse, or warn and skip them."""
    label_columns: tuple[str, ...] = ()
    """Columns of the table to take, in any letter case; none takes all but those that look as if they named people."""
    label_missing: MissingTexts | None = None
    """Texts of the table for a missing value. Unset: NA, n/a, nan, NULL and #N/A; None, - and + are refused."""
    label_from: LabelFrom = "off"
    """Labels from folder names, which may name people: folder takes them, auto if nothing speaks against it."""
    positive: dict[str, str] | str = ""
    """The positive one of two classes, as cancer, or by label, as {finding: cancer}: sensitivity is of it."""
    mask_classes: MaskClasses = ()
    """Names of the values 0, 1, 2... of label maps, or of those of a mapping, as {0: background, 255: lesion}."""
    mask_values: MaskValues = "classes"
    """What values of label maps above 0 number: classes, or instances, single things that all become class 1."""
    mask_ignore: IgnoredValues = ()
    """Values of label maps that are no class: such pixels count in no loss and no metric."""
    mask_folder: tuple[str, ...] = ()
    """Names of the folders that hold label maps, beside those of images. Unset: labels, masks, gt and the like."""
    patient_from: GroupPattern | None = None
    """Regular expression whose one group is the patient in a file's path; none takes DICOM PatientID, else the path."""
    geometry: GeometryConfig = Field(default_factory=GeometryConfig)
    stacks: StacksConfig | None = None
    """Folders of pictures that are one volume each, as B-scans of OCT; none takes each picture as an image."""
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Largest image or array, of any format, to decompress into memory; larger ones are refused."""
    values: ValuesConfig = Field(default_factory=ValuesConfig)
    splits: SplitConfig = Field(default_factory=SplitConfig)
    curation: CurationConfig = Field(default_factory=CurationConfig)
    license: str = ""
    """Terms under which the images may be used, for the card."""
    source_url: str = ""
    """Where the images come from, for the card: a URL or a citation."""
    description: str = ""
    """What the dataset is, for the card."""
    card: Path | None = None
    """Markdown with prose for the card. Unset: data_cards/NAME.md of the project, where the number of images fits."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, made on first use; the way back to names lies beside it, in KEY.crosswalk/."""
    keep_headers: bool = True
    """Keep headers, which name patients, in KEY.headers/; false removes them, and update= reads all headers anew."""
    deidentify: DeidentifyConfig = Field(default_factory=DeidentifyConfig)
    burned_in: BurnedInConfig = Field(default_factory=BurnedInConfig)
    tiles: TilesConfig = Field(default_factory=TilesConfig)
    eye: EyeConfig = Field(default_factory=EyeConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        """What is made lies outside of what it is made of, or the next ingest would take it for images."""
        places = {"dataset": self.dataset, "deidentify.copy_to": self.deidentify.copy_to}
        made = {key: path.resolve() for key, path in places.items() if path is not None}
        source = local_path(self.source)
        if source is not None and source.is_dir():
            for key, path in made.items():
                if path.is_relative_to(source.resolve()):
                    raise ValueError(f"{key} lies inside of the source folder; give a place beside it")
        dataset, copy = made["dataset"], made.get("deidentify.copy_to")
        if copy is not None and (copy.is_relative_to(dataset) or dataset.is_relative_to(copy)):
            raise ValueError("deidentify.copy_to and dataset lie inside one another; give a folder for each")
        return self

    @model_validator(mode="after")
    def _have_one_meaning(self) -> Self:
        if isinstance(self.mask_classes, Mapping) and self.mask_values == "instances":
            raise ValueError("mask_values=instances makes all values one class, mask_classes names values; give one")
        return self

    @property
    def title(self) -> str:
        """Name of the dataset: the one given, or that of the dataset to update, or that of the folder."""
        if self.name is None and self.update is not None:
            return Facts.of_dataset(self.update).name
        return self.name or re.sub(r"[^\w. -]", "_", self.dataset.absolute().name)


@stage
def ingest(config: IngestConfig, run: Run) -> Manifest:
    """Makes a dataset of a folder of images: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, npz or whole slides."""
    name = config.title
    allow_volumes(config.max_volume_gib)
    run.in_force(name=name)
    config.deidentify.check(resume=config.resume)
    table = read_labels(config)
    if config.update is not None:
        run.dataset(config.update, "update")
    prose = find_prose(config.card, name)
    pseudonyms = Pseudonyms.with_key_file(config.key, name)
    update = Update(config.update, config.key, name, pseudonyms, is_kept=config.keep_headers)
    if not run.began_with("source", pseudonyms.state("source", config.source)):
        log.warning("the source is another than the unfinished run began with; what is in both is taken from that run")
    local = fetch(config.source, config.retrieve, work=run.folder)
    patients, memory = config.patient_from, update.remembered
    how: dict[str, Any] = {"geometry": config.geometry, "stacks": config.stacks, "engine": config.engine}
    how |= {"mask_folder": config.mask_folder}
    found = scan(local, patient_from=patients, remembered=memory, **how)
    found = slides.as_slides(found, config.tiles)
    update.tell(found)
    candidates = with_shared_uids(labeled(found, config, table), found.refused)
    warn_of_identifiers(candidates, pseudonyms)
    positive = positive_classes(candidates, config.positive)
    assigned = assign(candidates, config.splits)

    counts = counts_of(assigned.candidates, config, pseudonyms, found, run.folder)
    meaning = meaning_of(
        [MaskCounts.of_texts(one) for one in counts.values()],
        config.mask_classes,
        values=config.mask_values,
        ignored=config.mask_ignore,
    )
    stored = stored_of(assigned.candidates, config, pseudonyms, found, run.folder, meaning, counts)
    assigned = kept_together(assigned, candidates, stored, config, pseudonyms, run.folder)
    curated = curate(assigned.candidates, stored.taken, config.curation, not_fundus=config.eye.not_fundus)
    refusals = (*found.refusals, *assigned.refusals, *stored.refusals, *curated.refusals)
    made = rows(curated.candidates, curated.taken, pseudonyms, name)
    require_some(made, refusals)
    tell_unlabeled(made)
    tell_assumed(made)
    prose = prose if config.card else fitting(prose, made)
    slides.leave_places(curated.candidates, made, config.tiles, pseudonyms, config.key)
    if config.tiles.pack:
        made = pack(made, folder=run.folder, key=config.key, engine=config.engine)

    burned_in.report((one.writing for one in stored.taken.values()), (refusal.code for refusal in refusals))
    copy = deidentified_copy.write(
        config.deidentify,
        curated.candidates,
        curated.taken,
        pseudonyms,
        burned_in=config.burned_in,
        engine=config.engine,
    )
    run.failures += copy.failures
    masks = mask_classes(meaning.names, curated.taken.values())
    facts = facts_of(config, prose, classes=classes(made), mask_classes=masks, positive=positive, notes=copy.notes)
    run.in_force(
        positive=positive,
        label_from=label_source(config, table, found, candidates),
        label_columns=config.label_columns if table is None else tuple(table.columns),
        mask_classes=meaning.option(masks) if masks else config.mask_classes,
        license=facts.license,
        source_url=facts.source,
    )
    manifest = Manifest(made, facts, run.folder)
    left_out = quarantined(refusals, pseudonyms, found.root)
    who = crosswalk.write(config.key, name, way_back(candidates, refusals, pseudonyms, found.root))
    if left_out:
        log.info("what was not taken is listed by pseudonym; %s tells which files these are", who)
    manifest.write()
    quarantine.write(left_out, run.folder)
    update.leave(found, manifest, left_out, prose)
    if not update.takes_card(manifest, left_out, prose):
        write_card(manifest, left_out, prose)
    remove_unused_arrays(manifest)
    slides.remove_unused_tiles(run.folder, manifest.rows)
    local.discard()
    run.failures += failures(left_out)
    run.tracker.dataset(name, manifest.hash, "ingest")
    run.keep(cards.FILE_NAME, croissant.FILE_NAME)
    run.tracker.file(run.folder / plots.FOLDER, plots.FOLDER)
    return manifest


def counts_of(
    candidates: Sequence[Candidate], config: IngestConfig, pseudonyms: Pseudonyms, found: Scan, folder: Path
) -> dict[str, dict[str, int]]:
    """The values in all label maps of a source, by the state of their files; what they mean is decided over all."""
    state, engine, earlier = pseudonyms.state, config.engine, config.update
    return mask_counts(candidates, folder=folder, engine=engine, state=state, stamps=found.stamps, earlier=earlier)


def stored_of(
    candidates: Sequence[Candidate],
    config: IngestConfig,
    pseudonyms: Pseudonyms,
    found: Scan,
    folder: Path,
    meaning: MaskMeaning,
    counts: Mapping[str, Mapping[str, int]],
) -> Stored:
    """What was taken of candidates: pixels go into the store; of slides, the tiles are listed."""
    whole_slides, others = slides.apart(candidates)
    read = ReadAndStore(folder / "images", config.modality, meaning, config.values, config.burned_in, config.eye)
    state, engine, earlier = pseudonyms.state, config.engine, config.update
    stored = store_images(
        others,
        read,
        folder=folder,
        engine=engine,
        state=state,
        stamps=found.stamps,
        earlier=earlier,
        counts=counts,
    )
    return stored.and_also(slides.store_slides(whole_slides, config.tiles, folder, engine, pseudonyms, found, earlier))


def kept_together(
    assigned: SplitAssignment,
    candidates: Sequence[Candidate],
    stored: Stored,
    config: IngestConfig,
    pseudonyms: Pseudonyms,
    folder: Path,
) -> SplitAssignment:
    """The splits with patients whose images are near duplicates kept together, where that is asked for."""
    if config.splits.keep_together != "near_duplicates" or config.splits.test == 1:
        return assigned
    joined = near_duplicates.joined_patients(assigned.candidates, stored.taken, pseudonyms, folder)
    regrouped = assign(candidates, config.splits, joined.representatives)
    near_duplicates.report(joined, assigned.candidates, regrouped.candidates)
    return regrouped


def labeled(found: Scan, config: IngestConfig, table: LabelTable | None) -> tuple[Candidate, ...]:
    """The images of a source with their labels, from the table if there is one, else from folders if asked for."""
    if table is None:
        for key in ("label_by", "label_unmatched", "label_missing", "label_columns"):
            if getattr(config, key) != type(config).model_fields[key].default:
                log.warning("%s is ignored: it is of a table, and labels=... names none", key)
        named = from_folders(found.candidates, config.label_from)
        return paired(named, config.modality, folders_are_classes=any(one.labels for one in named))
    if config.label_from != "off":
        log.warning("label_from=%s is ignored: the labels come from the table", config.label_from)
    told = table.labeled(found.candidates, found.files, config.label_unmatched)
    return paired(told, config.modality)


def label_source(
    config: IngestConfig, table: LabelTable | None, found: Scan, labeled: Sequence[Candidate]
) -> LabelFrom:
    """Whether labels were taken from folders, as `label_from` says it."""
    pairs = zip(found.candidates, labeled, strict=True)
    took = table is None and any(LABEL in after.labels and LABEL not in before.labels for before, after in pairs)
    return "folder" if took else "off" if config.label_from == "auto" or table is not None else config.label_from


def read_labels(config: IngestConfig) -> LabelTable | None:
    """The table of labels, if there is one, checked as far as it can be before the images are there."""
    if config.labels is None:
        return None
    how: dict[str, Any] = {"by": config.label_by, "missing": config.label_missing}
    return LabelTable.read(config.labels, columns=config.label_columns, **how)


def facts_of(config: IngestConfig, prose: Prose | None, **found: Any) -> Facts:
    """What is true of the dataset as a whole: from the config, else from prose on it, and what was `found`."""
    rights = config.license or (prose.head.license if prose else "")
    source = config.source_url or (prose.head.source if prose else "")
    found["values"] = config.values.model_dump(exclude_defaults=True)
    return Facts(config.title, license=rights, source=source, description=config.description, **found)
