"""What one ingest leaves for the next one of the same source, and what the next one makes of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from medvit import cards
from medvit.cards import croissant, plots
from medvit.cards.prose import Prose
from medvit.dataset.manifest import Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.ingest import file_stamps, header_cache
from medvit.ingest.header_cache import HeaderCache
from medvit.ingest.scan import Remembered, Scan

log = logging.getLogger("medvit")


class Update:
    """The tie from the dataset in the folder `earlier`, if any, to the one being made.

    `key_file` is that of the pseudonyms and `dataset` the name of the dataset: headers are remembered under both, or
    forgotten if nothing `is_kept`.
    """

    def __init__(
        self, earlier: Path | None, key_file: Path, dataset: str, pseudonyms: Pseudonyms, *, is_kept: bool = True
    ) -> None:
        self._is_kept = is_kept
        self._earlier, self._key_file, self._dataset, self._pseudonyms = earlier, key_file, dataset, pseudonyms
        self.remembered = Remembered(
            HeaderCache({} if earlier is None else header_cache.lines(key_file, dataset)), pseudonyms.state
        )
        self._known_states: dict[str, str] = {}

    def tell(self, found: Scan) -> None:
        """Logs how many files were added, changed and removed since the earlier dataset was made."""
        if self._earlier is None:
            return
        before = file_stamps.read(self._earlier)
        changes = file_stamps.compare(before, self._states(found))
        log.info("files of the source since the dataset %s was made: %s", self._earlier.name, changes)
        if before and changes.removed == len(before):
            log.warning("update=%s has no file in common with this source: another source, key or name", self._earlier)

    def leave(self, found: Scan, manifest: Manifest, left_out: Sequence[Quarantined], prose: Prose | None) -> None:
        """Writes the states of the source files and of the card into the dataset, and beside the key what it keeps.

        Raises:
            OutputError: If they cannot be written.
        """
        card = self._card(manifest, left_out, prose)
        file_stamps.write(self._states(found), card, manifest.folder)
        if self._is_kept:
            header_cache.write(self._key_file, self._dataset, self.remembered.seen)
        else:
            header_cache.forget(self._key_file, self._dataset)

    def takes_card(self, manifest: Manifest, left_out: Sequence[Quarantined], prose: Prose | None) -> bool:
        """Copies the card of the earlier dataset, if it tells exactly what one made anew would; whether it did."""
        if self._earlier is None or file_stamps.read_card(self._earlier) != self._card(manifest, left_out, prose):
            return False
        for name in (cards.FILE_NAME, croissant.FILE_NAME):
            shutil.copyfile(self._earlier / name, manifest.folder / name)
        if (self._earlier / plots.FOLDER).is_dir():
            shutil.copytree(self._earlier / plots.FOLDER, manifest.folder / plots.FOLDER, dirs_exist_ok=True)
        return True

    def _card(self, manifest: Manifest, left_out: Sequence[Quarantined], prose: Prose | None) -> str:
        versions = file_stamps.version_of(file_stamps.CARD_ROOMS)
        return self._pseudonyms.state(manifest.hash, list(manifest.facts.notes), list(left_out), prose, versions)

    def _states(self, found: Scan) -> dict[str, str]:
        if not self._known_states:
            files = zip(found.files, found.stamps.values(), strict=True)
            state, name = self._pseudonyms.state, self._pseudonyms.file
            self._known_states = {name(file): state(file, *stamp) for file, stamp in files}
        return self._known_states
