"""Lookup of the original identifier of a pseudonym, for holders of the site's key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medvit.config import Config
from medvit.deidentification import crosswalk
from medvit.errors import DataError
from medvit.stage import Finished

PSEUDONYM = r"^[a-z]-[0-9a-f]{8,}$"


class WhoisConfig(Config):
    """Options of `medvit whois`."""

    pseudonym: Annotated[str, Field(pattern=PSEUDONYM)]
    """Pseudonym of a patient, study, series, image or file, such as s-0123456789ab. The prefix `pseudonym=` may be
    omitted.
    """
    key: Path = Path("~/.medvit/site.key")
    """Key file from which pseudonyms are computed. The crosswalk, a table that maps pseudonyms to the original
    identifiers, is stored beside it.
    """


@dataclass(frozen=True)
class Answer:
    """Original identifiers of a pseudonym, each with the dataset or batch whose crosswalk contains it."""

    folder: Path
    originals: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "\n".join(f"{dataset}: {original}" for dataset, original in self.originals)


@dataclass(frozen=True)
class Whois:
    """Print the original identifier of a pseudonym. Requires the key file that it was computed with."""

    config_type: type[WhoisConfig] = WhoisConfig

    def about(self, words: Sequence[str]) -> tuple[Whois, list[str]]:
        """Return the stage itself, and the words with the pseudonym as a named option."""
        return self, [f"pseudonym={word}" if re.match(PSEUDONYM, word) else word for word in words]

    def run(self, config: WhoisConfig) -> Finished[Answer]:
        """Print the original identifiers.

        Raises:
            ConfigError: If the key cannot be read.
            DataError: If no crosswalk has the pseudonym.
        """
        found = crosswalk.find(config.key, config.pseudonym)
        if not found:
            raise DataError(
                f"no crosswalk next to the key {config.key} contains {config.pseudonym}; give the key=... that the "
                "pseudonym was made with"
            )
        answer = Answer(config.key.expanduser().parent, tuple(found))
        print(answer)
        return Finished(answer, ())


whois = Whois()
