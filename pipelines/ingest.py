"""Ingest of raw images: pixels in the store, a manifest of pseudonyms, splits and a data card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from medvit.dataset.manifest import Facts, Manifest
from medvit.deidentification import burned_in
from medvit.engine import EngineConfig
from medvit.files.limits import allow_volumes
from medvit.ingest import deidentified_copy
from medvit.ingest.curation import CurationConfig, curate
from medvit.ingest.dataset import Dataset, Description, FactsConfig
from medvit.ingest.deidentified_copy import DeidentifyConfig
from medvit.ingest.labeling import Labeled, LabelingConfig, Labels
from medvit.ingest.labels import classes, measured
from medvit.ingest.near_duplicates import kept_together
from medvit.ingest.rows import check_rows, instances, mask_classes, rows, warn_of_identifiers
from medvit.ingest.scan import ScanningConfig, scan
from medvit.ingest.site import Site
from medvit.ingest.splits import SplitConfig, assign
from medvit.ingest.splits.origin import held_out, with_origin
from medvit.ingest.storing import Workplace
from medvit.ingest.storing.masks import Masks
from medvit.ingest.storing.storage import Storage, TakingConfig
from medvit.ingest.update import Earlier
from medvit.sources import Location, RetrieveConfig, fetch, local_path
from medvit.stage import Run, StageConfig, stage


class IngestConfig(StageConfig):
    """Options of `medvit ingest`."""

    OUTPUT: ClassVar[str] = "dataset"
    USES_TORCH: ClassVar[bool] = False
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        *StageConfig.MAY_CHANGE,
        "retrieve",
        "keep_headers",
        "scanning.max_volume_gib",
    )
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "name",
        "labeling.positive",
        "labeling.from_folders",
        "labeling.columns",
        "labeling.mask_classes",
        "facts.license",
        "facts.source_url",
    )
    RENAMED: ClassVar[Mapping[str, str]] = {
        "labels": "labeling.table",
        "label_by": "labeling.by",
        "label_unmatched": "labeling.unmatched",
        "label_columns": "labeling.columns",
        "label_missing": "labeling.missing",
        "label_from": "labeling.from_folders",
        "positive": "labeling.positive",
        "mask_classes": "labeling.mask_classes",
        "mask_values": "labeling.mask_values",
        "mask_ignore": "labeling.mask_ignore",
        "patient_from": "scanning.patient_from",
        "modality": "scanning.modality",
        "geometry": "scanning.geometry",
        "stacks": "scanning.stacks",
        "mask_folder": "scanning.mask_folder",
        "eye": "scanning.eye",
        "max_volume_gib": "scanning.max_volume_gib",
        "values": "taking.values",
        "burned_in": "taking.burned_in",
        "tiles": "taking.tiles",
        "license": "facts.license",
        "licence": "facts.license",
        "source_url": "facts.source_url",
        "description": "facts.description",
        "card": "facts.card",
    }

    source: Location = Field(json_schema_extra={"private": True})
    """Images to read: a folder, file, archive or DICOMDIR, or a server. Servers are given as https://HOST/ROOT for
    DICOMweb and as pacs://AET@HOST:PORT for DICOM.
    """
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    dataset: Path
    """New folder for the dataset."""
    update: Path | None = None
    """Earlier dataset from the same source. Unchanged images are reused from it, and the number of changes is reported.
    """
    name: str | None = Field(default=None, pattern=r"^[\w][\w. -]*$")
    """Name of the dataset. Unset: the name of the dataset given as `update`, or of the folder."""
    scanning: ScanningConfig = Field(default_factory=ScanningConfig)
    labeling: LabelingConfig = Field(default_factory=LabelingConfig)
    splits: SplitConfig = Field(default_factory=SplitConfig)
    curation: CurationConfig = Field(default_factory=CurationConfig)
    taking: TakingConfig = Field(default_factory=TakingConfig)
    facts: FactsConfig = Field(default_factory=FactsConfig)
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file from which pseudonyms are computed, created on first use. The crosswalk, a table that maps pseudonyms to
    the original identifiers, is stored beside it in KEY.crosswalk/.
    """
    keep_headers: bool = True
    """Cache DICOM headers, which contain names of patients, in KEY.headers/. The value false deletes this cache; with
    `update`, all headers are then read again.
    """
    deidentify: DeidentifyConfig = Field(default_factory=DeidentifyConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="after")
    def _are_apart(self) -> Self:
        """Check that outputs are outside of the source folder, where the next ingest would read them as images."""
        places = {"dataset": self.dataset, "deidentify.copy_to": self.deidentify.copy_to}
        made = {key: path.resolve() for key, path in places.items() if path is not None}
        source = local_path(self.source)
        if source is not None and source.is_dir():
            for key, path in made.items():
                if path.is_relative_to(source.resolve()):
                    raise ValueError(f"{key} is inside the source folder; give a folder outside")
        dataset, copy = made["dataset"], made.get("deidentify.copy_to")
        if copy is not None and (copy.is_relative_to(dataset) or dataset.is_relative_to(copy)):
            raise ValueError("one of deidentify.copy_to and dataset is inside the other; give separate folders")
        return self

    @property
    def title(self) -> str:
        """Name of the dataset: the given name, else the name of the dataset to update, else the name of the folder."""
        if self.name is None and self.update is not None:
            return Facts.of_dataset(self.update).name
        return self.name or re.sub(r"[^\w. -]", "_", self.dataset.absolute().name)


