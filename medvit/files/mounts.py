"""File systems that folders are on, to recognize network file systems, whose file locks are not reliable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/mounts")
"""List of the mounted file systems on Linux (proc(5)); other systems have none."""
NETWORK = re.compile(r"9p|afs|beegfs|ceph|cifs|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|orangefs|panfs|pvfs2|smb3|smbfs")
"""Types of network and cluster file systems."""
NETWORK_FUSE = re.compile(
    r"fuse\.(beegfs|ceph|ceph-fuse|curlftpfs|davfs2|gcsfuse|glusterfs|goofys|juicefs|lustre|moosefs|mfs|rclone|s3fs|s3ql|"
    r"seaweedfs|smbnetfs|sshfs)"
)
"""Types of network file systems that are mounted with FUSE."""


@dataclass(frozen=True)
class Mount:
    """Mounted file system."""

    folder: Path
    kind: str
    """Type of the file system, such as ext4 or nfs4."""

    @property
    def is_network(self) -> bool:
        """Whether other hosts may change files of this file system."""
        return bool(NETWORK.fullmatch(self.kind) or NETWORK_FUSE.fullmatch(self.kind))


def mount_of(path: Path, table: Path = MOUNTS) -> Mount | None:
    """Return the file system that a path is on, whether the path exists or not; None if the system does not list them.

    Of several file systems that are mounted on one folder, the last one is visible.
    """
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    mounts = [Mount(Path(_unescaped(fields[1])), fields[2]) for fields in map(str.split, lines) if len(fields) > 2]
    own = path.absolute().resolve()
    above = [mount for mount in mounts if own.is_relative_to(mount.folder)]
    return max(reversed(above), key=lambda mount: len(mount.folder.parts), default=None)


def _unescaped(name: str) -> str:
    r"""Return a name of the list of mounts, in which `\040` is a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
