"""A client of the sandbox, as plain as can be: the requests that Keap documents, and nothing clever."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from tests.support.sandbox import CLIENT_ID, CLIENT_SECRET, Sandbox, basic, new_browser

REDIRECT_URI = "http://localhost:5999/callback"
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Client:
    sandbox: Sandbox

    def authorization_url(self, **changes: str | None) -> str:
        """The authorization URL; a parameter set to None is left out."""
        parameters = {"client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI, "state": "s-1"} | changes
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        return f"{self.sandbox.url}/app/oauth/authorize?{query}"

    def consent(
        self, person: str = "ann.lee@example.com", tenant: str = "ab123", **changes: str | None
    ) -> dict[str, str]:
        """The callback's parameters after Allow."""
        return query_of(self.sandbox.consent(self.authorization_url(**changes), person, tenant))

    def token(self, form: object, with_basic: bool = False, **options: object) -> requests.Response:
        headers = {"Authorization": basic()} if with_basic else {}
        with new_browser() as browser:
            url = f"{self.sandbox.url}/token"
            return browser.post(
                url, form, headers=headers, allow_redirects=False, **{"timeout": TIMEOUT_SECONDS, **options}
            )

    def exchange(self, code: str, **changes: str | None) -> requests.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI}
        return self.token(form | {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET} | changes)

    def refresh(self, refresh_token: str, **options: object) -> requests.Response:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self.token(form, with_basic=True, **options)

    def api(
        self, access_token: str | None, path: str = "/v2/oauth/connect/userinfo", **options: object
    ) -> requests.Response:
        headers = {} if access_token is None else {"Authorization": f"Bearer {access_token}"}
        with new_browser() as browser:
            url = f"{self.sandbox.url}/crm/rest{path}"
            return browser.get(url, headers=headers, **{"timeout": TIMEOUT_SECONDS, **options})


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def error_code(answer: requests.Response) -> str:
    """The error code in the gateway's fault."""
    return answer.json()["fault"]["detail"]["errorcode"]


def state_of(sandbox: Sandbox, kind: str = "refresh_token", generation: int = 1) -> str:
    """The state that the ledger gives to the first token of a kind and generation."""
    tokens = sandbox.ledger()["tokens"]
    return next(one["state"] for one in tokens if (one["kind"], one["generation"]) == (kind, generation))


def last_outcome(sandbox: Sandbox) -> tuple[str, int | None]:
    """Outcome and status of the latest presentation in the ledger."""
    last = sandbox.ledger()["presentations"][-1]
    return last["outcome"], last["status"]
