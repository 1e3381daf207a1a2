"""The documents of this version, the logo, addresses that browsers try (RFC 8615), and the patterns of the design."""

import re
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Response, abort, render_template
from markupsafe import Markup, escape
from werkzeug.wrappers import Response as AnyResponse

from keap_connect.clock import utc_now
from keap_connect.services import services
from keap_connect.settings import ROOT
from keap_connect.web.auth import Audience, Pages, see_other

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

bp = Pages("documents", __name__)
TEXTS = {".env.example", "LICENSE"}
DOCUMENT = re.compile(r"(docs/)?[A-Za-z]+\.md")
well_known = Pages("well_known", __name__)
patterns = Pages("patterns", __name__)


@bp.page("/help/<path:name>", Audience.VIEWER)
def show(name: str) -> str | Response:
    """Show a document at its path in the project, so that the links between documents work."""
    if name in TEXTS:
        return Response((ROOT / name).read_text(encoding="utf-8"), mimetype="text/plain")
    if not DOCUMENT.fullmatch(name) or not (ROOT / name).is_file():
        abort(404)
    text = (ROOT / name).read_text(encoding="utf-8")
    html = Markup(_markdown().render(text))  # noqa: S704  (our own files, and tags in them are escaped)
    return render_template("document.html", title=text.partition("\n")[0].lstrip("# "), html=html)


def _scrolls(name: str) -> str:
    return f'tabindex="0" role="group" aria-label="{name}"'  # what scrolls, the keyboard must reach


def _code(_renderer: object, tokens: "list[Token]", number: int, *_rest: object) -> str:
    return f"<pre {_scrolls('Example')}><code>{escape(tokens[number].content)}</code></pre>\n"


def _heading(renderer: "RendererHTML", tokens: "list[Token]", number: int, *rest: Any) -> str:
    words = re.sub(r"[^\w\s-]", "", tokens[number + 1].content.lower())
    tokens[number].attrSet("id", words.replace(" ", "-"))  # as links to the headings of documents are written
    return renderer.renderToken(tokens, number, *rest)


@cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415  (every command would wait for it)

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("table_open", lambda *_token: f"<div {_scrolls('Table')}><table>\n")
    markdown.add_render_rule("table_close", lambda *_token: "</table></div>\n")
    markdown.add_render_rule("heading_open", _heading)
    markdown.add_render_rule("image", lambda *_token: "")  # the page may load none
    return markdown


@well_known.page("/logo", Audience.ANYONE)
def logo() -> Response:
    found = services().settings.service.logo
    if found is None:
        abort(404)
    answer = Response(found.content, mimetype=f"image/{found.kind}")
    answer.headers["Cache-Control"] = "public, max-age=3600"
    return answer


@well_known.page("/favicon.ico", Audience.ANYONE)
def favicon() -> AnyResponse:
    return see_other("static", filename="favicon.svg")


@well_known.page("/.well-known/change-password", Audience.ANYONE)
def change_password() -> AnyResponse:
    return see_other("profile.show", _anchor="change-password")


@well_known.page("/.well-known/security.txt", Audience.ANYONE)
def security_txt() -> Response:
    """Say whom to write to about a weakness (RFC 9116)."""
    settings = services().settings
    if settings.service.support_email is None:
        abort(404)
    expires = (utc_now() + timedelta(days=90)).strftime("%Y-%m-%dT00:00:00Z")
    contact = f"Contact: mailto:{settings.service.support_email}\nExpires: {expires}\n"
    canonical = f"Canonical: {settings.public_url}/.well-known/security.txt\n"
    return Response(contact + canonical, mimetype="text/plain")


@patterns.page("/patterns", Audience.ANYONE)
def index() -> str:
    """Show every macro of the pages in every state; in debug mode with the sandbox only (`create_app`)."""
    now = utc_now()
    return render_template("patterns.html", moments=[now + timedelta(hours=3), now - timedelta(days=2), now, None])
