"""Names of metrics and parameters in a form that MLflow accepts, without collisions."""

from __future__ import annotations

import hashlib
import re

MAX_LENGTH = 250
NAMELESS = "_x110000_"
"""Escape of an empty name: beyond Unicode, so that it differs from every other name."""
_ESCAPE = re.compile(r"_(?=x[0-9A-F]{4,6}_)")


def mlflow_name(name: str) -> str:
    """Return a name in which each character that MLflow refuses is replaced by `_xHHHH_`, its Unicode number.

    This is the escape sequence of Office Open XML (ECMA-376 part 1, 22.9.2.19). Because MLflow treats names as paths, a
    slash at either end or next to another slash, and the parts `.` and `..`, are escaped too. A name that is too long
    is truncated and ends with a digest of the whole name.
    """
    text = _ESCAPE.sub("_x005F_", name)
    text = "".join(one if one.isalnum() or one in "_-./ " else _escaped(one) for one in text)
    first, *parts = (_as_part(part) for part in text.split("/"))
    joined = first
    for part in parts:
        joined += f"/{part}" if joined and part and not joined.endswith(_escaped("/")) else _escaped("/") + part
    if not joined:
        return NAMELESS
    if len(joined) <= MAX_LENGTH:
        return joined
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{joined[: MAX_LENGTH - 17].rstrip('/')}-{digest}"


def _as_part(part: str) -> str:
    return _escaped(".") + part[1:] if part == "." or part.startswith("..") else part


def _escaped(character: str) -> str:
    return f"_x{ord(character):04X}_"
