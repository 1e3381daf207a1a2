"""The pages in a real browser: the journey with clicks, no script needed, axe finds nothing."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.sandbox.client import REDIRECT_URI, Client, query_of
from tests.support.sandbox import EVE, Sandbox

HOME, CONTROL, LEDGER = "/", "/sandbox?done=fault", "/sandbox/ledger"
CENTRAL, MESSAGE = "/app/central/home", "/nothing-here"
API_ACCESS, APPLICATIONS = "/app/central/gh012/api-access", "/app/central/gh012/authorized-applications"


@pytest.mark.parametrize(
    "path", [HOME, CONTROL, LEDGER, CENTRAL, API_ACCESS, APPLICATIONS, MESSAGE, "consent", "sign-in"]
)
def test_page_is_accessible_and_fits(sandbox: Sandbox, client: Client, page: Page, path: str):
    client.refresh(sandbox.grant("gh012", EVE)[0]["refresh_token"])
    client.refresh("unknown")
    sandbox.fault("slow", seconds=1)
    if path in (CENTRAL, API_ACCESS, APPLICATIONS, "consent"):
        page.goto(f"{sandbox.url}/app/signin")
        page.get_by_role("button", name="Eve Stone").click()

    page.goto(client.authorization_url() if path in ("consent", "sign-in") else sandbox.url + path)

    for scheme, width in (("light", 1280), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 844})
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("h1").count() == 1


def test_journey_without_javascript_ends_at_the_client(sandbox: Sandbox, client: Client, browser: Browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()

    page.goto(client.authorization_url())
    page.get_by_role("button", name="Ann Lee").click()
    page.get_by_role("link", name="Use another login").click()
    page.get_by_role("button", name="Cleo Marsh").click()
    assert page.get_by_label("Cedar & Sons").is_checked()
    with page.expect_request(f"{REDIRECT_URI}*") as callback:  # nobody answers there
        page.get_by_role("button", name="Allow").click()

    assert client.exchange(query_of(callback.value.url)["code"]).json()["scope"] == "full|ef789.infusionsoft.com"
    context.close()
