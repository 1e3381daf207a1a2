"""The URL map: each page can be reached, no link is a dead end, and each route has its line in docs/pages.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from tests.support.engines import on_sqlite
from tests.support.markup import Markup
from tests.web.direct import send
from tests.web.fixtures import World
from tests.web.inventory import AUDIENCES, address, routes

pytestmark = on_sqlite
PAGES_DOC = Path(__file__).parents[2] / "docs" / "pages.md"
START_PAGES = ("/", "/signin", "/accounts", "/your-accounts")
# Reached from outside the pages: by Keap, by links in mails, by probes, or by a redirect within a flow.
FROM_OUTSIDE = {
    "connect.callback",
    "connect.ended",
    "connect.result",
    "connect.confirm",
    "reconnect_links.use",
    "reconnect_links.again",
    "invitations.use",
    "signin.second_step",
    "signin.new_password",
    "mail.end",
    "health.healthz",
    "health.readyz",
    "well_known.logo",
    "well_known.favicon",
    "well_known.change_password",
    "well_known.security_txt",
}
# Shown only in another state: two-factor authentication set up or on, several sign-ins, an account without details or
# without tokens, a file that waits, links that a job made.
IN_OTHER_STATES = {
    "profile.switch_on",
    "profile.switch_off",
    "profile.recovery_codes",
    "profile.end_sign_ins",
    "accounts.complete",
    "accounts.erase",
    "accounts.resume",
    "jobs.links",
}


def endpoint_of(url_map: Map, path: str, method: str) -> str | None:
    """Return the endpoint of one of our addresses."""
    try:
        return str(url_map.bind("localhost").match(path, method)[0])
    except HTTPException:
        return None


def targets_on(page: str) -> Iterator[tuple[str, str]]:
    """Yield method and path of each link and each button on a page that leads to the app."""
    for element in Markup.of(page).all("a", "form", "button"):
        target = element["href"] or element["action"] or element["formaction"]
        if target.startswith("/"):
            yield ("GET" if element.name == "a" else "POST"), urlsplit(target).path


def crawl(world: World, who: str) -> tuple[set[str], dict[str, int]]:
    """Follow every link that a person sees; return the endpoints of links and forms, and the refused links."""
    url_map, seen, refused = world.app.url_map, set[str](), dict[str, int]()
    waiting = [path for path in START_PAGES if send(world.visitor(who), "GET", path).status_code == 200]
    visited = set(waiting)
    while waiting:
        path = waiting.pop()
        page = send(world.visitor(who), "GET", path)
        if page.status_code >= 400:
            refused[path] = page.status_code
        seen.add(endpoint_of(url_map, path, "GET") or path)
        for method, target in targets_on(page.text):
            if method == "POST":
                seen.add(endpoint_of(url_map, target, "POST") or target)
            elif target not in visited and not target.startswith("/static/"):
                visited.add(target)
                waiting.append(target)
    return seen, refused


def test_each_page_can_be_reached_by_links_and_no_link_is_a_dead_end(world: World):
    seen, refused = set[str](), {}
    for who in ("anonymous", "customer", "viewer", "admin"):
        endpoints, dead_ends = crawl(world, who)
        seen |= endpoints
        refused |= {(who, path): status for path, status in dead_ends.items()}

    assert refused == {}
    assert set(AUDIENCES) - seen - FROM_OUTSIDE - IN_OTHER_STATES == set()


def test_each_page_says_what_it_is_for_and_links_to_the_document_about_it(world: World):
    mute, helps = [], dict[str, str]()
    for endpoint, methods in routes(world.app).items():
        who = {"anyone": "anonymous", "browser": "customer"}.get(AUDIENCES.get(endpoint, ""), "admin")
        page = send(world.visitor(who), "GET", address(endpoint, world.account_id, world.held_ref))
        if "GET" not in methods or page.status_code != 200 or not page.headers["Content-Type"].startswith("text/html"):
            continue
        markup = Markup.of(page.text)
        (head,) = [one for one in markup.elements if one["class"] == "page-head-text"]
        mute += [endpoint] if not any(one.text.strip() for one in markup.inside(head, "p")) else []
        if who == "admin":
            (helps[endpoint],) = [one["href"] for one in markup.all("a") if one.text == "Help"]

    assert mute == ["documents.show"]
    assert [endpoint for endpoint, path in helps.items() if path == "/help/docs/README.md"] == ["documents.show"]
    for path, _, heading in {one.partition("#") for one in helps.values()}:
        assert not heading or f'id="{heading}"' in send(world.viewer, "GET", path).text
        assert send(world.viewer, "GET", path).status_code == 200
    assert len(helps) >= 30


def test_each_route_stands_in_the_docs_with_its_methods_and_audience(app: Flask):
    documented = {
        (path, frozenset(methods.split(", ")), who)
        for path, methods, who in re.findall(
            r"^\| `(\S+)` \| ([A-Z, ]+) \| (\w+) \|", PAGES_DOC.read_text(), re.MULTILINE
        )
    }

    actual = {
        (
            re.sub(r"<int:", "<", rule.rule),
            frozenset(routes(app)[rule.endpoint] & {"GET", "POST"}),
            AUDIENCES[rule.endpoint].replace("browser", "anyone"),
        )
        for rule in app.url_map.iter_rules()
        if rule.endpoint in AUDIENCES
    }
    assert documented == actual
