"""Whether the SQLite file and INSTANCE_PATH are on file systems where locks work."""

import re
from collections.abc import Iterator
from pathlib import Path

from keap_connect.health.finding import Finding, attention, well
from keap_connect.services import services

SUBJECT = "file system"
MOUNTS = Path("/proc/self/mountinfo")  # of Linux; on other systems there is no finding
# File systems of other machines, or of the host of a virtual machine. With FUSE, locks are known to work only on the
# local file system of containers without root.
SHARED = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|ncpfs|coda|virtiofs|vboxsf|fakeowner"
    r"|fuse\.(?!fuse-overlayfs$).+"
)


def check_file_systems() -> Iterator[Finding]:
    settings = services().settings
    folder_kind = _shared_kind(settings.instance_path)
    file = settings.sqlite_file
    file_kind = _shared_kind(file) if file else None
    if folder_kind:
        yield attention(
            SUBJECT,
            f"INSTANCE_PATH ({settings.instance_path}) is on a network file system ({folder_kind}). File locks do not "
            "always work there: a running process may be taken for dead, and its refresh token sent a second time.",
            "Set INSTANCE_PATH to a folder on a local disk of each host.",
        )
    if file_kind:
        yield attention(
            SUBJECT,
            f"The SQLite file {file} is on a network file system ({file_kind}). Its write-ahead log and its "
            "locks do not work there: the file may be damaged, and stored tokens may be lost.",
            "Move it to a local disk, or use PostgreSQL.",
        )
    if not folder_kind and not file_kind and MOUNTS.exists():
        yield well(SUBJECT, "The files that need locks are on local file systems.")


def _shared_kind(path: Path) -> str | None:
    """Return the type of the network file system that a path is on, or None. The path may be missing."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, kind, deepest = path.resolve(), "", -1
    for line in lines:
        mount, _, file_system = line.partition(" - ")  # before the dash, the number of fields varies
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split(" ")[4]))
        if place.is_relative_to(point) and len(point.parts) >= deepest:  # a later mount hides an earlier one
            kind, deepest = file_system.split(" ")[0], len(point.parts)
    return kind if SHARED.fullmatch(kind) else None
