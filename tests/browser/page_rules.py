"""What the HTML of every page of the app and of the sandbox has to keep, in every state."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

from keap_connect.application import ROOT
from tests.support.markup import Element, Markup

STYLES = ROOT / "static" / "css"
SANDBOX_STYLES = ROOT / "keap_connect" / "sandbox" / "static"
REFERENCES = ("for", "aria-labelledby", "aria-describedby", "data-copy")


def list_broken_rules(markup: Markup, site: str) -> Iterator[str]:
    """Say what is wrong with a page."""
    yield from (f"{name} is not opened and closed in order" for name in markup.unbalanced)
    yield from _outline(markup)
    yield from _fields(markup)
    if site != "sandbox":  # it changes nothing real, and tests call it as a program would
        yield from _csrf_tokens(markup)
    yield from _references(markup)
    yield from _security(markup)
    used = {name for element in markup.elements for name in element["class"].split()}
    styled = set(re.findall(r"\.([a-z][\w-]*)", _style_sheets(site)))
    yield from (f"the class {name} has no style" for name in sorted(used - styled))


@cache
def _style_sheets(site: str) -> str:
    folder = SANDBOX_STYLES if site == "sandbox" else STYLES
    return "".join(path.read_text() for path in folder.glob("*.css"))


def _outline(markup: Markup) -> Iterator[str]:
    (root,), (title,) = markup.all("html"), markup.all("title")
    mains, headings = markup.all("main"), markup.all("h1")
    if root["lang"] != "en":
        yield "the page names no language"
    if not re.split(r"\W ", title.text)[0].strip():
        yield f"the title is {title.text!r}"
    if len(headings) != 1 or not headings[0].text.strip():
        yield f"there are {len(headings)} h1 with text"
    if len(mains) != 1 or markup.all("a")[0]["href"] != f"#{mains[0]['id']}":
        yield "the first link does not lead to the one main part"
    primary = [one for one in markup.elements if "button-primary" in one["class"].split()]
    if len([one for one in primary if "li" not in {parent.name for parent in one.parents}]) > 1:
        yield "there is more than one primary button outside lists"


def _csrf_tokens(markup: Markup) -> Iterator[str]:
    for form in markup.all("form"):
        tokens = [one["value"] for one in markup.inside(form, "input") if one["name"] == "csrf_token"]
        if [bool(token) for token in tokens] != ([True] if form["method"] == "post" else []):
            yield f"the form to {form['action']!r} has the CSRF tokens {tokens}"


def _fields(markup: Markup) -> Iterator[str]:
    labeled = {label["for"] for label in markup.all("label") if label.text.strip()}
    for one in markup.all("input", "select", "textarea"):
        if one["type"] != "hidden" and one["id"] not in labeled:
            yield f"the field {one['name']!r} has no label"
    for one in markup.all("a", "button"):
        if not (one.text.strip() or one["aria-label"]):
            yield f"a link or button has no name: {one.attributes}"


def _references(markup: Markup) -> Iterator[str]:
    ids = Counter(one["id"] for one in markup.elements if one["id"])
    yield from (f"the id {name} is used twice" for name, count in ids.items() if count > 1)
    named = {name for one in markup.elements for attribute in REFERENCES for name in one[attribute].split()}
    yield from (f"nothing has the id {name}" for name in sorted(named - set(ids)))


def _security(markup: Markup) -> Iterator[str]:
    for one in markup.elements:
        if (
            one.name == "style"
            or (one.name == "img" and one["src"] != "/logo")
            or (one.name == "script" and (not one["src"] or one.text))
        ):
            yield f"<{one.name}> is in the page"
        if any(name == "style" or name.startswith("on") for name in one.attributes):
            yield f"<{one.name}> has a style or a handler"
        if _leads_elsewhere(one):
            yield f"<{one.name}> loads from elsewhere: {one.attributes}"
        if one["href"].startswith("javascript:"):
            yield f"a link holds a script: {one['href']}"


def _leads_elsewhere(one: Element) -> bool:
    source = one["src"] or (one["href"] if one.name == "link" else "")
    return bool(source) and not source.startswith("/static/") and source != "/logo"
