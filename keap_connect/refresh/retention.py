"""Deletes what is older than the settings allow, and empties SQLite's write-ahead log; for the worker, every hour."""

from datetime import timedelta

from keap_connect.access.api_keys import forget_past_keys
from keap_connect.connect.invitations import forget_past_invitations
from keap_connect.connect.reconnect_links import forget_past_links
from keap_connect.database import purge_deleted
from keap_connect.events.deleting import prune_deliveries, prune_past
from keap_connect.events.hand_outs import rotate_hand_out_log
from keap_connect.refresh.figures import delete_past_periods
from keap_connect.services import services


def delete_past() -> None:
    settings = services().settings
    if settings.keep_events_days:
        prune_past(timedelta(days=settings.keep_events_days))
        forget_past_keys(timedelta(days=settings.keep_events_days))
    if settings.keep_links_days:
        forget_past_links(timedelta(days=settings.keep_links_days))
        forget_past_invitations(timedelta(days=settings.keep_links_days))
    if settings.keep_deliveries_days:
        prune_deliveries(timedelta(days=settings.keep_deliveries_days))
    delete_past_periods()
    rotate_hand_out_log()
    purge_deleted()
