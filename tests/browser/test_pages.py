"""Every page as it is served, in every face: accessible, light, narrow, on paper, and to itself."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from keap_connect.sandbox.application import create_sandbox
from tests.browser.faces import SITES, Face
from tests.browser.person import FIND_CROWDED, Watch, origin_of
from tests.browser.world import HOSTILE, World, open_world
from tests.support.sandbox import Sandbox

DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
NARROWEST = {"width": 320, "height": 844}  # WCAG 2.2, 1.4.10: nothing scrolls sideways from here on
MOST_BYTES, MOST_REQUESTS = 60_000, 8
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN_AXE = """async rules => {
  const found = await axe.run({runOnly: rules, resultTypes: ["violations"]});
  return found.violations.flatMap(one => one.nodes.map(node => `${one.id}: ${node.target} ${node.failureSummary}`));
}"""
OUTLINE = """() => ({
  h1: document.querySelectorAll("h1").length,
  main: document.querySelectorAll("main").length,
  lang: document.documentElement.lang,
  titled: document.title.trim().length > 0,
})"""
READ_TEXT = """() => {
  const controls = ".actions, .toolbar, .pager, .trail, nav, form, button, details, .visually-hidden, .screen-only";
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const shown = [];
  while (walker.nextNode()) {
    const holder = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (text && !holder.closest(controls) && holder.checkVisibility({visibilityProperty: true})) shown.push(text);
  }
  return shown;
}"""


@dataclass(frozen=True)
class Visit:
    """What was found out about one face; each test looks at one part of it."""

    name: str
    role: str
    status: int
    bytes_sent: int
    requests_sent: int
    crowded_cells: list[str]
    violations: list[str]
    outline: dict[str, object]
    sideways: int
    on_screen: list[str]
    on_paper: list[str]
    complaints: list[str]
    foreign_requests: list[str]
    text: str
    tags_from_text: int


def look_at(face: Face, site: str, world: World, browser: Browser) -> Visit:
    """Open a face in a fresh browser and find out everything about it."""
    url = world.urls[site]
    context = browser.new_context(viewport=DESK, locale="en-US", timezone_id="UTC", reduced_motion="reduce")
    watch = Watch.over(context)
    cookies = world.cookies.get((site, face.role), {})
    context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
    page = context.new_page()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108  (Playwright cannot wrap a builtin)
    page.goto(url + face.path.format(**world.accounts))
    sizes = [len(answer.body()) for answer in answers if answer.ok or answer.status >= 400]
    if face.act:
        face.act(page)
        page.wait_for_load_state()
    visit = Visit(
        name=face.name,
        role=face.role,
        status=[answer.status for answer in answers if answer.request.is_navigation_request()][-1],
        bytes_sent=sum(sizes),
        requests_sent=len(sizes) + page.locator("link[rel=icon]").count(),  # Playwright keeps the icon to itself
        crowded_cells=page.evaluate(FIND_CROWDED),
        violations=run_axe(page),
        outline=page.evaluate(OUTLINE),
        sideways=measure_sideways(page),
        text=page.locator("main").inner_text(),
        on_screen=page.evaluate(READ_TEXT),
        on_paper=read_on_paper(page),
        complaints=watch.complaints,
        foreign_requests=watch.foreign_requests(origin_of(url)),
        tags_from_text=page.locator("img, main script, main [onerror]").count(),
    )
    context.close()
    return visit


def run_axe(page: Page) -> list[str]:
    """Run the rules at a desk in light colors and on a phone in dark ones; the window stays that of the phone."""
    page.evaluate(AXE_SCRIPT)
    at_desk = page.evaluate(RUN_AXE, RULES)
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size(PHONE)
    return [f"light: {one}" for one in at_desk] + [f"dark: {one}" for one in page.evaluate(RUN_AXE, RULES)]


def measure_sideways(page: Page) -> int:
    """Return by how many pixels the narrowest window there is scrolls sideways."""
    page.set_viewport_size(NARROWEST)
    beyond: int = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return beyond


def read_on_paper(page: Page) -> list[str]:
    """Return the text that is printed."""
    page.emulate_media(media="print", color_scheme="light")
    text: list[str] = page.evaluate(READ_TEXT)
    return text


@pytest.fixture(scope="module")
def world(sandbox_process: Sandbox, tmp_path_factory: pytest.TempPathFactory, empty_sqlite: Path) -> Iterator[World]:
    """Give the world that all faces are looked at in."""
    with open_world(sandbox_process, tmp_path_factory.mktemp("world"), empty_sqlite) as opened:
        yield opened


ALL_FACES = [pytest.param((site, face), id=f"{site}: {face.name}") for site in SITES for face in SITES[site]]


@pytest.fixture(scope="module", params=ALL_FACES)
def visit(request: pytest.FixtureRequest, world: World, browser: Browser) -> Visit:
    """Give what there is to know about each face in turn; each is opened once for all tests."""
    site, face = request.param
    return look_at(face, site, world, browser)


def test_face_is_the_one_that_was_meant(visit: Visit, request: pytest.FixtureRequest):
    _, face = request.node.callspec.params["visit"]

    assert visit.status == face.status


def test_axe_finds_nothing_in_light_or_dark(visit: Visit):
    assert visit.violations == []


def test_page_has_one_heading_one_main_landmark_a_title_and_a_language(visit: Visit):
    assert visit.outline == {"h1": 1, "main": 1, "lang": "en", "titled": True}


def test_page_does_not_scroll_sideways_in_the_narrowest_window(visit: Visit):
    assert visit.sideways <= 0


def test_nothing_sticks_out_of_its_table_cell(visit: Visit):
    assert visit.crowded_cells == []


def test_page_is_small(visit: Visit):
    assert visit.bytes_sent < MOST_BYTES
    assert visit.requests_sent <= MOST_REQUESTS


def test_paper_hides_no_content(visit: Visit):
    assert [text for text in visit.on_screen if text not in visit.on_paper] == []


@pytest.mark.proves("R68")
def test_page_asks_no_other_origin_and_breaks_no_rule_of_its_own(visit: Visit):
    assert visit.foreign_requests == []
    assert visit.complaints == []


@pytest.mark.proves("F61", "R67")
def test_hostile_names_become_no_elements(visit: Visit):
    assert visit.tags_from_text == 0
    if "hostile" in visit.name:
        assert HOSTILE in visit.text


FOR_PROGRAMS = {"api.openapi", "api.list_accounts", "api.show_account", "api.get_token", "api.list_events"}
NO_PAGES = {
    "static",
    "health.healthz",
    "health.readyz",
    "metrics.metrics",
    "connect.callback",
    "audit.download",
    *FOR_PROGRAMS,
}
NO_PAGES_OF_THE_SANDBOX = {"static", "control.health", "rest_api.call"}


def endpoints_seen(url_map: Map, faces: list[Face], world: World) -> set[str]:
    """Return the endpoints that the paths of some faces lead to; those of the error pages lead nowhere."""
    seen = set()
    for face in faces:
        with suppress(HTTPException):
            seen.add(url_map.bind("localhost").match(urlsplit(face.path.format(**world.accounts)).path)[0])
    return seen


def pages_of(url_map: Map) -> set[str]:
    return {rule.endpoint for rule in url_map.iter_rules() if "GET" in (rule.methods or ())}


def test_every_page_of_the_app_is_in_the_table(world: World):
    url_map = world.apps["app"].url_map

    assert pages_of(url_map) - endpoints_seen(url_map, SITES["app"], world) == NO_PAGES


def test_every_page_of_the_sandbox_is_in_the_table(world: World, tmp_path: Path):
    url_map = create_sandbox(tmp_path / "sandbox.db").url_map
    pages = {endpoint for endpoint in pages_of(url_map) if not endpoint.startswith("control_api.")}

    assert pages - endpoints_seen(url_map, SITES["sandbox"], world) == NO_PAGES_OF_THE_SANDBOX


@pytest.mark.proves("R68")
def test_no_page_may_be_read_by_another_origin(world: World):
    for face in SITES["app"]:
        answer = requests.get(
            world.urls["app"] + face.path.format(**world.accounts),
            headers={"Origin": "https://evil.example"},
            cookies=world.cookies.get(("app", face.role), {}),
            timeout=30,
        )
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")], face.name
