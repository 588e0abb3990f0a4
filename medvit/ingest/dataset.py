"""Dataset made of stored images: facts, refusals and the data card, all written at the end of ingest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medvit import cards
from medvit.cards import croissant, plots, write_card
from medvit.cards.prose import Prose, find_prose, fitting
from medvit.config import Config
from medvit.dataset import quarantine
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.dataset.tracked import record_dataset
from medvit.ingest import file_stamps
from medvit.ingest.rows import failures, quarantined, unmet, way_back
from medvit.ingest.scan import Scan
from medvit.ingest.site import Site
from medvit.ingest.update import Earlier
from medvit.records import Candidate, Refusal, Row
from medvit.stage import Run

log = logging.getLogger("medvit")


class FactsConfig(Config):
    """Description of the dataset, shown on its data card."""

    license: str = ""
    """Terms of use of the images, shown in the card."""
    source_url: str = ""
    """Origin of the images, shown in the card: a URL or a citation."""
    description: str = ""
    """Description of the dataset, shown in the card."""
    card: Path | None = None
    """Markdown file with text for the card. Unset: data_cards/NAME.md of the medvit installation, if there is one and
    the image counts stated in that file match the dataset.
    """


@dataclass(frozen=True)
class Description:
    """Description of a dataset for its card: options, and card text written by people (prose)."""

    config: FactsConfig
    name: str
    prose: Prose | None

    @classmethod
    def read(cls, config: FactsConfig, name: str) -> Self:
        """Return the description of a dataset.

        Its prose is read from the configured path, or by default from the file with the name of the dataset.

        Raises:
            ConfigError: If the prose cannot be read.
        """
        return cls(config, name, find_prose(config.card, name))

    def of(self, rows: Sequence[Row]) -> Self:
        """Return the description; its prose is dropped if it was found only by name and does not match the images."""
        return self if self.config.card else type(self)(self.config, self.name, fitting(self.prose, rows))

    def facts(self, **found: Any) -> Facts:
        """Return the facts of the dataset.

        License, source and description are those in the options. Without such an option, license and source are taken
        from the prose. All other facts are given as `found`.
        """
        rights = self.config.license or (self.prose.head.license if self.prose else "")
        source = self.config.source_url or (self.prose.head.source if self.prose else "")
        return Facts(self.name, license=rights, source=source, description=self.config.description, **found)


@dataclass(frozen=True)
class Dataset:
    """Dataset whose images are stored: its manifest, refusals by pseudonym, and prose for its card."""

    manifest: Manifest
    left_out: tuple[Quarantined, ...]
    prose: Prose | None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        prose: Prose | None,
        *,
        candidates: Sequence[Candidate],
        refusals: Sequence[Refusal],
        root: Path,
        site: Site,
    ) -> Self:
        """Return the dataset of the given candidates, and store their crosswalk next to the key.

        `root` is the folder of the source.

        Raises:
            OutputError: If the crosswalk cannot be written.
        """
        left_out = quarantined(refusals, site.pseudonyms, root)
        who = site.keep_way_back(way_back(candidates, refusals, site.pseudonyms, root))
        if left_out:
            log.info("images and files that were refused are listed by pseudonym; %s maps the pseudonyms to files", who)
        return cls(manifest, left_out, prose)

    def write(self, run: Run, earlier: Earlier, found: Scan) -> Manifest:
        """Write manifest, quarantine and card into the dataset folder, and file states for a later update.

        Raises:
            OutputError: If a file cannot be written.
        """
        manifest = self.manifest
        manifest.write()
        quarantine.write(self.left_out, manifest.folder)
        card = self._card_state(earlier.site)
        earlier.leave(found, card, manifest.folder)
        if not earlier.takes_card(card, manifest.folder):
            write_card(manifest, self.left_out, self.prose)
        run.failures += [*failures(self.left_out), *unmet(self.manifest.rows)]
        record_dataset(run.tracker, manifest, "ingest")
        run.keep(cards.FILE_NAME, cards.HTML, croissant.FILE_NAME)
        run.tracker.file(manifest.folder / plots.FOLDER, plots.FOLDER)
        return manifest

    def _card_state(self, site: Site) -> str:
        """Return a hash of everything that the card describes."""
        versions, facts = file_stamps.version_of(file_stamps.CARD_ROOMS), self.manifest.facts
        return site.pseudonyms.state(self.manifest.hash, list(facts.notes), list(self.left_out), self.prose, versions)
