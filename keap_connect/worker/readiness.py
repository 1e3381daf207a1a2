"""Whether this installation does all of its work: the database answers, the key fits, and what is due is refreshed."""

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.deployment import check_keys
from keap_connect.errors import SettingsError
from keap_connect.worker.due import lag_seconds
from keap_connect.worker.heartbeat import list_workers

LONGEST_LAG_SECONDS = 600


def is_ready() -> bool:
    """Return False also when accounts have been due for ten minutes and no worker lives who would refresh them.

    A worker that lives and pauses is another matter: it waits for Keap or for the operator, and the dashboard says so.
    """
    try:
        check_keys()
        return bool(list_workers()) or lag_seconds() < LONGEST_LAG_SECONDS
    except (SQLAlchemyError, SettingsError):
        return False
