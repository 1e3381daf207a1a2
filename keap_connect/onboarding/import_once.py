"""An import that is asked for twice happens once: the Idempotency-Key of the first asking gives the same account again.

Source: draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.exc import IntegrityError

from keap_connect.clock import utc_now
from keap_connect.database import count_updated, read_session, write_transaction
from keap_connect.errors import ImportConflict, ImportUnderWay
from keap_connect.models import ImportOnce

KEPT_FOR = timedelta(days=1)
GIVEN_UP_AFTER = timedelta(minutes=2)  # longer than an import lasts; its process is gone


def import_once(
    api_key_id: int, key: str, asked: Mapping[str, object], do_import: Callable[[], int]
) -> tuple[int, bool]:
    """Import, or return the account of the first time, and whether it was this time.

    Raises:
        ImportConflict: the key came with another import before.
        ImportUnderWay: this one is still under way.
        KeapConnectError: what `do_import` raises; the key is then as new.
    """
    key_hash = _hash(key)
    asked_hash = _hash(json.dumps(asked, sort_keys=True))
    known = _claim(api_key_id, key_hash, asked_hash)
    if known is not None:
        return known, False
    mine = ImportOnce.api_key_id == api_key_id, ImportOnce.key_hash == key_hash
    try:
        account_id = do_import()
    except BaseException:
        with write_transaction() as session:
            session.execute(delete(ImportOnce).where(*mine))
        raise
    with write_transaction() as session:
        session.execute(update(ImportOnce).where(*mine).values(account_id=account_id))
    return account_id, True


def _claim(api_key_id: int, key_hash: str, asked_hash: str) -> int | None:
    """Note that the import is under way, or return the account that it once led to."""
    now = utc_now()
    try:
        with write_transaction() as session:
            session.execute(delete(ImportOnce).where(ImportOnce.started_at <= now - KEPT_FOR))
            session.add(ImportOnce(api_key_id=api_key_id, key_hash=key_hash, asked_hash=asked_hash, started_at=now))
        return None
    except IntegrityError:
        pass
    with read_session() as session:
        known = session.get(ImportOnce, (api_key_id, key_hash))
    if known is None:
        raise ImportUnderWay("An import with this Idempotency-Key has just failed. Try again.")
    if known.asked_hash != asked_hash:
        raise ImportConflict("This Idempotency-Key came with another import before.")
    return _take_over(known) if known.account_id is None else known.account_id


def _take_over(known: ImportOnce) -> int | None:
    """Go on in the place of a process that is gone; return the account if it has ended the import meanwhile."""
    now = utc_now()
    given_up = (
        update(ImportOnce)
        .where(
            ImportOnce.api_key_id == known.api_key_id,
            ImportOnce.key_hash == known.key_hash,
            ImportOnce.account_id.is_(None),
            ImportOnce.started_at <= now - GIVEN_UP_AFTER,
        )
        .values(started_at=now)
    )
    with write_transaction() as session:
        if count_updated(session, given_up) == 1:
            return None
    with read_session() as session:
        now_known = session.get(ImportOnce, (known.api_key_id, known.key_hash))
    if now_known is None or now_known.account_id is None:
        raise ImportUnderWay("An import with this Idempotency-Key is under way. Try again in a minute.")
    return now_known.account_id


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
