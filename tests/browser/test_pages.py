"""Every page as it is served, in every state. Each is seen once, and all that holds for a page is checked then."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests
from axe_playwright_python.base import AXE_SCRIPT
from flask import template_rendered
from jinja2 import Template
from playwright.sync_api import Browser, Page, ViewportSize
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
# What is new is judged with the element around it; without a list, or if none of it is found, the whole page.
RUN_AXE = """async ([rules, kinds]) => {
  const valuesOf = one => ["class", "type", "role"].map(name => one.getAttribute(name) ?? "");
  const kindOf = one => [one.parentElement.localName, one.localName, ...valuesOf(one)];
  const found = [...document.querySelectorAll("body *")].filter(one => kinds?.includes(kindOf(one).join(" ")));
  const include = found.length ? [...new Set(found.map(one => one.parentElement))] : [document];
  const {violations} = await axe.run({include}, {runOnly: rules, resultTypes: ["violations"]});
  return violations.flatMap(one => one.nodes.map(node => `${one.id}: ${node.target} ${node.failureSummary}`));
}"""
# What the page loaded, beside itself. The browser does not report its icon.
LIST_LOADED = """() => performance.getEntriesByType("resource").map(one => one.name)"""
# The body of a page takes the place of the one before, in a tab that has the style sheets already; what scripts show
# on a page is shown.
LAY_OUT = """([html, isUnfolded]) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const one of page.querySelectorAll("[data-copy], [data-keys], [data-tick]")) one.hidden = false;
  if (isUnfolded) for (const one of page.querySelectorAll("details")) one.open = true;
  document.title = page.title;
  document.body.replaceWith(document.adoptNode(page.body));
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


Kinds = set[tuple[str, ...]]


def bytes_of(answer: requests.Response) -> int:
    """Return how many bytes were sent: fewer than the page has, where it was compressed."""
    return int(answer.headers["Content-Length"])


def _is_weighed(url: str, page: requests.Response) -> bool:
    return origin_of(url) == origin_of(page.url) and "favicon" not in url  # which browsers keep


@cache
def size_of(url: str) -> int:
    """Return the bytes of a file."""
    return bytes_of(requests.get(url, timeout=30))


