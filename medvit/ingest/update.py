"""State that an ingest stores for later, to update the dataset from the same source."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from medvit import cards
from medvit.cards import croissant, plots
from medvit.ingest import file_stamps
from medvit.ingest.header_cache import HeaderCache
from medvit.ingest.scan import Remembered, Scan
from medvit.ingest.site import Site
from medvit.stage import Run

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Earlier:
    """Earlier dataset that an ingest updates; `folder` is None if there is no earlier dataset.

    `headers` contains the cached headers of the earlier ingest, and collects the headers that this ingest reads.
    """

    folder: Path | None
    site: Site
    headers: Remembered = field(repr=False)
    _known: dict[str, str] = field(default_factory=dict, repr=False)
    """Pseudonym of a source file -> its state; filled at the first request."""

    @classmethod
    def open(cls, folder: Path | None, run: Run, site: Site) -> Self:
        """Return the earlier dataset in `folder`, recorded as an input of the run, with its cached headers.

        Raises:
            DataError: If the folder is not a dataset.
            ConfigError: If the unfinished run to resume updated another dataset.
        """
        if folder is not None:
            run.dataset(folder, "update")
        memory = HeaderCache({}) if folder is None else site.headers()
        return cls(folder, site, Remembered(memory, site.pseudonyms.state))

    def tell(self, found: Scan) -> None:
        """Log how many files were added, changed and removed since the earlier dataset was made."""
        if self.folder is None:
            return
        before = file_stamps.read(self.folder)
        changes = file_stamps.compare(before, self._states(found))
        log.info("changes of the source since the dataset %s was made: %s", self.folder.name, changes)
        if before and changes.removed == len(before):
            log.warning(
                "the dataset in update=%s has no file in common with this source; check that source, key and dataset "
                "name are those of the earlier ingest",
                self.folder,
            )

    def leave(self, found: Scan, card: str, folder: Path) -> None:
        """Write the data that a later update needs.

        The states of source files and card are written into the dataset, and the headers next to the key.

        Raises:
            OutputError: If a file cannot be written.
        """
        file_stamps.write(self._states(found), card, folder)
        self.site.keep_headers(self.headers.seen)

    def takes_card(self, card: str, folder: Path) -> bool:
        """Copy the data card of the earlier dataset into `folder` if it is still valid; return whether it was copied.

        `card` is a digest of everything that the new card would show. The earlier card is valid if it was written with
        the same digest.
        """
        if self.folder is None or file_stamps.read_card(self.folder) != card:
            return False
        for name in (cards.FILE_NAME, cards.HTML, croissant.FILE_NAME):
            shutil.copyfile(self.folder / name, folder / name)
        if (self.folder / plots.FOLDER).is_dir():
            shutil.copytree(self.folder / plots.FOLDER, folder / plots.FOLDER, dirs_exist_ok=True)
        return True

    def _states(self, found: Scan) -> dict[str, str]:
        if not self._known:
            state, name = self.site.pseudonyms.state, self.site.pseudonyms.file
            files = zip(found.files, found.stamps.values(), strict=True)
            self._known.update({name(file): state(file, *stamp) for file, stamp in files})
        return self._known
