"""Temporary files in memory, where there is room for them: a commit of a database on a disk waits for the disk.

`PYTEST_DEBUG_TEMPROOT` names another folder.
"""

import os
import shutil
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
NEEDED_BYTES = 2 * 2**30
"""Ten times the peak size of a run of all tests."""

if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > NEEDED_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
