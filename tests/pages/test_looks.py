"""Every face in a real browser: the rules of axe in both color schemes, narrow windows, no script."""

from collections.abc import Callable

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
NARROWEST = 320  # WCAG 2.2, 1.4.10: nothing scrolls sideways from here on


def test_axe_finds_nothing_and_nothing_scrolls_sideways(html: str, show: Callable[..., Page]):
    page = show(html)
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")

        found = Axe().run(page, options={"runOnly": RULES}).response["violations"]

        assert [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []

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
