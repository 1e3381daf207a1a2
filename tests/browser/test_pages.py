"""Every page as it is served, in every state. Each is visited once, and all that holds for a page is checked then."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from flask import template_rendered
from jinja2 import Template
from playwright.sync_api import Browser, Page, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from keap_connect.application import ROOT
from keap_connect.sandbox.application import create_sandbox
from tests.browser.faces import SITES, Face
from tests.browser.page_rules import STYLES, list_broken_rules
from tests.browser.person import FIND_CROWDED, Watch, origin_of
from tests.browser.world import HOSTILE, World, open_world
from tests.support.markup import Markup
from tests.support.sandbox import Sandbox

DESK, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
NARROWEST = {"width": 320, "height": 844}  # WCAG 2.2, 1.4.10: nothing scrolls sideways from here on
MOST_BYTES, MOST_REQUESTS = 60_000, 8
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# What dark colors and a narrow window can change; the other rules would only find the same again.
RULES_OF_LOOKS = ["color-contrast", "target-size"]
# Of rows that only differ in their words, axe judges two.
THIN_OUT = """() => {
  const shapeOf = one =>
    [one.tagName, one.getAttribute("class"), one.type, one.role, ...[...one.children].map(shapeOf), ""].join(" ");
  for (const parent of new Set([...document.querySelectorAll("tr, li, svg *")].map(one => one.parentElement))) {
    const seen = {};
    for (const one of [...parent.children]) {
      const shape = shapeOf(one);
      seen[shape] = (seen[shape] ?? 0) + 1;
      if (seen[shape] > 2) one.remove();
    }
  }
}"""
RUN_AXE = """async rules => {
  const found = await axe.run({runOnly: rules, resultTypes: ["violations"]});
  return found.violations.flatMap(one => one.nodes.map(node => `${one.id}: ${node.target} ${node.failureSummary}`));
}"""
MEASURE = """() => {
  const loaded = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  return {
    bytes: loaded.reduce((sum, one) => sum + one.encodedBodySize, 0),
    // The browser does not report its icon.
    requests: loaded.length + document.querySelectorAll("link[rel=icon]").length,
  };
}"""
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


TEMPLATES = ROOT / "templates"
# What other templates extend or import.
# The page for another host name is shown under that name only: tests/web/test_headers.py.
NEVER_ALONE = {
    "layout.html",
    "api/layout.html",
    "api_keys/_accounts.html",
    "signin/form.html",
    "macros/ui.html",
    "macros/icons.html",
    "unknown_host.html",
    "mail/message.html",  # no page: it is sent
}


class Inspector:
    """One tab in which all pages are visited, one after the other, and what it has seen so far."""

    def __init__(self, world: World, browser: Browser) -> None:
        context = browser.new_context(
            viewport=DESK, locale="en-US", timezone_id="UTC", color_scheme="light", reduced_motion="reduce"
        )
        self.world = world
        self.watch = Watch.over(context)
        self.page = context.new_page()
        self.answers: list[Response] = []
        self.templates: set[str] = set()
        self.kinds: set[tuple[str, ...]] = set()
        self.visited = 0
        self.page.on("response", self._note_answer)
        template_rendered.connect(self._note_template)

    def open(self, site: str, face: Face) -> None:
        """Show a page as a person with this role sees it."""
        url, page, context = self.world.urls[site], self.page, self.page.context
        cookies = self.world.cookies.get((site, face.role), {})
        context.clear_cookies()
        context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
        page.set_viewport_size(DESK)
        self.answers.clear()
        self.watch.requests.clear()
        self.watch.complaints.clear()
        page.goto(url + face.path.format(**self.world.accounts))
        if face.act:
            face.act(page)

    def find_faults(self, site: str, face: Face) -> Iterator[str]:
        """Visit a page and say what is wrong with it."""
        self.open(site, face)
        self.visited += 1
        answer = self.answers[-1]
        if answer.status != face.status:
            yield f"the status is {answer.status}"
        markup = Markup.of(answer.text())
        yield from list_broken_rules(markup, site)
        if "hostile" in face.name and HOSTILE not in markup.all("main")[0].text:
            yield "the hostile name is not there as text"
        size = self.page.evaluate(MEASURE)
        if size["bytes"] > MOST_BYTES or size["requests"] > MOST_REQUESTS:
            yield f"it is too large: {size}"
        yield from (f"sticks out of its cell: {text}" for text in self.page.evaluate(FIND_CROWDED))
        yield from self._narrow()
        yield from self._look_closely(markup, site)
        yield from self.watch.complaints
        yield from self.watch.foreign_requests(origin_of(self.world.urls[site]))

    def _narrow(self) -> Iterator[str]:
        self.page.set_viewport_size(NARROWEST)
        if (beyond := self.page.evaluate("document.documentElement.scrollWidth - innerWidth")) > 0:
            yield f"it scrolls sideways by {beyond} pixels"

    def _look_closely(self, markup: Markup, site: str) -> Iterator[str]:
        """Print a page that has something new, and run axe over it; where only its place is new, in light colors."""
        sheet = "sandbox" if site == "sandbox" else "app"  # all other sites are the app, and look the same
        kinds = {
            (one.parents[-1].name, sheet, one.name, one["class"], one["type"], one["role"])
            for one in markup.elements
            if one.parents
        }
        if kinds <= self.kinds:
            return
        has_new_look = not {one[1:] for one in kinds} <= {one[1:] for one in self.kinds}
        self.kinds |= kinds
        self.page.set_viewport_size(DESK)
        yield from self._print()
        self.page.evaluate(THIN_OUT)
        self.page.evaluate(AXE_SCRIPT)
        yield from self.page.evaluate(RUN_AXE, RULES)
        if has_new_look:
            self.page.emulate_media(color_scheme="dark")
            self.page.set_viewport_size(PHONE)
            found = self.page.evaluate(RUN_AXE, RULES_OF_LOOKS)
            self.page.emulate_media(color_scheme="light")
            yield from (f"on a phone, dark: {one}" for one in found)

    def _print(self) -> Iterator[str]:
        on_screen = self.page.evaluate(READ_TEXT)
        self.page.emulate_media(media="print")
        on_paper = self.page.evaluate(READ_TEXT)
        self.page.emulate_media(media="screen")
        yield from (f"paper hides: {text}" for text in on_screen if text not in on_paper)

    def _note_answer(self, answer: Response) -> None:
        if answer.request.is_navigation_request():
            self.answers.append(answer)

    def _note_template(self, sender: object, template: Template, **_rest: object) -> None:
        self.templates.add(template.name or "")


@pytest.fixture(scope="module")
def world(sandbox_process: Sandbox, tmp_path_factory: pytest.TempPathFactory, empty_sqlite: Path) -> Iterator[World]:
    """Give the world that all pages are looked at in."""
    with open_world(sandbox_process, tmp_path_factory.mktemp("world"), empty_sqlite) as opened:
        yield opened


@pytest.fixture(scope="module")
def inspector(world: World, frameless_browser: Browser) -> Iterator[Inspector]:
    """Give the tab in which the pages are visited."""
    opened = Inspector(world, frameless_browser)
    yield opened
    opened.page.context.close()


ALL_FACES = [pytest.param(site, face, id=f"{site}: {face.name}") for site in SITES for face in SITES[site]]


@pytest.mark.proves("F61", "R64", "R65", "R67", "R68")
@pytest.mark.parametrize(("site", "face"), ALL_FACES)
def test_page_keeps_all_rules(inspector: Inspector, site: str, face: Face):
    faults = list(inspector.find_faults(site, face))

    assert not faults, "\n".join(faults)


def test_every_template_was_shown(inspector: Inspector):
    if inspector.visited < len(ALL_FACES):
        pytest.skip("only some pages were visited")
    names = {path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*.html")}

    assert names - inspector.templates == NEVER_ALONE


FOR_PROGRAMS = {"api.openapi", "api.list_accounts", "api.show_account", "api.get_token", "api.list_events"}
FOR_PROGRAMS |= {"api.list_webhooks", "api.list_deliveries", "api.list_invitations", "api.show_invitation"}
NO_PAGES = {
    "static",
    "health.healthz",
    "health.readyz",
    "metrics.metrics",
    "well_known.logo",
    "well_known.favicon",
    "well_known.change_password",
    "well_known.security_txt",
    "connect.callback",
    "audit.download",
    "jobs.download",
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


# How pages look


@pytest.fixture
def show(inspector: Inspector) -> Callable[[str, str], Page]:
    """Give the function that shows the page of a site and a name."""

    def show_page(site: str, name: str) -> Page:
        inspector.open(site, next(face for face in SITES[site] if face.name == name))
        return inspector.page

    return show_page


def test_without_scripts_the_copy_button_stays_away(world: World, browser: Browser):
    context = browser.new_context(java_script_enabled=False)
    context.add_cookies(
        [{"name": "admin", "value": world.cookies["empty", "admin"]["admin"], "url": world.urls["empty"]}]
    )
    page = context.new_page()
    page.goto(world.urls["empty"] + "/accounts")

    assert page.get_by_label("Address for customers").is_visible()
    assert not page.get_by_role("button", name="Copy").is_visible()
    context.close()


def test_the_first_tab_stop_is_the_skip_link_and_it_can_be_seen(show: Callable[[str, str], Page]):
    page = show("app", "connect")
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip-link").bounding_box()["y"] >= 0


def test_nothing_moves_where_a_person_wants_it_still(show: Callable[[str, str], Page]):
    page = show("app", "result, running")
    moving = "document.getAnimations().length"

    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) == 1

    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == 0


def test_an_address_is_never_broken_in_the_list(show: Callable[[str, str], Page]):
    address = show("one", "accounts").get_by_text("@ab101.example.com")
    lines = "one => one.offsetHeight / parseFloat(getComputedStyle(one).lineHeight)"

    assert round(address.evaluate(lines)) == 1
    assert "a.long.name" in str(address.get_attribute("title"))
    who = show("app", "audit").get_by_role("cell").get_by_title("@example.com").first
    assert round(who.evaluate(lines)) == 1


def test_all_words_of_the_navigation_are_on_one_line(show: Callable[[str, str], Page]):
    tops = """all => all.map(one => {
      const text = document.createRange();
      text.selectNodeContents(one);
      return text.getBoundingClientRect().top;
    })"""

    assert len(set(show("app", "audit").locator(".site-nav :is(a, button)").evaluate_all(tops))) == 1


def test_the_field_of_the_sign_in_code_keeps_away_from_the_line_above_it(show: Callable[[str, str], Page]):
    details = show("app", "sign-in, code refused").locator("details")
    line, label = (details.locator(part).bounding_box() for part in ("summary", "label"))

    assert line
    assert label
    assert label["y"] - line["y"] - line["height"] >= 8


@pytest.mark.parametrize("name", ["accounts", "audit", "job, over"])
def test_each_value_on_a_card_bears_the_word_of_its_column(show: Callable[[str, str], Page], name: str):
    page = show("app", name)
    page.set_viewport_size(PHONE)
    heads = page.locator(".accounts thead th").all_text_contents()

    read = "all => all.map(one => getComputedStyle(one, '::before').content)"
    words = [word.strip('"') for word in page.locator(".accounts tbody tr").first.locator("td").evaluate_all(read)]

    labeled = {number: word for number, word in enumerate(words) if word not in {"none", "normal"}}
    assert labeled == {number: heads[number] for number in labeled}
    assert len(labeled) >= 2


def test_the_list_of_accounts_is_a_table_with_a_caption_and_column_heads(show: Callable[[str, str], Page]):
    table = show("app", "accounts").locator("table.accounts")

    assert table.locator("caption").inner_text()
    assert set(table.locator("th").evaluate_all("all => all.map(one => one.scope)")) == {"col"}


# Templates and style sheets


@pytest.mark.proves("R67")
def test_no_template_switches_escaping_off():
    pages = {path.name: path.read_text() for path in TEMPLATES.rglob("*.html")}

    assert [name for name, text in pages.items() if re.search(r"\|\s*safe\b|autoescape|Markup\(", text)] == []


def test_colors_appear_in_the_tokens_only():
    for path in STYLES.glob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        colors = re.findall(r"#[0-9a-f]{3,8}\b|\b(?:rgb|hsl|oklch|light-dark)\(", text)

        assert path.name == "tokens.css" or colors == []


def test_every_token_that_is_used_is_defined_and_the_other_way_around():
    text = "".join(path.read_text() for path in STYLES.glob("*.css"))

    assert set(re.findall(r"var\((--[\w-]+)", text)) == set(re.findall(r"(--[\w-]+):", text))