class Inspector:
    """Tabs in which all pages are shown, one after the other, and what they have shown so far.

    The first page of a template, and a page that has something for scripts as none before, is loaded as a person
    does it. Any other one is only laid out, in two tabs: one at a desk, in light colors, and one on the narrowest
    phone, in dark ones.
    """

    def __init__(self, world: World, browser: Browser) -> None:
        context = browser.new_context(
            viewport=DESK, locale="en-US", timezone_id="UTC", color_scheme="light", reduced_motion="reduce"
        )
        self.world = world
        self.watch = Watch.over(context)
        self.page = context.new_page()
        self.stages: dict[str, tuple[Page, Page]] = {}
        self.templates: set[str] = set()
        self.kinds: Kinds = set()
        self.scripted: set[tuple[str, str]] = set()
        self.visited = 0
        template_rendered.connect(self._note_template)

    def ask(self, site: str, face: Face) -> requests.Response:
        """Return a page as the browser of a person with this role gets it."""
        with requests.Session() as session:
            session.headers.update({"Accept": "text/html", "Accept-Language": "en-US"})
            for name, value in self.world.cookies.get((site, face.role), {}).items():
                session.cookies.set(name, value)
            answer = session.get(self._url(site, face))
            return face.act(session, answer) if face.act else answer

    def open(self, site: str, face: Face) -> Page:
        """Load a page as a person with this role does it."""
        url, page, context = self.world.urls[site], self.page, self.page.context
        cookies = self.world.cookies.get((site, face.role), {})
        context.clear_cookies()
        context.add_cookies([{"name": name, "value": value, "url": url} for name, value in cookies.items()])
        self.watch.requests.clear()
        page.goto(self._url(site, face))
        return page

    def lay_out(self, site: str, html: str, is_unfolded: bool = False) -> tuple[Page, Page]:
        """Show a page without loading it, at a desk and on a phone."""
        url = self.world.urls[site] + ("/api/docs" if "css/reference.css" in html else "/nothing-here")
        if url not in self.stages:
            self.stages[url] = self._new_stage(url, DESK), self._new_stage(url, NARROWEST)
            self.stages[url][1].emulate_media(color_scheme="dark")
        for page in self.stages[url]:
            page.evaluate(LAY_OUT, [html, is_unfolded])
        return self.stages[url]

    def find_faults(self, site: str, face: Face) -> Iterator[str]:
        """Look at a page and say what is wrong with it."""
        self.visited += 1
        self.watch.complaints.clear()
        before = len(self.templates)
        answer = self.ask(site, face)
        markup = Markup.of(answer.text)
        if answer.status_code != face.status:
            yield f"the status is {answer.status_code}"
        yield from list_broken_rules(markup, site)
        files = {urljoin(answer.url, one["href"] or one["src"]) for one in markup.all("link", "script", "img")}
        yield from (f"it asks others for {one}" for one in files if origin_of(one) != self.world.urls[site])
        if 1 + len(files) > MOST_REQUESTS:
            yield f"it asks for too many files: {files}"
        if (size := bytes_of(answer) + sum(size_of(one) for one in files if _is_weighed(one, answer))) > MOST_BYTES:
            yield f"it is too large: {size} bytes"
        if "hostile" in face.name and HOSTILE not in markup.all("main")[0].text:
            yield "the hostile name is not there as text"
        scripted = {(one.name, name) for one in markup.elements for name in one.attributes if name.startswith("data-")}
        if not face.act and (len(self.templates) > before or not scripted <= self.scripted):
            self.scripted |= scripted
            yield from self._load(site, face, files)
        yield from self._look(site, face, answer.text, markup)
        yield from self.watch.complaints

    def _load(self, site: str, face: Face, files: set[str]) -> Iterator[str]:
        page = self.open(site, face)
        yield from (f"it loads {name}, too" for name in page.evaluate(LIST_LOADED) if name not in files)
        yield from self.watch.foreign_requests(origin_of(self.world.urls[site]))

    def _look(self, site: str, face: Face, html: str, markup: Markup) -> Iterator[str]:
        """Measure a page. One with something new is printed, and axe judges it: in light only, if its place is new."""
        at_desk, on_phone = self.lay_out(site, html, face.is_unfolded)
        yield from (f"sticks out of its cell: {text}" for text in at_desk.evaluate(FIND_CROWDED))
        if (beyond := on_phone.evaluate("document.documentElement.scrollWidth - innerWidth")) > 0:
            yield f"it scrolls sideways by {beyond} pixels"
        sheet = "sandbox" if site == "sandbox" else "app"  # all other sites are the app, and look the same
        kinds = {
            (one.parents[-1].name, sheet, one.name, one["class"], one["type"], one["role"])
            for one in markup.elements
            if one.parents
        }
        has_new_look = not {one[1:] for one in kinds} <= {one[1:] for one in self.kinds}
        new = [" ".join((one[0], *one[2:])) for one in kinds - self.kinds]
        if not new:
            return
        self.kinds |= kinds
        yield from self._print(at_desk)
        at_desk.evaluate(THIN_OUT)
        yield from at_desk.evaluate(RUN_AXE, [RULES, None if has_new_look else new])
        if has_new_look:
            on_phone.evaluate(THIN_OUT)
            yield from (f"on a phone, dark: {one}" for one in on_phone.evaluate(RUN_AXE, [RULES_OF_LOOKS, new]))

    def _url(self, site: str, face: Face) -> str:
        return self.world.urls[site] + face.path.format(**self.world.accounts)

    def _new_stage(self, url: str, size: ViewportSize) -> Page:
        page = self.page.context.new_page()
        page.set_viewport_size(size)
        page.goto(url)
        page.evaluate(AXE_SCRIPT)
        return page

    def _print(self, page: Page) -> Iterator[str]:
        on_screen = page.evaluate(READ_TEXT)
        page.emulate_media(media="print")
        on_paper = page.evaluate(READ_TEXT)
        page.emulate_media(media="screen")
        yield from (f"paper hides: {text}" for text in on_screen if text not in on_paper)

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
        face = next(face for face in SITES[site] if face.name == name)
        inspector.page.set_viewport_size(DESK)
        return inspector.lay_out(site, inspector.ask(site, face).text)[0] if face.act else inspector.open(site, face)

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


def test_words_that_sort_do_not_wrap_on_a_phone(show: Callable[[str, str], Page]):
    page = show("app", "accounts")
    page.set_viewport_size(PHONE)
    lines = "all => all.map(one => one.offsetHeight / parseFloat(getComputedStyle(one).lineHeight))"

    assert {round(count) for count in page.locator(".accounts thead a").evaluate_all(lines)} == {1}


def test_the_words_in_the_footer_are_whole_pixels_apart(show: Callable[[str, str], Page]):
    words = show("app", "accounts").locator(".site-footer div div :is(a, button)")
    tops = words.evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")

    assert words.all_text_contents() == ["Help", "Keyboard shortcuts"]
    assert (tops[1] - tops[0]) % 1 == 0
    offset = "all => all.map(one => getComputedStyle(one).textUnderlineOffset)"
    assert len(set(words.evaluate_all(offset))) == 1


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
