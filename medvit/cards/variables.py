"""Variables of the images of a dataset, for comparison: geometry, scanner, patients, classes.

Each value of an attribute counts once per patient; other variables count once per image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from medvit.cards.effect_sizes import Observed
from medvit.dataset.intensity_statistics import PERCENTILES, percentiles, sampled_rows
from medvit.dataset.manifest import Manifest
from medvit.records import Row

MAX_CLASSES = 12
"""Maximum number of classes of a numeric label that is treated as nominal, such as a grade."""


def numbers(manifest: Manifest) -> dict[str, Observed]:
    """Return the numeric variables, keyed by names that include the unit.

    Raises:
        DataError: If the store lacks pixels that are to be measured.
    """
    rows = manifest.rows
    found = {
        "age, years": _of_patients(rows, "age_years"),
        "tube voltage, kV": _of_patients(rows, "kvp"),
        "slice thickness, mm": _of_patients(rows, "slice_thickness_mm"),
        "echo time, ms": _of_patients(rows, "echo_time_ms"),
        "repetition time, ms": _of_patients(rows, "repetition_time_ms"),
        "quality of the fundus": _of_patients(rows, "fundus_quality"),
        "pixel size, microns": _observed((row, row.mpp) for row in rows),
    }
    for axis, letter in enumerate("IJK"):
        found[f"spacing {letter}, mm"] = _observed((r, r.spacing_mm[axis] if r.spacing_mm else None) for r in rows)
        volumes = [row for row in rows if row.kind == "volume"]
        found[f"size {letter}, voxels"] = _observed((row, row.shape[1 + axis]) for row in volumes)
    for axis, side in enumerate(("rows", "columns")):
        found[side] = _observed((row, row.shape[1 + axis]) for row in rows if row.kind == "image")
    for key, classes in manifest.facts.classes.items():
        if is_numeric(classes):
            found[f"label {key}"] = _observed((row, _number(row.labels.get(key))) for row in rows)
    found |= _intensities(manifest)
    return {name: observed for name, observed in found.items() if len(observed)}


def names(manifest: Manifest) -> dict[str, Observed]:
    """Return the nominal variables, such as the scanner, keyed by name."""
    rows = manifest.rows
    found = {
        "modality": Observed([row.modality or "unknown" for row in rows], [row.patient_id for row in rows]),
        "channels": Observed([str(row.shape[0]) for row in rows], [row.patient_id for row in rows]),
        "label map": Observed(["yes" if row.mask else "no" for row in rows], [row.patient_id for row in rows]),
    }
    titles = {"manufacturer": "manufacturer", "model": "model", "field_strength_t": "field strength, T"}
    titles |= {"kernel": "convolution kernel", "sequence": "scanning sequence", "sex": "sex"}
    titles |= {"laterality": "laterality", "view": "centered on"}
    found |= {title: _of_patients(rows, key, are_numbers=False) for key, title in titles.items()}
    if all(row.flags is not None for row in rows):
        flags = [" + ".join(row.flags or ()) or "none" for row in rows]
        found["flags"] = Observed(flags, [row.patient_id for row in rows])
    for key, classes in manifest.facts.classes.items():
        if not is_numeric(classes):
            found[f"label {key}"] = Observed([r.labels.get(key, "(none)") for r in rows], [r.patient_id for r in rows])
    return {name: observed for name, observed in found.items() if len(observed)}


def _of_patients(rows: Iterable[Row], key: str, *, are_numbers: bool = True) -> Observed:
    """Return the values of the attribute `key`, and the patient of each value.

    A value that several images of a patient have counts once. If `are_numbers`, values are converted to float.
    """
    pairs = dict.fromkeys((row.patient_id, row.attributes[key]) for row in rows if key in row.attributes)
    patients = [patient for patient, _ in pairs]
    return Observed([float(value) for _, value in pairs] if are_numbers else [value for _, value in pairs], patients)


def _observed(pairs: Iterable[tuple[Row, float | None]]) -> Observed:
    known = [(row.patient_id, float(value)) for row, value in pairs if value is not None]
    return Observed([value for _, value in known], [patient for patient, _ in known])


def _intensities(manifest: Manifest) -> dict[str, Observed]:
    found: dict[str, tuple[list[float], list[str]]] = {}
    for row in sampled_rows(manifest):
        levels = percentiles(manifest, row)
        if levels is None:
            continue
        group = f"{row.modality or 'unknown'}{f' ({row.unit})' if row.unit else ''}"
        for percentile, level in zip(PERCENTILES, levels, strict=True):
            name = f"intensity of {group}, {'median' if percentile == 50 else f'percentile {percentile}'}"
            values, patients = found.setdefault(name, ([], []))
            values.append(float(level))
            patients.append(row.patient_id)
    return {name: Observed(*lists) for name, lists in found.items()}


def is_numeric(classes: Collection[str]) -> bool:
    """Return whether the classes of a label are measurements: many, and all numbers."""
    return len(classes) > MAX_CLASSES and all(_number(name) is not None for name in classes)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
