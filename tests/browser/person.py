"""A person at a browser: reads the page, presses what has a name, and notices what the page did behind their back."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Page, Request, Response, expect

from tests.support.sandbox import Sandbox

# Chromium notes each error status in the console; the statuses are looked at on their own.
STATUS_NOTE = "Failed to load resource"
# What sticks out of its table cell.
FIND_CROWDED = """() => [...document.querySelectorAll("main td")]
  .filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"""


def origin_of(url: str) -> str:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True)
class Seen:
    """One request, and the page that made it; a page that is opened as a whole was asked for by nobody."""

    url: str
    method: str
    asked_by: str | None


@dataclass
class Watch:
    """Everything a person does not see: requests, errors in the console, what the CSP blocked."""

    requests: list[Seen] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def over(cls, context: BrowserContext) -> "Watch":
        """Watch every tab of a browser from now on."""
        watch = cls()
        context.on("request", watch._note_request)
        context.on("response", watch._note_status)
        context.on("console", watch._note_console)
        context.on("weberror", lambda error: watch.complaints.append(f"script error: {error.error}"))
        # Reported by the page itself, so it is noticed however Chromium words it in the console.
        context.expose_binding("noteViolation", lambda _, words: watch.complaints.append(f"CSP violation: {words}"))
        context.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " event => noteViolation(`${event.effectiveDirective} ${event.blockedURI} on ${location}`))"
        )
        return watch

    def visits(self, path: str) -> list[str]:
        """Return the addresses with this path that were opened as a whole page."""
        return [seen.url for seen in self.requests if seen.asked_by is None and urlsplit(seen.url).path == path]

    def foreign_requests(self, own: str, *guests: str) -> list[str]:
        """Return what pages asked of other origins, and visits to anywhere but `own` and `guests`."""
        foreign = []
        for seen in self.requests:
            asker = seen.asked_by or "the person"
            allowed = (own, *guests) if seen.asked_by is None else (origin_of(seen.asked_by),)
            if origin_of(seen.url) not in allowed:
                foreign.append(f"{asker} asked for {seen.url}")
        return foreign

    def _note_request(self, request: Request) -> None:
        self.requests.append(Seen(request.url, request.method, _asker_of(request)))

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(STATUS_NOTE):
            self.complaints.append(f"console {message.type}: {message.text}")

    def _note_status(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.complaints.append(f"{response.status} for {response.url}")


def _asker_of(request: Request) -> str | None:
    if not request.is_navigation_request():
        return request.frame.url
    try:
        parent = request.frame.parent_frame
    except Error:  # a tab that has shown nothing yet has no frame to name
        return None
    return parent.url if parent else None


class Person:
    """One tab of one person, who knows the app and the sandbox by what stands on their pages."""

    def __init__(self, page: Page, public_url: str, sandbox: Sandbox) -> None:
        self.page = page
        self.public_url = public_url
        self.sandbox = sandbox

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return self.page.locator("main").inner_text()

    @property
    def exchanges(self) -> int:
        """How many codes the app has presented, by the sandbox's ledger."""
        return int(self.sandbox.ledger()["totals"]["exchanges"])

    def open(self, path: str) -> None:
        """Type an address of the app."""
        self.page.goto(self.public_url + path)

    def press(self, name: str) -> None:
        """Press the button of this name."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        """Follow the link of this name in the page itself."""
        self.page.get_by_role("main").get_by_role("link", name=name, exact=True).click()

    def sees(self, heading: str) -> None:
        """Wait for the page with this heading, which must be the app's own."""
        expect(self.page.get_by_role("heading", level=1)).to_have_text(heading)
        expect(self.page).to_have_url(re.compile(f"^{re.escape(self.public_url)}/"))

    def reads(self, *words: str) -> None:
        """Wait until all these words stand on the page."""
        for some in words:
            expect(self.page.locator("main")).to_contain_text(some)

    def set_out(self, button: str = "Connect Keap", path: str = "/") -> None:
        """Press the button that leads to Keap, and be asked there who one is or for what."""
        self.open(path)
        self.press(button)
        self.page.wait_for_url(f"{self.sandbox.url}/**")

    def sign_in_at_keap(self, name: str = "Ann Lee") -> None:
        """Say who one is at the sandbox's sign-in page."""
        self.page.get_by_role("button", name=name).click()
        expect(self.page.get_by_role("heading", level=1)).to_have_text("Allow access to your Keap app?")

    def allow(self, tenant_id: str = "ab123") -> None:
        """Pick a Keap app and press Allow."""
        self.page.get_by_role("radio", name=tenant_id).check()
        self.press("Allow")

    def connect(self, name: str = "Ann Lee", tenant_id: str = "ab123") -> None:
        """Walk the whole journey, signing in at Keap for the first time in this browser."""
        self.set_out()
        self.sign_in_at_keap(name)
        self.allow(tenant_id)
        self.page.wait_for_url(f"{self.public_url}/connect/*")

    def tab_to(self, name: str) -> None:
        """Press Tab until what has this name is in focus, and see that the focus shows."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            focused = self.page.locator(":focus")
            if focused.count() and name in self._name_of_focus():
                assert self._focus_shows(), f"{name} is in focus, and nobody can see it"
                return
        raise AssertionError(f"Tab never reaches {name} on {self.page.url}")

    def _name_of_focus(self) -> str:
        script = "one => one.innerText || one.value || one.closest('label')?.innerText || ''"
        return str(self.page.locator(":focus").evaluate(script)) + " " + self._label_of_focus()

    def _label_of_focus(self) -> str:
        return str(self.page.locator(":focus").evaluate("one => one.labels?.[0]?.innerText || ''"))

    def _focus_shows(self) -> bool:
        script = "one => [getComputedStyle(one).outlineStyle, parseFloat(getComputedStyle(one).outlineWidth)]"
        style, width = self.page.locator(":focus").evaluate(script)
        return style != "none" and width >= 1
