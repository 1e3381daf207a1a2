"""The names under which faults and holds reach the sandbox's endpoints."""

TOKEN, EXCHANGE, REFRESH = "token", "exchange", "refresh"
API, USERINFO, PROFILE = "api", "userinfo", "profile"
AUTHORIZE = "authorize"

GROUPS = {TOKEN: {TOKEN, EXCHANGE, REFRESH}, API: {API, USERINFO, PROFILE}}
ENDPOINTS = (TOKEN, EXCHANGE, REFRESH, API, USERINFO, PROFILE, AUTHORIZE)


def matches(chosen: str, endpoint: str) -> bool:
    """Whether a call to `endpoint` is meant by the name that somebody chose; "token" and "api" are groups."""
    return endpoint in GROUPS.get(chosen, {chosen})
