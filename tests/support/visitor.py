"""A person with a browser, played over HTTP: keeps cookies, follows links, presses the buttons that are on a page."""

import html
import re
from urllib.parse import urljoin, urlsplit

import requests

from tests.support.sandbox import Sandbox

FORM = re.compile(r"<form\b[^>]*>.*?</form>", re.DOTALL)
TIMEOUT_SECONDS = 60


class Visitor:
    """One browser. `page` is the last answer."""

    def __init__(self, base_url: str, sandbox: Sandbox | None = None) -> None:
        self.base_url = base_url
        self.sandbox = sandbox
        self.session = requests.Session()
        self.session.trust_env = False
        self.page: requests.Response

    @property
    def text(self) -> str:
        """The last page's text without its markup, as a person reads it."""
        without_tags = re.sub(r"<[^>]*>", " ", self.page.text)
        return " ".join(html.unescape(without_tags).split())

    def get(self, path: str, **options: object) -> requests.Response:
        """Open a page."""
        self.page = self.session.get(urljoin(self.base_url, path), timeout=TIMEOUT_SECONDS, **options)
        return self.page

    def fields(self, action: str) -> dict[str, str]:
        """Return the hidden fields of the form that leads to `action`."""
        for form in FORM.findall(self.page.text):
            if urlsplit(_attribute(form, "action") or urlsplit(self.page.url).path).path == action:
                inputs = re.findall(r"<input\b[^>]*>", form)
                return {_attribute(i, "name"): _attribute(i, "value") for i in inputs if _attribute(i, "name")}
        raise AssertionError(f"no form leads to {action} on {self.page.url}")

    def press(self, action: str, follow: bool = True, **fields: str) -> requests.Response:
        """Submit the form that leads to `action`."""
        self.page = self.session.post(
            urljoin(self.base_url, action),
            data={**self.fields(action), **fields},
            timeout=TIMEOUT_SECONDS,
            allow_redirects=follow,
        )
        return self.page

    def choose_password(self, link: str, password: str, follow: bool = True) -> requests.Response:
        """Open a link to choose a password, and choose one; return the answer, also when the link opens nothing."""
        if self.get(link).ok:
            self.press(urlsplit(link).path, follow, new_password=password)
        return self.page

    def set_out(self, action: str = "/connect", page: str = "/") -> str:
        """Press the button that starts the journey and return the authorization URL."""
        self.get(page)
        self.press(action, follow=False)
        assert self.page.status_code == 303, self.text
        return self.page.headers["Location"]

    def connect(
        self,
        person: str = "ann.lee@example.com",
        tenant: str = "ab123",
        allow: bool = True,
        action: str = "/connect",
        page: str = "/",
    ) -> requests.Response:
        """Walk the whole journey and return the page it ends at."""
        assert self.sandbox is not None
        callback_url = self.sandbox.consent(self.set_out(action, page), person, tenant, allow)
        return self.get(callback_url)

    def reconnect(self, account_id: int, **choices: object) -> requests.Response:
        """Walk the journey to reconnect one account."""
        path = f"/reconnect/{account_id}"
        return self.connect(action=path, page=path, **choices)

    def sign_in(self, email: str, password: str, follow: bool = True) -> requests.Response:
        """Sign in as an admin."""
        self.get("/signin")
        return self.press("/signin", follow, email=email, password=password)


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'\b{name}="([^"]*)"', tag)
    return html.unescape(found[1]) if found else ""
