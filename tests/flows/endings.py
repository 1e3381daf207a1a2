"""How a test says that a journey ended as it should: on this page, with these words, and with a next step on it."""

import re
from urllib.parse import parse_qs, urlsplit

from keap_connect.connect.endings import Ending
from keap_connect.web.ending_words import WORDS
from tests.support.visitor import Visitor


def assert_ended(visitor: Visitor, ending: Ending, status: int, heading: str, *sentences: str) -> None:
    """Check the page that the journey ended at.

    Args:
        heading: the words of the page's one heading.
        sentences: further words that must stand on the page.
    """
    assert (heading_of(visitor), visitor.page.status_code) == (heading, status), visitor.text
    assert WORDS[ending].heading == heading, f"{heading!r} are not the words of {ending}"
    for sentence in sentences:
        assert sentence in visitor.text
    assert not {"code", "state"} & parse_qs(urlsplit(visitor.page.url).query).keys()
    assert next_steps(visitor), f"nothing to press on {visitor.page.url}"


def heading_of(visitor: Visitor) -> str:
    """Return the page's one heading."""
    found = re.findall(r"<h1>(.*?)</h1>", visitor.page.text, flags=re.DOTALL)
    assert len(found) == 1, f"{len(found)} headings on {visitor.page.url}"
    return " ".join(re.sub(r"<[^>]*>", " ", found[0]).replace("&#39;", "'").split())


def next_steps(visitor: Visitor) -> list[str]:
    """Return where the page's buttons and link buttons lead, outside header and footer."""
    main = visitor.page.text.partition("<main")[2].partition("</main>")[0]
    forms = re.findall(r'<form method="post" action="([^"]+)"', main)
    return forms + re.findall(r'<a class="button[^"]*" href="([^"]+)"', main)
