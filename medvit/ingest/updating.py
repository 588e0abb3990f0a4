"""What one ingest leaves for the next one of the same source, and what the next one makes of it."""

from __future__ import annotations

import logging
from pathlib import Path

from medvit.ingest import memory, stamps
from medvit.ingest.memory import Memory
from medvit.ingest.pseudonyms import Pseudonyms
from medvit.ingest.scan import Remembered, Scan

log = logging.getLogger("medvit")


class Update:
    """The tie from the dataset in the folder `earlier`, if any, to the one being made.

    `key_file` is that of the pseudonyms and `dataset` the name of the dataset: headers are remembered under both.
    """

    def __init__(self, earlier: Path | None, key_file: Path, dataset: str, pseudonyms: Pseudonyms) -> None:
        self._earlier, self._key_file, self._dataset, self._pseudonyms = earlier, key_file, dataset, pseudonyms
        self.remembered = Remembered(
            Memory({} if earlier is None else memory.lines(key_file, dataset)), pseudonyms.state
        )

    def tell(self, found: Scan) -> None:
        """Logs how many files were added, changed and removed since the earlier dataset was made."""
        if self._earlier is None:
            return
        before = stamps.read(self._earlier)
        changes = stamps.compare(before, self._states(found))
        log.info("files of the source since the dataset %s was made: %s", self._earlier.name, changes)
        if before and changes.removed == len(before):
            log.warning("update=%s has no file in common with this source: another source, key or name", self._earlier)

    def leave(self, found: Scan, folder: Path) -> None:
        """Writes the states of the source files into the dataset folder, and the headers beside the key.

        Raises:
            OutputError: If they cannot be written.
        """
        stamps.write(self._states(found), folder)
        memory.write(self._key_file, self._dataset, self.remembered.seen)

    def _states(self, found: Scan) -> dict[str, str]:
        files = zip(found.files, found.stamps.values(), strict=True)
        return {self._pseudonyms.file(file): self._pseudonyms.state(file, *stamp) for file, stamp in files}
