"""The operation that tells what happened to the accounts."""

from typing import Any

from keap_connect.access.api_keys import Scope
from keap_connect.accounts.history import list_events_after
from keap_connect.api.operations import current_key, operation
from keap_connect.api.schemas import EventList, Page


@operation(
    "GET",
    "/v1/events",
    scope=Scope.ACCOUNTS_READ,
    summary="List events",
    query=Page(),
    answers={200: EventList()},
)
def list_events(query: dict[str, Any]) -> dict[str, Any]:
    """Oldest first. Keep `next_cursor` and ask again with it later: no event is told twice, and none is passed over."""
    events, has_more = list_events_after(query["cursor"], query["limit"], only=current_key().account_ids)
    return {"events": events, "next_cursor": events[-1].id if events else query["cursor"], "has_more": has_more}
