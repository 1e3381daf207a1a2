"""`python -m tests.browser.take_screenshots FOLDER`: pictures of the main pages, light and dark, wide and narrow.

With `--readme` the list of accounts, light and wide, also becomes docs/accounts.png.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from keap_connect.access.admins import create_admin
from keap_connect.access.sign_ins import sign_in_admin
from keap_connect.accounts.state import AccountState
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db
from keap_connect.deployment import upgrade
from keap_connect.settings import Settings
from tests.browser.person import Person
from tests.browser.seed import DAY, HOUR, add_account, add_worker
from tests.browser.small_png import shrink
from tests.browser.world import settings_for
from tests.support.browser import launch_browser
from tests.support.sandbox import Sandbox
from tests.support.server import serve

ROOT = Path(__file__).parents[2]
WIDTHS = {1200: 800, 390: 844}
SCHEMES = ("light", "dark")
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Camera:
    """Takes each page in every scheme and width."""

    page: Page
    folder: Path

    def take(self, name: str) -> None:
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for width, height in WIDTHS.items():
                self.page.set_viewport_size({"width": width, "height": height})
                self.page.screenshot(path=self.folder / f"{name}-{scheme}-{width}.png", full_page=True)


def add_varied_accounts() -> int:
    """Store eight accounts as an agency may have them; return the id of one worth a look."""
    states = AccountState
    lately = {"last_used_at": utc_now() - 20 * MINUTE}
    add_account("Northwind Roofing", "nw412", "Maria Santos", refreshed=3 * HOUR, external_id="crm:412", **lately)
    add_account("Blue Door Bakery", "bd207", "Tom Becker", refreshed=11 * HOUR, connected=300 * DAY, **lately)
    add_account("Harbor & Pine Dental", "hp118", "Priya Nair", refreshed=50 * MINUTE, connected=41 * DAY, **lately)
    add_account("Summit Fitness", "sf533", "Jordan Blake", refreshed=19 * HOUR, connected=12 * DAY, **lately)
    looked_at = add_account("Cedar Street Law", "cs901", "Helen Novak", states.AT_RISK, refreshed=26 * HOUR)
    add_account("Green Acres Landscaping", "ga640", "Luis Ortega", refreshed=37 * DAY, connected=200 * DAY)
    add_account("Bright Minds Tutoring", "bm275", "Aisha Khan", states.RECONNECT_REQUIRED, refreshed=2 * DAY)
    add_account("Old Mill Coffee", "om084", "Sam Reed", states.DISCONNECTED, refreshed=9 * DAY, connected=90 * DAY)
    return looked_at


@contextmanager
def running_app(sandbox: Sandbox, folder: Path) -> Iterator[tuple[Settings, int, str]]:
    """Serve the app with varied accounts; give its settings, the account to show, and an admin's session."""
    settings = settings_for(sandbox, folder / "keap_connect.db")
    with create_app(settings, serves=False).app_context():
        upgrade()
        db.engine.dispose()
    app = create_app(settings)
    with serve(app, settings.port), app.app_context():
        admin = create_admin("admin@example.com", "password of a picture")
        assert admin is not None
        add_worker()
        yield settings, add_varied_accounts(), sign_in_admin(admin)
        db.engine.dispose()


def take_all(page: Page, sandbox: Sandbox, place: Path, pictures: Path) -> None:
    """Walk through the app and take its pages on the way."""
    camera = Camera(page, pictures)
    with running_app(sandbox, place) as (settings, account_id, session_id):
        person = Person(page, settings.public_url, sandbox)
        person.open("/signin")
        camera.take("sign-in")
        page.context.add_cookies([{"name": "admin", "value": session_id, "url": settings.public_url}])
        person.open("/accounts")
        camera.take("accounts")
        person.open(f"/accounts/{account_id}")
        camera.take("account")
        page.context.clear_cookies()
        person.open("/")
        camera.take("start")
        person.press("Connect Keap")
        camera.take("sign-in-at-keap")
        person.sign_in_at_keap("Ann Lee")
        camera.take("consent")
        person.allow("ab123")
        person.sees("Your Keap account is connected")
        camera.take("result")
        person.open("/your-accounts")
        camera.take("your-accounts")
        person.follow("Reconnect")
        person.press("Reconnect at Keap")
        person.allow("cd456")
        person.sees("You chose another Keap account")
        camera.take("question")
        person.press("Do not connect it")
        person.open("/your-accounts")
        person.follow("Disconnect")
        camera.take("disconnect")
        page.goto(f"{sandbox.url}/sandbox")
        camera.take("sandbox")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", action="store_true", help="also store docs/accounts.png")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ["FLASK_SKIP_DOTENV"] = "1"
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        Sandbox.start(Path(name) / "sandbox.db") as sandbox,
        sync_playwright() as playwright,
    ):
        browser = launch_browser(playwright)
        page = browser.new_context(locale="en-US", timezone_id="UTC").new_page()
        take_all(page, sandbox, Path(name), options.folder)
        browser.close()
    if options.readme:
        picture = (options.folder / "accounts-light-1200.png").read_bytes()
        (ROOT / "docs" / "accounts.png").write_bytes(shrink(picture))
    print(f"The pictures are in {options.folder.absolute()}.")


if __name__ == "__main__":
    main()
