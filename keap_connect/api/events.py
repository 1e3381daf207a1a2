"""The operation that lists the events of accounts."""

from typing import Any

from keap_connect.access.api_keys import Scope
from keap_connect.api.operations import Operation, current_key, visible_account_id
from keap_connect.api.questions import EventFilter
from keap_connect.api.schemas import EventList
from keap_connect.events.search import Search, list_events_after


@Operation(
    "GET", "/v1/events", "List events", EventList(), scope=Scope.ACCOUNTS_READ, query=EventFilter(), refusals=(404, 409)
)
def list_events(query: dict[str, Any]) -> dict[str, Any]:
    """Who did what to which account, when, and from where; oldest first. Keep `next_cursor` and ask again with it
    later: no event is returned twice, and none is left out. Events without an account, such as a sign-in, are on the
    audit page only. 404: the account to filter by does not exist. 409: its name is that of several
    accounts."""
    search = Search(
        query.get("kind"),
        visible_account_id(query["account"]) if "account" in query else None,
        only=current_key().account_ids,
        hides_others=True,
    )
    page = list_events_after(query["cursor"], search, query["limit"])
    next_cursor = page.events[-1].id if page.events else query["cursor"]
    return {"events": page.events, "next_cursor": next_cursor, "has_more": page.next_id is not None}
