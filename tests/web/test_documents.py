"""The documents on pages: all of them, with links that lead somewhere, and nothing else of the project."""

from urllib.parse import urljoin, urlsplit

from keap_connect.settings import ROOT
from tests.support.engines import on_sqlite
from tests.support.markup import Markup
from tests.web.direct import send
from tests.web.fixtures import World

pytestmark = on_sqlite


def test_each_document_is_shown_and_its_links_to_others_work(world: World):
    waiting, seen, places = {"/help/docs/README.md"}, set[str](), set[str]()
    wanted = set[str]()
    while waiting:
        path = waiting.pop()
        page = send(world.viewer, "GET", path)
        assert page.status_code == 200, path
        seen.add(path)
        markup = Markup.of(page.text)
        places |= {
            f"{path}#{one['id']}" for level in ("h2", "h3") for one in markup.all(level) if "id" in one.attributes
        }
        targets = {urlsplit(urljoin(path, one["href"])) for one in markup.all("a")}
        headings = {one for one in targets if one.fragment not in {"", "main"}}
        wanted |= {one.geturl() for one in headings if one.path.startswith("/help/")}
        waiting |= {one.path for one in targets if not one.netloc and one.path.startswith("/help/")} - seen

    assert {f"/help/docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= seen
    assert wanted
    assert wanted <= places
    assert {"/help/README.md", "/help/SECURITY.md", "/help/CONTRIBUTING.md", "/help/.env.example"} <= seen


def test_tags_in_a_document_are_text_and_no_other_file_is_shown(world: World):
    pages = Markup.of(send(world.viewer, "GET", "/help/docs/pages.md").text)
    others = (
        ".env",
        "app.py",
        "docs/../app.py",
        "docs/accounts.png",
        "keap_connect/settings.py",
        "no-such-document.md",
    )

    assert "/connect/<ref>" in pages.all("main")[0].text
    assert {name: send(world.viewer, "GET", f"/help/{name}").status_code for name in others} == dict.fromkeys(
        others, 404
    )
