"""Content of a file as a mapping from places to values, so that the place of a difference can be named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import yaml
from numpy import ndarray as Array
from PIL import Image

from benchmarks.golden.masks import CELLS, ELEMENTS, MASKED, METADATA, RUN_TABLES, STATES, Names

Content = Mapping[str, Any]
"""Place in a file -> a plain value, bytes or an array."""
Reader = Callable[[str, bytes, Names], Iterator[tuple[str, Any]]]


def content(name: str, raw: bytes, names: Names) -> Content:
    """Return the content of a file with masks applied, read according to its type; unknown types are read as bytes."""
    is_dicom = raw[128:132] == b"DICM"
    reader = _dicom if is_dicom else READERS.get(Path(name).suffix.lower(), _bytes)
    return dict(reader(name, raw, names))


def flattened(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists with their places; an empty mapping or list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flattened(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from flattened(part, f"{place}[{index}]")
    else:
        yield place, value


def _masked(leaves: Iterator[tuple[str, Any]], names: Names) -> Iterator[tuple[str, Any]]:
    for place, value in leaves:
        yield names.replace(place), names.replace(value) if isinstance(value, str) else value


def _bytes(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    yield "bytes", raw


def _text(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(names.lines(raw.decode("utf-8", "surrogateescape")), 1):
        yield f"line {number}", line


def _json(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    yield from _masked(flattened(json.loads(raw)), names)


def _json_lines(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    # Sorted: lines are appended as processes finish their items.
    lines = sorted(STATES.sub(MASKED, names.replace(raw.decode())).splitlines())
    for number, line in enumerate(lines, 1):
        start = min(position for position in (line.find("{"), line.find("["), len(line)) if position >= 0)
        yield f"line {number}", line[:start]
        yield from flattened(json.loads(line[start:] or "null"), f"line {number}")


def _yaml(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    yield from _masked(flattened(yaml.safe_load(raw)), names)


def _csv(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    text = raw.decode("utf-8", "surrogateescape")
    header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    yield "columns", names.replace(",".join(header))
    for number, row in enumerate(rows, 1):
        for column, cell in zip([*header, *map(str, range(len(header), len(row)))], row, strict=False):
            is_masked = column in CELLS.get(Path(name).name, ())
            yield f"row {number}, {column}", MASKED if is_masked else names.replace(cell)


def _parquet(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    table = pq.read_table(io.BytesIO(raw))
    for field in table.schema:
        yield f"type of {field.name}", f"{field.type}{'' if field.nullable else ' not null'}"
    yield "order of columns", ",".join(table.schema.names)
    for key, value in (table.schema.metadata or {}).items():
        for place, leaf in _masked(_metadata(f"metadata {key.decode()}", value), names):
            yield place, MASKED if place in METADATA else leaf
    for column in table.column_names:
        for number, value in enumerate(table[column].to_pylist(maps_as_pydicts=None)):
            yield f"row {number}, {column}", names.replace(value) if isinstance(value, str) else value


def _metadata(place: str, value: bytes) -> Iterator[tuple[str, Any]]:
    try:
        yield from flattened(json.loads(value), place)
    except ValueError:
        yield place, value


def _safetensors(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    yield from _masked(flattened(header.pop("__metadata__", {}), "metadata"), names)
    for tensor, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        yield f"{tensor}, type and shape", f"{entry['dtype']} {entry['shape']}"
        kind = {"F32": "<f4", "F64": "<f8", "I64": "<i8"}.get(entry["dtype"], "u1")
        yield tensor, np.frombuffer(raw[start:end], kind)


def _arrays(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    loaded = np.load(io.BytesIO(raw), allow_pickle=False)
    yield from ({"array": loaded} if isinstance(loaded, Array) else loaded).items()


def _blosc(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    import blosc2

    yield "array", blosc2.ndarray_from_cframe(raw)[...]
    yield "bytes", raw


def _image(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    with Image.open(io.BytesIO(raw)) as image:
        yield "mode", image.mode
        yield "pixels", np.asarray(image)
    yield "bytes", raw


def _nifti(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    import nibabel as nib

    image = nib.Nifti1Image.from_bytes(raw)
    for field in image.header:
        yield f"header {field}", image.header[field]
    yield "voxels", np.asarray(image.dataobj)


def _gzip(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    # The gzip header contains a time.
    yield from content(name.removesuffix(".gz"), gzip.decompress(raw), names).items()


def _zip(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for member in archive.namelist():
            for place, value in content(member, archive.read(member), names).items():
                yield f"{names.replace(member)}: {place}", value


def _dicom(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    dataset = pydicom.dcmread(io.BytesIO(raw), force=True)
    hidden = {keyword for start, keywords in ELEMENTS.items() if name.startswith(start) for keyword in keywords}
    yield "preamble", dataset.preamble
    for part, elements in (("meta ", dataset.file_meta), ("", dataset)):
        yield from _masked(_elements(elements, part, hidden), names)


def _elements(dataset: pydicom.Dataset, place: str, hidden: Container[str]) -> Iterator[tuple[str, Any]]:
    for element in dataset:
        title = f"{place}{element.tag} {element.keyword}".rstrip()
        if element.VR == "SQ":
            yield f"{title} items", len(element.value)
            for index, item in enumerate(element.value):
                yield from _elements(item, f"{title}[{index}] ", hidden)
        elif element.keyword in hidden:
            yield title, MASKED
        else:
            yield title, element.value if isinstance(element.value, bytes) else f"{element.VR} {element.value}"


def _mlflow(name: str, raw: bytes, names: Names) -> Iterator[tuple[str, Any]]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "copy.db")
        path.write_bytes(raw)
        with sqlite3.connect(path) as connection:
            for table, query in RUN_TABLES.items():
                lines = sorted(names.replace("\t".join(map(str, row))) for row in connection.execute(query))
                for number, line in enumerate(lines, 1):
                    yield f"{table} {number}", line


READERS: Mapping[str, Reader] = {
    **dict.fromkeys((".txt", ".md", ".html", ".log"), _text),
    **dict.fromkeys((".json", ".geojson"), _json),
    **dict.fromkeys((".yaml", ".yml"), _yaml),
    **dict.fromkeys((".npz", ".npy"), _arrays),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif"), _image),
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
    ".b2nd": _blosc,
    ".nii": _nifti,
    ".gz": _gzip,
    ".zip": _zip,
    ".db": _mlflow,
}
"""Extension of a file's name -> its reader."""
