"""The setup guide: Keap's own steps with their ticks, the check of the client, and the text for those who help."""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from flask import render_template, request, url_for
from werkzeug.wrappers import Response

from keap_connect.accounts.state import AccountState
from keap_connect.accounts.stored_state import count_states
from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.connect.client_check import ClientStanding, check_client, find_client_check
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import Failures, list_failures
from keap_connect.health.refreshing import Refreshing, read_refreshing
from keap_connect.health.support import support_text
from keap_connect.keap.authorization import plain_authorization_url
from keap_connect.keap.call_slots import keap_call_slot
from keap_connect.models import CheckedClient
from keap_connect.services import page_url, services
from keap_connect.settings import Settings
from keap_connect.web.auth import Audience, Pages, see_other, signed_in_admin

bp = Pages("setup", __name__, url_prefix="/setup")
support = Pages("support", __name__)


class Tick(StrEnum):
    DONE = "done"
    TO_DO = "to_do"
    TROUBLE = "trouble"
    NOT_NEEDED = "not_needed"


@dataclass(frozen=True)
class Step:
    key: str
    title: str
    tick: Tick
    fact: str  # why it has this tick


def list_steps(
    settings: Settings, check: CheckedClient | None, connected: int, refreshing: Refreshing, failures: list[Failures]
) -> list[Step]:
    """Return all steps in the guide's order.

    Args:
        check: the newest answer of the token endpoint about our client.
        connected: how many accounts work now.
        refreshing: what pauses refreshing, and which workers run.
        failures: why people could not connect lately.
    """

    def done_at_keap(fact: str, fact_in_sandbox: str) -> tuple[Tick, str]:
        return (Tick.NOT_NEEDED, fact_in_sandbox) if settings.sandbox_url else (Tick.DONE, fact)

    account = done_at_keap("There is a client id, so there is an account.", "The sandbox needs no account.")
    app = done_at_keap("There is a client id, so there is an app.", "The sandbox has an app already.")
    target = "the sandbox" if settings.sandbox_url else f"Keap, {urlsplit(settings.keap.authorize_url).hostname}"
    credentials = done_at_keap(
        "KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are set.",
        "The sandbox's own client is used. Set KEAP_CLIENT_ID and KEAP_CLIENT_SECRET to use Keap.",
    )
    count = f"{connected} {'account is' if connected == 1 else 'accounts are'}"
    are_connected = f"{count} connected." if connected else "No account is connected yet."
    if refreshing.foreign_warning:
        credentials = Tick.TROUBLE, refreshing.foreign_warning
    return [
        Step("account", "Create a developer account", *account),
        Step("app", "Get Started: make an app", *app),
        Step("permission", "OAuth Guide: Request Permission", Tick.DONE, f"People are redirected to {target}."),
        Step("credentials", "Find the client id and secret", *credentials),
        Step("redirect_uri", "Give Keap the redirect URI", *_redirect_uri(settings)),
        Step(
            "check",
            "Check the client at the token endpoint",
            *_client_check(check, refreshing.client_refusal, failures),
        ),
        Step("connect", "Connect the first account", Tick.DONE if connected else Tick.TO_DO, are_connected),
        Step(
            "worker",
            "Keep a worker running",
            Tick.TROUBLE if refreshing.pauses else Tick.DONE if refreshing.workers else Tick.TO_DO,
            refreshing.worker_sentence,
        ),
    ]


def _redirect_uri(settings: Settings) -> tuple[Tick, str]:
    host = urlsplit(settings.public_url).hostname or ""
    if host in LOOPBACK_HOSTS:
        if settings.sandbox_url:
            return Tick.DONE, "It is on this machine, which the sandbox can reach."
        return (
            Tick.TO_DO,
            "PUBLIC_URL is on this machine: only browsers on it come back. Customers need a public host name.",
        )
    if not _is_public(host):
        fact = f"PUBLIC_URL names {host}, which browsers elsewhere do not find. Customers need a public host name."
        return Tick.TROUBLE, fact
    return Tick.DONE, "It is https, on a public host name, without a query: as Keap wants it."


def _client_check(check: CheckedClient | None, refusal: str | None, failures: list[Failures]) -> tuple[Tick, str]:
    if refusal:
        return Tick.TROUBLE, refusal
    refused = next((one for one in failures if one.ending is Ending.CLIENT_REFUSED), None)
    if refused and (check is None or check.checked_at < refused.last_at):
        return Tick.TROUBLE, refused.sentence
    if check is None:
        return Tick.TO_DO, "The token endpoint was not asked yet, or the settings have changed since."
    if check.standing == ClientStanding.REFUSED:
        return Tick.TROUBLE, f"It refuses the client id or the secret. {check.reason}"
    return Tick.DONE, "It knows the client, and refused only the made-up code."


def _is_public(host: str) -> bool:
    """Whether a host has the form of one that can be found from elsewhere; nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.strip(".") and not host.endswith((".local", ".internal", ".test", ".localhost"))


@bp.page("", Audience.VIEWER)
def index() -> str:
    settings, keap, check, counts = services().settings, services().keap, find_client_check(), count_states()
    connected, refreshing = counts[AccountState.ACTIVE] + counts[AccountState.AT_RISK], read_refreshing()
    steps = list_steps(settings, check, connected, refreshing, list_failures())
    return render_template(
        "setup/index.html",
        refreshing=refreshing,
        steps=steps,
        done=sum(step.tick in {Tick.DONE, Tick.NOT_NEEDED} for step in steps),
        next_step=next((step for step in steps if step.tick in {Tick.TO_DO, Tick.TROUBLE}), None),
        checked_at=check.checked_at if check else None,
        client_id=keap.client_id,
        redirect_uri=keap.redirect_uri,
        authorize_url=plain_authorization_url(keap, keap.redirect_uri),
        guide_url=plain_authorization_url(keap, None),
        start_url=page_url(url_for("connect.index")),
    )


@bp.act("/check", Audience.ADMIN)
def check() -> Response:
    with keap_call_slot():
        checked = check_client(signed_in_admin().email)
    words, tone = {
        ClientStanding.KNOWN: ("The token endpoint knows the client: it refused only the code.", "done"),
        ClientStanding.REFUSED: ("The token endpoint refuses the client id or the secret.", "failed"),
        ClientStanding.NO_ANSWER: ("The token endpoint does not show whether it knows the client.", "attention"),
    }[ClientStanding(checked.standing)]
    return see_other("setup.index", f"{words} {checked.reason}", tone, _anchor="check")


@support.page("/support", Audience.ADMIN, endpoint="show")
def show_support() -> str:
    with keap_call_slot():
        text = support_text(request.remote_addr, dict(request.headers))
    return render_template("setup/support.html", text=text)
