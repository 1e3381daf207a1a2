"""The steps of Keap's own guide, and where each stands here: every tick follows from a fact."""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from keap_connect.connect.client_check import ClientCheck, ClientStanding
from keap_connect.health.refreshing import Refreshing
from keap_connect.settings import LOOPBACK_HOSTS, Settings


class Tick(StrEnum):
    """How a step stands."""

    DONE = "done"
    TO_DO = "to_do"
    TROUBLE = "trouble"
    NOT_NEEDED = "not_needed"


@dataclass(frozen=True)
class Step:
    """One step: its tick, and the fact that the tick follows from."""

    key: str
    title: str
    tick: Tick
    fact: str


def list_steps(settings: Settings, check: ClientCheck | None, connected: int, refreshing: Refreshing) -> list[Step]:
    """Return all steps in the guide's order.

    Args:
        check: the newest answer of the token endpoint about our client.
        connected: how many accounts work now.
        refreshing: what pauses refreshing, and which workers run.
    """
    return [
        _developer_account(settings),
        _developer_app(settings),
        _request_permission(settings),
        _credentials(settings),
        _redirect_uri(settings),
        _client_check(check, refreshing.client_refusal),
        _first_account(connected),
        _worker(refreshing),
    ]


def _developer_account(settings: Settings) -> Step:
    title = "Create a developer account"
    if settings.sandbox_url:
        return Step("account", title, Tick.NOT_NEEDED, "The sandbox needs no account.")
    return Step("account", title, Tick.DONE, "There is a client id, so there is an account.")


def _developer_app(settings: Settings) -> Step:
    title = "Get Started: make an app"
    if settings.sandbox_url:
        return Step("app", title, Tick.NOT_NEEDED, "The sandbox has an app that is always there.")
    return Step("app", title, Tick.DONE, "There is a client id, so there is an app.")


def _request_permission(settings: Settings) -> Step:
    host = urlsplit(settings.keap.authorize_url).hostname
    whose = "the sandbox" if settings.sandbox_url else f"Keap, {host}"
    return Step("permission", "OAuth Guide: Request Permission", Tick.DONE, f"People are sent to {whose}.")


def _credentials(settings: Settings) -> Step:
    title = "Find the client id and secret"
    if settings.sandbox_url:
        fact = "The sandbox's own client is used. Set KEAP_CLIENT_ID and KEAP_CLIENT_SECRET to speak to Keap."
        return Step("credentials", title, Tick.NOT_NEEDED, fact)
    return Step("credentials", title, Tick.DONE, "KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are set.")


def _redirect_uri(settings: Settings) -> Step:
    title = "Give Keap the redirect URI"
    host = urlsplit(settings.public_url).hostname or ""
    if host in LOOPBACK_HOSTS:
        if settings.sandbox_url:
            return Step("redirect_uri", title, Tick.DONE, "It is on this machine, which the sandbox can reach.")
        fact = "PUBLIC_URL is on this machine, so only browsers on it come back. Customers need a public host name."
        return Step("redirect_uri", title, Tick.TO_DO, fact)
    if not _is_public(host):
        fact = f"PUBLIC_URL names {host}, which browsers elsewhere do not find. Customers need a public host name."
        return Step("redirect_uri", title, Tick.TROUBLE, fact)
    return Step(
        "redirect_uri", title, Tick.DONE, "It is https, on a public host name, without a query: as Keap wants it."
    )


def _client_check(check: ClientCheck | None, refusal: str | None) -> Step:
    title = "Check the client at the token endpoint"
    if refusal:
        return Step("check", title, Tick.TROUBLE, refusal)
    if check is None:
        return Step("check", title, Tick.TO_DO, "It was not asked yet, or the settings have changed since.")
    if check.standing is ClientStanding.REFUSED:
        return Step("check", title, Tick.TROUBLE, f"It refuses the client id or the secret. {check.reason}")
    return Step("check", title, Tick.DONE, "It knows the client, and refused only the code that cannot be one.")


def _first_account(connected: int) -> Step:
    title = "Connect the first account"
    if connected == 0:
        return Step("connect", title, Tick.TO_DO, "No account is connected yet.")
    return Step(
        "connect", title, Tick.DONE, f"{connected} {'account is' if connected == 1 else 'accounts are'} connected."
    )


def _worker(refreshing: Refreshing) -> Step:
    tick = Tick.DONE if refreshing.workers else Tick.TO_DO
    return Step("worker", "Keep a worker running", tick, refreshing.worker_sentence)


def _is_public(host: str) -> bool:
    """Whether a host has the form of one that can be found from elsewhere; nothing is looked up."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.strip(".") and not host.endswith((".local", ".internal", ".test", ".localhost"))