@stage
def ingest(config: IngestConfig, run: Run) -> Manifest:
    """Make a dataset from a folder of images: DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, npz or whole slides."""
    run.in_force(name=config.title)
    allow_volumes(config.scanning.max_volume_gib)
    config.deidentify.check(resume=config.resume)
    labels = Labels.read(config.labeling)
    about = Description.read(config.facts, config.title)
    site = Site.open(config.key, config.title, keep_headers=config.keep_headers)
    earlier = Earlier.open(config.update, run, site)
    site.check_source(config.source, run)

    local = fetch(config.source, config.retrieve, work=run.folder)
    tiles = config.taking.tiles
    found = scan(local, config.scanning, slide_mpp=tiles.slide_mpp, engine=config.engine, remembered=earlier.headers)
    earlier.tell(found)
    labeled = labels.give(found, config.scanning.modality)
    warn_of_identifiers(labeled.candidates, site.pseudonyms)
    held = held_out(labeled.candidates, config.splits.test_sites, config.splits.test_since, site.pseudonyms)
    divided = assign(labeled.candidates, config.splits, held=held)

    place = Workplace(run.folder, site, config.engine, found.stamps, config.update)
    masks = Masks.read(divided.candidates, config.labeling, place)
    storage = Storage.of(config.taking, config.scanning, masks, place)
    stored = storage.store(divided.candidates)
    divided = kept_together(divided, labeled.candidates, stored.taken, config.splits, site.pseudonyms, run.folder, held)
    known = with_origin(labeled.candidates, stored.taken, site.pseudonyms)
    kept = curate(divided.candidates, known, config.curation, not_fundus=config.scanning.eye.not_fundus)

    refusals = (*found.refusals, *divided.refusals, *stored.refusals, *kept.refusals)
    whole = rows(kept.candidates, kept.taken, site.pseudonyms, site.name)
    check_rows(whole, refusals)
    about = about.of(whole)
    made = storage.rows(kept.candidates, whole)
    burned_in.report((one.writing for one in stored.taken.values()), (refusal.code for refusal in refusals))
    copy = deidentified_copy.write(
        config.deidentify,
        kept.candidates,
        kept.taken,
        site.pseudonyms,
        burned_in=config.taking.burned_in,
        engine=config.engine,
    )
    run.failures += copy.failures

    names = mask_classes(masks.meaning.names, kept.taken.values())
    notes = (*copy.notes, *([held.note] if held else []))
    values = config.taking.values.model_dump(exclude_defaults=True)
    facts = about.facts(
        classes=classes(made), mask_classes=names, positive=labeled.positive, values=values, notes=notes
    )
    measures = config.labeling.measures
    counts = instances(kept.candidates, kept.taken, site.pseudonyms, masks.meaning) if measures else {}
    complete = measured(Manifest(made, facts, run.folder), measures, instances=counts, engine=config.engine)
    run.in_force(**resolved(config, labeled, masks, complete.facts))
    dataset = Dataset.of(
        complete,
        about.prose,
        candidates=labeled.candidates,
        refusals=refusals,
        root=found.root,
        site=site,
    )
    manifest = dataset.write(run, earlier, found)
    storage.remove_unused(manifest.rows)
    local.discard()
    return manifest


def resolved(config: IngestConfig, labeled: Labeled, masks: Masks, facts: Facts) -> dict[str, Any]:
    """Return the values in use of the options that may be inferred.

    If such an option is unset, its value is inferred from the images, the label table or the text of the data card.
    """
    named = masks.meaning.option(facts.mask_classes) if facts.mask_classes else config.labeling.mask_classes
    return {
        "labeling.positive": facts.positive,
        "labeling.from_folders": labeled.from_folders,
        "labeling.columns": labeled.columns,
        "labeling.mask_classes": named,
        "facts.license": facts.license,
        "facts.source_url": facts.source,
    }
