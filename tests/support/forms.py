"""Sends a form of a page over HTTP, with all that a browser would send when its button is pressed."""

from collections.abc import Iterator
from urllib.parse import urljoin

import requests

from tests.support.markup import Element, Markup


def send_form(
    session: requests.Session,
    page: requests.Response,
    button: str,
    fields: dict[str, str],
    file: tuple[str, bytes] | None = None,
) -> requests.Response:
    """Press the button with these words, after the fields of these names got other values, hidden ones too."""
    markup = Markup.of(page.text)
    pressed = next(one for one in markup.all("button") if " ".join(one.text.split()) == button)
    form = next(one for one in markup.all("form") if pressed.is_inside(one) or pressed["form"] == one["id"] != "")
    sent = [*_values_of(markup, form), *([(pressed["name"], pressed["value"])] if pressed["name"] else [])]
    assert set(fields) <= {name for name, _ in sent}
    values = [(name, fields.get(name, value)) for name, value in sent]
    url = urljoin(page.url, form["action"])
    if form["method"] != "post":
        return session.get(url, params=values)
    files = {one["name"]: file for one in markup.inside(form, "input") if one["type"] == "file"}
    return session.post(url, data=values, files=files if form["enctype"] else None)


def _values_of(markup: Markup, form: Element) -> Iterator[tuple[str, str]]:
    for one in markup.inside(form, "input", "select", "textarea"):
        is_off = one["type"] in {"checkbox", "radio"} and "checked" not in one.attributes
        if not one["name"] or is_off or one["type"] == "file":
            continue
        if one.name == "select":
            options = markup.inside(one, "option")
            chosen = next((each for each in options if "selected" in each.attributes), options[0])
            yield one["name"], chosen["value"] if "value" in chosen.attributes else chosen.text
        else:
            yield one["name"], one.text if one.name == "textarea" else one["value"]
