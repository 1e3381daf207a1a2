"""Which requirements and faults of docs/ have a test, and which have none yet: `make proofs`.

A test names what it proves by `@pytest.mark.proves("R01", "F57")`; a class, a `pytest.param` or a
module's `pytestmark` may carry the mark too. The tests are read, not run.
"""

import ast
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LISTS = {"Requirements": Path("docs/requirements.md"), "Faults": Path("docs/faults.md")}


@dataclass(frozen=True)
class Claim:
    """One place in the tests that says it proves one number."""

    number: str
    test: str


def numbers_in(document: str) -> list[str]:
    """Return the numbers that open the table rows of a document, in their order."""
    return re.findall(r"^\| ([RF]\d+) \|", document, flags=re.MULTILINE)


def claims_in(source: str, file: str) -> list[Claim]:
    """Return what the tests of one file say they prove.

    Raises:
        ValueError: a mark's number is not written out as text, so it cannot be read without running it.
    """
    return list(_claims_below(ast.parse(source), file))


def read_claims(root: Path) -> list[Claim]:
    """Return what all tests under `root` say they prove."""
    claims = []
    for path in sorted(root.glob("tests/**/*.py")):
        if "node_modules" not in path.parts:
            claims += claims_in(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())
    return claims


def report(root: Path = ROOT) -> tuple[str, list[Claim]]:
    """Return the report as text, and the claims whose number no document has."""
    tests_by_number = defaultdict(list)
    for claim in read_claims(root):
        tests_by_number[claim.number].append(claim)
    parts = []
    for title, path in LISTS.items():
        numbers = numbers_in((root / path).read_text(encoding="utf-8"))
        proven = {number: tests_by_number.pop(number) for number in numbers if number in tests_by_number}
        parts.append(_describe(title, path, numbers, proven))
    strays = [claim for claims in tests_by_number.values() for claim in claims]
    return "\n\n".join(parts), strays


def main(root: Path = ROOT) -> int:
    """Print the report; fail when a test names a number that no document has."""
    text, strays = report(root)
    print(text)
    for claim in strays:
        print(f"{claim.test} says it proves {claim.number}, which is in none of the lists.", file=sys.stderr)
    return 1 if strays else 0


def _claims_below(node: ast.AST, owner: str) -> Iterator[Claim]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            # Decorators are children of what they decorate, so its name is the right owner for them.
            is_long = any(isinstance(each, ast.Attribute) and each.attr == "long" for each in child.decorator_list)
            yield from _claims_below(child, f"{owner}::{child.name}{' (make test-long)' if is_long else ''}")
            continue
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr == "proves":
            for argument in child.args:
                if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
                    raise ValueError(f"{owner}: write each number of `proves` as plain text.")
                yield Claim(argument.value, owner)
        yield from _claims_below(child, owner)


def _describe(title: str, path: Path, numbers: list[str], proven: dict[str, list[Claim]]) -> str:
    lines = [f"{title} ({path.as_posix()}): {len(proven)} of {len(numbers)} have a test"]
    for number, claims in proven.items():
        names = list(dict.fromkeys(claim.test for claim in claims))
        lines += [f"  {label:<4} {name}" for label, name in zip([number] + [""] * len(names), names, strict=False)]
    missing = [number for number in numbers if number not in proven]
    if missing:
        lines.append(f"  No test yet ({len(missing)}):")
        lines += textwrap.wrap(" ".join(missing), width=100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
