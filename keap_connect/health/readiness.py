"""Whether this installation does all of its work: the database answers, the key fits, and what is due is refreshed."""

from sqlalchemy.exc import SQLAlchemyError

from keap_connect.deployment import check_keys
from keap_connect.errors import SettingsError
from keap_connect.refresh.alarms import list_alarms
from keap_connect.refresh.due import lag_seconds
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.refresh.lease import CLIENT_REFUSED

LONGEST_LAG_SECONDS = 600


def is_ready() -> bool:
    """Return False also while refreshing waits for the operator, and when accounts have been due for ten minutes and
    no worker lives who would refresh them.

    A worker that waits for Keap is another matter: the dashboard says so.
    """
    try:
        check_keys()
        if any(alarm.name != CLIENT_REFUSED for alarm in list_alarms()):
            return False
        return bool(list_workers()) or lag_seconds() < LONGEST_LAG_SECONDS
    except (SQLAlchemyError, SettingsError):
        return False
