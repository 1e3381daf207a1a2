"""The journey in a real browser needs no script. How the pages look: tests/browser/test_pages.py."""

from playwright.sync_api import Browser

from tests.sandbox.client import REDIRECT_URI, Client, query_of
from tests.support.sandbox import Sandbox


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
