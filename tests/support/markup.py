"""A page taken apart: its elements with their attributes and text, in their order."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    """One element; `text` is all text inside it, `parents` are the names around it."""

    name: str
    attributes: dict[str, str]
    parents: tuple["Element", ...] = ()
    text: str = ""

    def __getitem__(self, attribute: str) -> str:
        return self.attributes.get(attribute, "")

    def is_inside(self, other: "Element") -> bool:
        """Whether `other` is one of the elements around this one."""
        return any(parent is other for parent in self.parents)


@dataclass
class Markup:
    """All elements of a page."""

    elements: list[Element] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, html: str) -> "Markup":
        """Take a page apart."""
        taker = _Taker(cls())
        taker.feed(html)
        taker.close()
        taker.markup.unbalanced += [element.name for element in taker.open]
        return taker.markup

    def all(self, *names: str) -> list[Element]:
        """Return the elements of these names."""
        return [element for element in self.elements if element.name in names]

    def inside(self, outer: Element, *names: str) -> list[Element]:
        """Return the elements of these names inside another one."""
        return [element for element in self.all(*names) if element.is_inside(outer)]


class _Taker(HTMLParser):
    def __init__(self, markup: Markup) -> None:
        super().__init__()
        self.markup = markup
        self.open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, tuple(self.open))
        self.markup.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.markup.elements.append(Element(tag, {name: value or "" for name, value in attrs}, tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1].name == tag:
            self.open.pop()
        else:
            self.markup.unbalanced.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data
