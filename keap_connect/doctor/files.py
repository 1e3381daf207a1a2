"""What lies on this host: who may read it, whether something waits in it, and how much room is left."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from keap_connect.doctor.finding import Finding, attention, well, wrong
from keap_connect.refreshing.recovery import list_broken, list_kept
from keap_connect.runtime import runtime

OTHERS = stat.S_IRWXG | stat.S_IRWXO
LITTLE_BYTES = 1_000_000_000
TOO_FEW_BYTES = 50_000_000


def look_at_modes() -> Iterator[Finding]:
    """A file is private when it, or the folder around it, is closed to everybody but its owner."""
    exposed = [path for path in _private_paths() if _is_open(path) and _is_open(path.parent)]
    for path in exposed:
        mode = "700" if path.is_dir() else "600"
        yield wrong("file modes", f"{path} can be read by other users of this machine.", f"chmod {mode} {path}")
    if not exposed:
        yield well("file modes", "Keys, database and recovery files are for their owner alone.")


def look_at_recovery() -> Iterator[Finding]:
    """See whether a new pair waits in a file because the database refused it."""
    kept, broken = list_kept(), list_broken()
    if kept:
        yield wrong(
            "recovery",
            f"{len(kept)} new token pairs wait in files because the database refused them.",
            "Mend the database and start a worker: it stores them first. Delete nothing in instance/recovery.",
        )
    if broken:
        yield wrong(
            "recovery",
            f"{len(broken)} recovery files do not open: {', '.join(path.name for path in broken[:5])}.",
            "Put the key that sealed them back into TOKEN_KEYS, and rename them from .broken to .pair.",
        )
    if not kept and not broken:
        yield well("recovery", "No token pair waits in a file.")


def look_at_disk() -> Iterator[Finding]:
    """Measure the room where recovery files, and with SQLite the database, are written."""
    place = runtime().settings.instance_path
    while not os.path.exists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    sentence = f"{free / 1e9:.1f} GB are free at {place}."
    if free < TOO_FEW_BYTES:
        yield wrong("disk", sentence, "Make room: without a recovery file nothing is refreshed.")
    elif free < LITTLE_BYTES:
        yield attention("disk", sentence, "Make room soon.")
    else:
        yield well("disk", sentence)


def _private_paths() -> Iterator[Path]:
    settings = runtime().settings
    yield settings.instance_path
    yield settings.instance_path / "recovery"
    yield from settings.secret_files
    url = make_url(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        for suffix in ("", "-wal", "-shm"):
            yield Path(url.database + suffix)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & OTHERS)
    except OSError:
        return False  # it is not there, or in a folder that is closed to us as well
