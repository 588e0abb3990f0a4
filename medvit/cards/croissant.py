"""Machine-readable description of a dataset: JSON-LD of the Croissant format, version 1.0 (MLCommons, 2024)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medvit.config import Tree
from medvit.dataset import manifest as manifests
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.files.atomic import write_text

FILE_NAME = "card.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

_CONTEXT: Tree = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Context recommended by the specification."""

_COLUMNS = {
    "image_id": ("sc:Text", "Pseudonym of the image"),
    "patient_id": ("sc:Text", "Pseudonym of the patient"),
    "study_id": ("sc:Text", "Pseudonym of the study"),
    "series_id": ("sc:Text", "Pseudonym of the series"),
    "modality": ("sc:Text", "Modality, by its DICOM code"),
    "kind": ("sc:Text", "image, volume or slide"),
    "dataset": ("sc:Text", "Name of the dataset"),
    "split": ("sc:Text", "train, val, calibration or test; a patient is in one of them"),
    "shape": ("sc:Integer", "Channels, then voxels along each axis"),
    "dtype": ("sc:Text", "Type of the stored pixels"),
    "sha256": ("sc:Text", "Content address of the pixels: images/AB/AB....b2nd, AB its first two digits"),
    "mask": ("sc:Text", "Content address of the label map"),
    "spacing_mm": ("sc:Float", "Distance of voxel centers along each axis, in mm"),
    "affine": ("sc:Float", "Voxel to world, RAS+ in mm, a 4 x 4 matrix row by row"),
    "mpp": ("sc:Float", "Microns per pixel"),
    "slope": ("sc:Float", "Real intensity = slope * stored value + intercept"),
    "intercept": ("sc:Float", "Real intensity = slope * stored value + intercept"),
    "unit": ("sc:Text", "Unit of the real intensity"),
    "part": ("sc:Text", "Kind of image within its series, such as an echo or a time"),
    "flags": ("sc:Text", "Quality flags"),
    "perceptual_hash": ("sc:Text", "256-bit perceptual hash in hexadecimal digits; similar images share most bits"),
    "file_sha256": ("sc:Text", "Hash of the file the image came from, where it was one file and not DICOM"),
    "padding": ("sc:Float", "Lowest and highest stored value of pixels without a measurement"),
    "fallback": ("sc:Text", "Option of values that the file did not allow, so that its pixels are the stored values"),
    "num_not_finite": ("sc:Integer", "Pixels that are NaN or infinite"),
    "patient_is_assumed": (
        "sc:Boolean",
        "Whether the patient is assumed: no identifier was found, so an image, series or study counts as one",
    ),
    "patient_any_issuer": ("sc:Text", "Pseudonym of a PatientID that several issuers assigned, empty for others"),
    "annotated": ("sc:Text", "Classes that are annotated in the label map, empty if all are"),
}
"""Columns of the manifest, except `labels` and `attributes`, since the format has no maps."""
_REPEATED = ("shape", "spacing_mm", "affine", "flags", "padding", "annotated")


def write_croissant(manifest: Manifest) -> Path:
    """Write `card.json` next to the manifest and the quarantine, which must exist; return its path."""
    path = manifest.folder / FILE_NAME
    write_text(path, json.dumps(_describe(manifest), indent=2) + "\n")
    return path


def _describe(manifest: Manifest) -> Tree:
    facts = manifest.facts
    origin = "url" if facts.source.startswith(("http://", "https://")) else "citeAs"
    known = {"license": facts.license, origin: facts.source}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.name,
        "description": facts.description or f"{len(manifest)} medical images, prepared by medvit",
        "conformsTo": CONFORMS_TO,
        **{key: value for key, value in known.items() if value},
        "distribution": [_file(manifest.folder / name) for name in (manifests.FILE_NAME, quarantine.FILE_NAME)],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "One row per image, volume or slide; labels and attributes (maps) are not described",
                "key": {"@id": "images/image_id"},
                "field": [_field(name) for name in _COLUMNS],
            }
        ],
    }


def _file(path: Path) -> Tree:
    content = path.read_bytes()
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/x-parquet",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _field(name: str) -> dict[str, Any]:
    kind, description = _COLUMNS[name]
    return {
        "@type": "cr:Field",
        "@id": f"images/{name}",
        "name": name,
        "description": description,
        "dataType": kind,
        **({"repeated": True} if name in _REPEATED else {}),
        "source": {"fileObject": {"@id": manifests.FILE_NAME}, "extract": {"column": name}},
    }
