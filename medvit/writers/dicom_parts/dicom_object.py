"""Parts that all DICOM results have in common: series, device, algorithm, coded terms, character set."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medvit.writers import Concept, Maker, WriterContext
from medvit.writers.dicom_parts.character_sets import settle
from medvit.writers.dicom_parts.coded_terms import label_of
from medvit.writers.dicom_parts.object_uids import ObjectUids
from medvit.writers.dicom_parts.source_instances import Sources

SERIES_NUMBER_LIMIT, SERIES_NUMBER_STEP = 10**8, 1000
"""SeriesNumber of a result: the number of the source series modulo the limit, plus the step."""
RESEARCH = "[RESEARCH]"
"""Beginning of every SeriesDescription of a result, so that a list of series shows that it is not for diagnosis."""


def authorship(sources: Sources, context: WriterContext, what: str, uids: ObjectUids) -> dict[str, Any]:
    """Return the common arguments of highdicom objects: a new series of one instance, made by a model.

    `what` is the kind of result, such as segmentation.
    """
    maker = context.maker
    return {
        "series_instance_uid": uids.series,
        "series_number": maker.series_number or series_number(sources),
        "series_description": series_description(context, what),
        "sop_instance_uid": uids.instance,
        "instance_number": 1,
        "manufacturer": "medvit",
        "manufacturer_model_name": "medvit",
        "software_versions": maker.version,
        "device_serial_number": maker.model_sha256[:16],  # the device is the model
        "content_label": "MEDVIT",
        "content_description": "made by an algorithm, not reviewed",
        "content_creator_name": "",
        "contributing_equipment": [_equipment(maker)],
    }


def series_description(context: WriterContext, what: str) -> str:
    """Return a description with the name of the model and the part of the source series, such as its echo time.

    It is one value of at most 64 characters (PS3.5 6.2, LO).
    """
    part = f", {context.item.part}" if context.item.part else ""
    return label_of(" ".join(filter(None, (RESEARCH, context.maker.name, what))) + part)


def series_number(sources: Sources) -> int:
    """Return the number of a result's series, which follows from the number of the source series."""
    number = str(sources.headers[0].get("SeriesNumber") or "")
    return (int(number) if number.isdigit() else 0) % SERIES_NUMBER_LIMIT + SERIES_NUMBER_STEP


def fit_texts(sources: Sources, context: WriterContext, classes: Sequence[str]) -> None:
    """Convert the first header of the source to UTF-8 if the model's name, classes or their codes are not ASCII.

    This is necessary because a DICOM object has only one character set.
    """
    texts = (context.maker.name, context.item.part, *classes, *(context.codes.get(name, "") for name in classes))
    if not all(text.isascii() for text in texts):
        settle(sources.headers[0], to_utf_8=True)


def notes_on(sources: Sources) -> list[str]:
    """Return the notes on a source, with its identifiers that DICOM results had to derive."""
    missing = ", ".join(sources.made_up)
    derived = [f"the source has no UID of its {missing}: DICOM results have a derived one"] if missing else []
    return [*sources.notes, *derived]


@contextmanager
def silent() -> Iterator[None]:
    """Suppress logs and warnings of libraries, because they quote identifiers of the source."""
    for library in ("highdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def algorithm(maker: Maker) -> Any:
    """Return the origin of a result as highdicom's description of an algorithm."""
    import highdicom as hd
    from pydicom.sr.codedict import codes as terms

    parameters = {"model_sha256": maker.model_sha256}
    if maker.run_id:
        parameters["mlflow_run"] = maker.run_id
    return hd.AlgorithmIdentificationSequence(
        name="medvit", family=terms.DCM.ArtificialIntelligence, version=maker.version, parameters=parameters
    )


def coded(concept: Concept) -> Any:
    """Return a coded term as an object of highdicom."""
    import highdicom as hd

    return hd.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _equipment(maker: Maker) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes as terms

    name = f" {label_of(maker.name)}" if maker.name else ""
    run = f", MLflow run {maker.run_id}" if maker.run_id else ""
    return hd.ContributingEquipment(
        "medvit",
        terms.DCM.ProcessingEquipment,
        manufacturer_model_name="medvit",
        software_versions=maker.version,
        contribution_description=f"made by the model{name} {maker.model_sha256}{run}",
    )
