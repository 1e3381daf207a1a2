"""Every template in every face keeps the rules that hold for all pages."""

import re
from collections import Counter

import pytest
from flask import Flask

from keap_connect.application import ROOT
from tests.pages.faces import FACES, HOSTILE
from tests.pages.markup import Markup

TEMPLATES = ROOT / "templates"
STYLES = ROOT / "static" / "css"
SHARED = {"layout.html", "signin/form.html", "macros/ui.html", "macros/icons.html"}
BYTES_PER_PAGE = 60_000
REQUESTS_PER_PAGE = 8
PAGES = {path.relative_to(TEMPLATES).as_posix(): path.read_text() for path in TEMPLATES.rglob("*.html")}


def test_every_template_has_a_face():
    assert {template for template, _ in FACES.values()} == set(PAGES) - SHARED


def test_elements_are_opened_and_closed_in_order(markup: Markup):
    assert markup.unbalanced == []


def test_a_page_has_a_title_a_language_and_one_heading_of_the_first_level(markup: Markup):
    (root,), (title,), (heading,) = markup.all("html"), markup.all("title"), markup.all("h1")

    assert root["lang"] == "en"
    assert title.text.removesuffix(" · Keap Connect").strip()
    assert heading.text.strip()


def test_the_skip_link_leads_to_the_one_main_part(markup: Markup):
    (main,) = markup.all("main")
    first_link = markup.all("a")[0]

    assert first_link["href"] == f"#{main['id']}"


@pytest.mark.proves("R64")
def test_every_form_that_changes_something_carries_the_token(markup: Markup):
    for form in markup.all("form"):
        tokens = [field for field in markup.inside(form, "input") if field["name"] == "csrf_token"]

        assert [bool(token["value"]) for token in tokens] == ([True] if form["method"] == "post" else [])


def test_every_field_has_a_label(markup: Markup):
    labeled = {label["for"] for label in markup.all("label") if label.text.strip()}

    for field in markup.all("input", "select", "textarea"):
        assert field["type"] == "hidden" or field["id"] in labeled


def test_every_link_and_button_has_a_name(markup: Markup):
    for element in markup.all("a", "button"):
        assert element.text.strip() or element["aria-label"]


def test_ids_are_unique_and_every_reference_finds_its_element(markup: Markup):
    ids = Counter(element["id"] for element in markup.elements if element["id"])
    references = {
        name
        for element in markup.elements
        for attribute in ("for", "aria-labelledby", "aria-describedby", "data-copy")
        for name in element[attribute].split()
    }

    assert [name for name, count in ids.items() if count > 1] == []
    assert references <= set(ids)


def test_the_list_of_accounts_is_a_table_with_a_caption_and_column_heads(rendered: dict[str, str]):
    markup = Markup.of(rendered["accounts, many"])
    table = next(one for one in markup.all("table") if one["class"] == "accounts")

    assert markup.inside(table, "caption")[0].text
    assert {head["scope"] for head in markup.inside(table, "th")} == {"col"}


def test_a_page_has_at_most_one_primary_button_besides_those_of_a_list(markup: Markup):
    primary = [element for element in markup.elements if "button-primary" in element["class"].split()]

    assert len([button for button in primary if "li" not in {parent.name for parent in button.parents}]) <= 1


@pytest.mark.proves("R65")
def test_no_style_script_or_handler_stands_in_the_page(markup: Markup):
    for element in markup.elements:
        assert element.name != "style"
        assert element.name != "script" or (element["src"] and not element.text)
        assert not [name for name in element.attributes if name == "style" or name.startswith("on")]
        assert not element["href"].startswith("javascript:")


@pytest.mark.proves("R68")
def test_a_page_asks_no_other_origin_for_anything(markup: Markup):
    sources = [element["src"] for element in markup.elements if element["src"]]
    sources += [link["href"] for link in markup.all("link")]

    assert [source for source in sources if not source.startswith("/static/")] == []


@pytest.mark.proves("R67")
def test_text_of_others_stays_text(markup: Markup, face: str):
    assert markup.all("img") == []
    if "hostile" in face:
        assert HOSTILE in markup.all("main")[0].text


@pytest.mark.proves("R67")
def test_no_template_switches_escaping_off():
    assert [name for name, text in PAGES.items() if re.search(r"\|\s*safe\b|autoescape|Markup\(", text)] == []


def test_a_page_stays_small_with_all_it_loads(html: str, markup: Markup, pages_app: Flask):
    loaded = [element["src"] or element["href"] for element in markup.all("script", "link")]
    client = pages_app.test_client()
    sizes = [len(client.get(path, base_url="http://localhost:5000", buffered=True).data) for path in loaded]

    assert len(html.encode()) + sum(sizes) <= BYTES_PER_PAGE
    assert 1 + len(loaded) <= REQUESTS_PER_PAGE


def test_colors_appear_in_the_tokens_only():
    for name in ("base.css", "components.css", "reference.css"):
        text = re.sub(r"/\*.*?\*/", "", (STYLES / name).read_text(), flags=re.DOTALL)

        assert re.findall(r"#[0-9a-f]{3,8}\b|\b(?:rgb|hsl|oklch|light-dark)\(", text) == []


def test_every_token_that_is_used_is_defined_and_the_other_way_around():
    text = "".join(path.read_text() for path in STYLES.glob("*.css"))

    assert set(re.findall(r"var\((--[\w-]+)", text)) == set(re.findall(r"(--[\w-]+):", text))


def test_every_class_on_a_page_is_styled(markup: Markup):
    sheets = "".join((STYLES / name).read_text() for name in ("components.css", "reference.css"))
    styled = set(re.findall(r"\.([a-z][\w-]*)", sheets))

    assert {name for element in markup.elements for name in element["class"].split()} <= styled
