"""Operations on accounts: list, show, rename, import, make a reconnect link; and list their events."""

from functools import partial
from typing import Any

from keap_connect.access.api_keys import Scope
from keap_connect.accounts.changes import change_account
from keap_connect.accounts.directory import AccountView, list_accounts_after, view_account
from keap_connect.api.operations import Operation, current_key, visible_account_id
from keap_connect.api.questions import AccountChange, AccountFilter, EventFilter, Import
from keap_connect.api.schemas import Account, AccountList, EventList, ReconnectLink
from keap_connect.connect.importing import ImportedCredential, import_credential
from keap_connect.connect.reconnect_links import MadeLink, make_link
from keap_connect.events.search import Search, list_events_after
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.models import CredentialKind

ALL, ONE = "/v1/accounts", "/v1/accounts/<account>"
reads, writes = partial(Operation, scope=Scope.ACCOUNTS_READ), partial(Operation, scope=Scope.ACCOUNTS_WRITE)


@reads("GET", ALL, "List accounts", AccountList(), query=AccountFilter())
def list_accounts(query: dict[str, Any]) -> dict[str, Any]:
    """Oldest first. A page begins after the last account of the previous page, whatever has changed since."""
    sought = {name: query.get(name) for name in ("state", "tenant_id", "external_id")}
    only, text = current_key().account_ids, query.get("q")
    found = list_accounts_after(query["cursor"], query["limit"], only=only, text=text, **sought)
    return {"accounts": found.rows, "next_cursor": found.next_cursor, "warning": found.note or None}


@reads("GET", ONE, "Show an account", Account())
def show_account(account_id: int) -> AccountView:
    """Returns the state with the next step in plain words."""
    return view_account(account_id)


@writes("PATCH", ONE, "Change what you call an account", Account(), body=AccountChange())
def update_account(account_id: int, body: dict[str, Any]) -> AccountView:
    """A field that is not sent stays; null removes it. 409: another account has this external id."""
    key = current_key()
    change_account(account_id, key.actor, body, key.account_ids)
    return view_account(account_id)


# Only Keap knows whose credential it is.
@writes("POST", ALL, "Import a credential", Account(), body=Import(), status=201, refusals=(409,), whole_keys="import")
def import_account(body: dict[str, Any]) -> AccountView:
    """We ask Keap whose it is. An existing account of the same person and tenant takes it over, so the same import
    twice makes one account. A pair whose access token has expired is stored as a pending account: its first refresh,
    which comes soon, shows whether it works and whose it is. 409: Keap does not know it, it cannot be a token, its
    refresh token was imported before and may be used up, the external id is taken, a pair would replace a connection
    that works and `replace` is not true, or a key is unusual and `unusual_key` is not true."""
    kind, refresh_token = CredentialKind(body["kind"]), body.get("refresh_token")
    if kind is CredentialKind.OAUTH and refresh_token is None:
        kind = CredentialKind.ACCESS_TOKEN_ONLY
    facts: dict[str, Any] = {name: body.get(name) for name in ("expires_in", "external_id", "label")}
    agreed = {"replaces": body["replace"], "takes_unusual_key": body["unusual_key"]}
    credential = ImportedCredential(body["access_token"], refresh_token, kind=kind, **facts, **agreed)
    with keap_call_slot():
        account_id = import_credential(credential, current_key().actor)
    return view_account(account_id)


@writes("POST", f"{ONE}/reconnect-links", "Make a link for the customer to reconnect by", ReconnectLink(), status=201)
def create_reconnect_link(account_id: int) -> MadeLink:
    """Send it to the person who can allow access at Keap; they need no login here. It works for seven days, and
    reconnects this account once. An admin sees it on the account's page and can revoke it. It is shown only once, so
    make one when the account must be reconnected, not on every run."""
    return make_link(account_id, current_key().actor)


@reads("GET", "/v1/events", "List events", EventList(), query=EventFilter(), refusals=(404, 409))
def list_events(query: dict[str, Any]) -> dict[str, Any]:
    """Who did what to which account, when, and from where; oldest first. Keep `next_cursor` and ask again with it
    later: no event is returned twice, and none is left out. Events without an account, such as a sign-in, are on the
    audit page only. 404: the account to filter by does not exist. 409: its name is that of several
    accounts."""
    account_id = visible_account_id(query["account"]) if "account" in query else None
    search = Search(query.get("kind"), account_id, only=current_key().account_ids, hides_others=True)
    page = list_events_after(query["cursor"], search, query["limit"])
    next_cursor = page.rows[-1].id if page.rows else query["cursor"]
    return {"events": page.rows, "next_cursor": next_cursor, "has_more": page.next_cursor is not None}
