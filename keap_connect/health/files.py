"""The files on this host: who can read them, whether they can be written, what waits in them, how much disk is free."""

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keap_connect.health.finding import Finding, attention, well, wrong
from keap_connect.refresh.recovery import list_broken, list_closed, list_kept, list_unreadable
from keap_connect.services import services

MOST_NAMED = 5
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LITTLE_BYTES = 1_000_000_000
TOO_FEW_BYTES = 50_000_000
FILE_SYSTEM = "file system"
MOUNTS = Path("/proc/self/mountinfo")  # of Linux; on other systems there is no finding
# File systems of other machines, or of the host of a virtual machine. With FUSE, locks are known to work only on the
# local file system of containers without root.
SHARED = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|gpfs|beegfs|ncpfs|coda|virtiofs|vboxsf|fakeowner"
    r"|fuse\.(?!fuse-overlayfs$).+"
)


def check_modes() -> Iterator[Finding]:
    """A file is private if the file or its folder is closed to everybody but the owner."""
    exposed = [path for path in _private_paths() if _is_open(path) and _is_open(path.parent)]
    for path in exposed:
        mode = "700" if path.is_dir() else "600"
        yield wrong("file modes", f"{path} can be read by other users of this machine.", f"chmod {mode} {path}")
    if not exposed:
        yield well("file modes", "Only their owner can read keys, database, recovery files and audit log.")


def check_recovery() -> Iterator[Finding]:
    kept, broken, closed, unreadable = list_kept(), list_broken(), list_closed(), list_unreadable()
    for path, reason in list(closed.items())[:MOST_NAMED]:
        yield wrong(
            "recovery",
            f"{path.name}: {reason} Its account is not refreshed until they are stored.",
            "Put that key back into TOKEN_KEYS, or start that version again: a worker then stores them. If every copy "
            "of the key is gone, let this customer reconnect.",
        )
    if len(closed) > MOST_NAMED:
        yield wrong("recovery", f"Further files like these: {len(closed) - MOST_NAMED}.", "Do the same.")
    if waiting := len(set(kept) - closed.keys()):
        yield wrong(
            "recovery",
            f"New token pairs that wait in files, and are not in the database yet: {waiting}.",
            "If refreshing is paused, end the pause as it says. Else see the log, repair the database and start a "
            "worker: it stores them first. Delete nothing in INSTANCE_PATH/recovery.",
        )
    if unreadable:
        yield wrong(
            "recovery",
            f"Recovery files that this user cannot read and write: {len(unreadable)}, such as {unreadable[0]}.",
            "Give them to the user of the processes (chown): a worker then stores what is in them.",
        )
    if broken:
        yield wrong(
            "recovery",
            f"Recovery files were put aside ({len(broken)}): {', '.join(path.name for path in broken[:MOST_NAMED])}.",
            "The log says why. Put the key that sealed them back into TOKEN_KEYS, or put the newer database back. Then "
            "rename them from .broken to .pair.",
        )
    if not (kept or broken or unreadable):
        yield well("recovery", "No token pair waits in a file.")


def check_audit_log() -> Iterator[Finding]:
    """Check whether the audit log can be opened for writing, or made, without writing to it."""
    path = services().settings.audit_log
    problem = _why_no_line_fits(path) if path else None
    if problem:
        yield wrong(
            "audit log",
            f"{path} cannot be written ({problem}), so no token is returned.",
            "Set AUDIT_LOG to a file that the app's own user can write, or to - for standard output.",
        )
    else:
        yield well("audit log", f"Each returned token is written to {path or 'standard output'}.")


def check_disk() -> Iterator[Finding]:
    place = services().settings.instance_path / "recovery"
    while not os.path.exists(place):
        place = place.parent
    if problem := _why_no_file_fits(place):
        yield wrong(
            "disk",
            f"{place} cannot be written ({problem}).",
            "Give the app's own user access: without a recovery file nothing is refreshed.",
        )
        return
    free = shutil.disk_usage(place).free
    sentence = f"{free / 1e9:.1f} GB are free at {place}."
    if free < TOO_FEW_BYTES:
        yield wrong("disk", sentence, "Free some space: without a recovery file nothing is refreshed.")
    elif free < LITTLE_BYTES:
        yield attention("disk", sentence, "Free some space soon.")
    else:
        yield well("disk", sentence)


def _private_paths() -> Iterator[Path]:
    settings = services().settings
    yield settings.instance_path
    yield settings.instance_path / "recovery"
    yield from settings.secret_files
    if settings.audit_log and settings.audit_log.is_file():
        yield settings.audit_log
    if settings.sqlite_file:
        for suffix in ("", "-wal", "-shm"):
            yield Path(f"{settings.sqlite_file}{suffix}")


def _why_no_line_fits(path: Path) -> str | None:
    """Return why the file cannot be written, or None; the log creates a missing file and its folders."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        return _why_no_file_fits(next(folder for folder in path.parents if folder.exists()))
    except OSError as problem:
        return problem.strerror or type(problem).__name__
    return None


def _why_no_file_fits(folder: Path) -> str | None:
    """Return in the system's words why no file can be made in a folder, or None; root may do it in most."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as problem:
        return problem.strerror or type(problem).__name__


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & OTHERS)
    except OSError:
        return False  # it is missing, or in a folder that is closed to us too


def check_file_systems() -> Iterator[Finding]:
    settings = services().settings
    folder_kind = _shared_kind(settings.instance_path)
    file = settings.sqlite_file
    file_kind = _shared_kind(file) if file else None
    if folder_kind:
        yield attention(
            FILE_SYSTEM,
            f"INSTANCE_PATH ({settings.instance_path}) is on a network file system ({folder_kind}). File locks do not "
            "always work there: a running process may be taken for dead, and its refresh token sent a second time.",
            "Set INSTANCE_PATH to a folder on a local disk of each host.",
        )
    if file_kind:
        yield attention(
            FILE_SYSTEM,
            f"The SQLite file {file} is on a network file system ({file_kind}). Its write-ahead log and its "
            "locks do not work there: the file may be damaged, and stored tokens may be lost.",
            "Move it to a local disk, or use PostgreSQL.",
        )
    if not folder_kind and not file_kind and MOUNTS.exists():
        yield well(FILE_SYSTEM, "The files that need locks are on local file systems.")


def _shared_kind(path: Path) -> str | None:
    """Return the type of the network file system that a path is on, or None. The path may be missing."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, kind, deepest = path.resolve(), "", 0
    above = {str(place), *map(str, place.parents)}
    for line in lines:
        mount, _, file_system = line.partition(" - ")  # before the dash, the number of fields varies
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split(" ")[4])
        if point in above and len(point) >= deepest:  # a later mount hides an earlier one
            kind, deepest = file_system.split(" ")[0], len(point)
    return kind if SHARED.fullmatch(kind) else None
