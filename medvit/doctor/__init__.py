"""Checks of an installation: packages, device, decoders, disk, site key, MLflow and archive, each with advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CheckOutcome = Literal["ok", "warning", "failed"]
"""Result of a check. warning: medvit works, but with a limit. failed: something that was checked does not work."""


@dataclass(frozen=True)
class SystemCheck:
    """One check: what was checked, the result, what was found, and what to do about it."""

    name: str
    outcome: CheckOutcome
    found: str
    advice: str = ""
