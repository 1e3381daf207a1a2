"""Every face in a real browser: narrow windows, no script, no motion. The rules of axe: tests/browser/test_pages.py."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

NARROWEST = 320  # WCAG 2.2, 1.4.10: nothing scrolls sideways from here on


def test_nothing_scrolls_sideways(html: str, show: Callable[..., Page]):
    page = show(html)
    page.set_viewport_size({"width": NARROWEST, "height": 900})

    assert page.evaluate("document.documentElement.scrollWidth") <= NARROWEST


def test_without_scripts_the_copy_button_stays_away(
    rendered: dict[str, str], show: Callable[..., Page], window_without_scripts: Page
):
    page = show(rendered["accounts, none"], window_without_scripts)

    assert page.get_by_label("Address for customers").is_visible()
    assert not page.get_by_role("button", name="Copy").is_visible()


def test_the_first_tab_stop_is_the_skip_link_and_it_can_be_seen(rendered: dict[str, str], show: Callable[..., Page]):
    page = show(rendered["start"])
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip-link").bounding_box()["y"] >= 0


def test_nothing_moves_where_a_person_wants_it_still(rendered: dict[str, str], show: Callable[..., Page]):
    page = show(rendered["running"])
    moving = "document.getAnimations().length"

    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(moving) == 1

    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == 0


def test_an_address_is_never_broken_in_the_list(rendered: dict[str, str], show: Callable[..., Page]):
    page = show(rendered["accounts, one"].replace("jane@", f"{'a.long.name.of.somebody' * 2}@"))
    page.set_viewport_size({"width": 1200, "height": 900})
    address = page.get_by_text("@bluedoor.example")

    lines = "one => one.offsetHeight / parseFloat(getComputedStyle(one).lineHeight)"
    assert round(address.evaluate(lines)) == 1
    assert "a.long.name" in str(address.get_attribute("title"))


@pytest.mark.parametrize("face", ["accounts, many", "audit, full", "import of a file, looked through"])
def test_each_value_on_a_card_bears_the_word_of_its_column(
    rendered: dict[str, str], show: Callable[..., Page], face: str
):
    page = show(rendered[face])
    page.set_viewport_size({"width": 390, "height": 844})
    heads = page.locator(".accounts thead th").all_text_contents()

    read = "all => all.map(one => getComputedStyle(one, '::before').content)"
    words = [word.strip('"') for word in page.locator(".accounts tbody tr").first.locator("td").evaluate_all(read)]

    labeled = {number: word for number, word in enumerate(words) if word not in {"none", "normal"}}
    assert labeled == {number: heads[number] for number in labeled}
    assert len(labeled) >= 2
