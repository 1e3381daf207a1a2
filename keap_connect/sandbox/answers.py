"""Answers used in several places: Keap's error bodies, gateway faults and front-end pages, and the redirect."""

import json

from flask import Response

# The gateway's words and error codes for a bad access token.
NO_TOKEN = ("Invalid access token", "oauth.v2.InvalidAccessToken")
UNKNOWN_TOKEN = ("Invalid Access Token", "keymanagement.service.invalid_access_token")
NOT_APPROVED = ("Access Token not approved", "keymanagement.service.access_token_not_approved")
EXPIRED = ("Access Token expired", "keymanagement.service.access_token_expired")
APP_DISABLED = ("Client ID is not approved", "keymanagement.service.invalid_client-client_id_not_approved")

ERROR_URI = "https://developer.infusionsoft.com/docs/read/Getting_Started_With_OAuth2"


def error_body(error: str, description: str) -> str:
    return json.dumps({"error": error, "error_description": description})


def fault_body(sentence: str, error_code: str) -> str:
    """The gateway's own envelope, used for bad tokens and for throttling."""
    return json.dumps({"fault": {"faultstring": sentence, "detail": {"errorcode": error_code}}})


def html_page(title: str, sentence: str) -> str:
    body = f"<h1>{title}</h1><p>{sentence}</p>"
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>{body}</body></html>\n"


def json_response(body: str, status: int) -> Response:
    return Response(body, status, content_type="application/json")


def see_other(address: str) -> Response:
    """Send a browser on with GET, also after a POST."""
    return Response("", 303, {"Location": address})
