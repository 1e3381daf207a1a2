"""The table of endings is complete: each has words of its own, and a test that meets it."""

import ast
from pathlib import Path

from keap_connect.connect.endings import Ending
from keap_connect.web.ending_words import WORDS

# Two have a page of their own. The last one comes after seven days, when the result can no longer be opened.
WITHOUT_WORDS = {Ending.DECISION_PENDING, Ending.CONFIRMATION_PENDING, Ending.CONFIRMATION_EXPIRED}


def endings_with_a_test() -> set[str]:
    """Read from the tests of flows and invitations which endings they assert by name."""
    nodes = (
        node
        for path in (
            *Path(__file__).parent.glob("test_*.py"),
            Path(__file__).parents[1] / "connect/test_invitations.py",
        )
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )
    calls = (node for node in nodes if isinstance(node, ast.Call))
    checks = (call for call in calls if ast.unparse(call.func) in {"assert_ended", "assert_failed"})
    named = (ast.unparse(argument) for check in checks for argument in check.args)
    return {name.removeprefix("Ending.") for name in named if name.startswith("Ending.")}


def test_each_ending_has_words_of_its_own():
    told = set(Ending) - WITHOUT_WORDS

    assert {ending.value for ending in told} == set(WORDS)
    assert len({words.heading for words in WORDS.values()}) == len(WORDS)
    assert len({words.paragraphs for words in WORDS.values()}) == len(WORDS)


def test_each_ending_has_a_test():
    without = {ending.name for ending in set(Ending) - WITHOUT_WORDS} - endings_with_a_test()

    assert without == set()
