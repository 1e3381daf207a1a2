"""The documents of this version, for those who are signed in."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Response, abort, render_template
from markupsafe import Markup, escape

from keap_connect.settings import ROOT
from keap_connect.web.auth import Audience, Pages

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

bp = Pages("documents", __name__)
TEXTS = {".env.example", "LICENSE"}
DOCUMENT = re.compile(r"(docs/)?[A-Za-z]+\.md")


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


def _code(_renderer: object, tokens: "list[Token]", number: int, *_rest: object) -> str:
    # It scrolls, so the keyboard must reach it.
    return f'<pre tabindex="0" aria-label="Example"><code>{escape(tokens[number].content)}</code></pre>\n'


def _heading(renderer: "RendererHTML", tokens: "list[Token]", number: int, *rest: Any) -> str:
    words = re.sub(r"[^\w\s-]", "", tokens[number + 1].content.lower())
    tokens[number].attrSet("id", words.replace(" ", "-"))  # as links to the headings of documents are written
    return renderer.renderToken(tokens, number, *rest)


def _picture(*_token: object) -> str:
    return ""  # the page may load none


@cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt  # noqa: PLC0415  (every command would wait for it)

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("heading_open", _heading)
    markdown.add_render_rule("image", _picture)
    return markdown
