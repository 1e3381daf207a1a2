"""`make proofs` tells the truth about which requirements and faults have a test."""

from pathlib import Path

import pytest

from tests import proofs

ALL_FORMS = """
import pytest

pytestmark = [pytest.mark.proves("R01")]

@pytest.mark.proves("R02", "F57")
def test_function(): ...

@pytest.mark.long
@pytest.mark.proves("F59")
def test_takes_minutes(): ...

@pytest.mark.proves("R03")
class TestClass:
    @pytest.mark.proves("R04")
    def test_method(self): ...

@pytest.mark.parametrize("case", [pytest.param(1, marks=pytest.mark.proves("F58")), pytest.param(2)])
def test_cases(case): ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "tests" / "flows").mkdir(parents=True)
    (tmp_path / "docs" / "requirements.md").write_text("| # | Tier |\n|---|---|\n| R01 | M |\n| R02 | M |\n")
    (tmp_path / "docs" / "faults.md").write_text("| # | Fault |\n|---|---|\n| F57 | forged state |\n")
    return tmp_path


def test_every_form_of_the_mark_is_found_with_its_test() -> None:
    claims = {(claim.number, claim.test) for claim in proofs.claims_in(ALL_FORMS, "tests/test_x.py")}

    assert claims == {
        ("R01", "tests/test_x.py"),
        ("R02", "tests/test_x.py::test_function"),
        ("F57", "tests/test_x.py::test_function"),
        ("F59", "tests/test_x.py::test_takes_minutes (make test-long)"),
        ("R03", "tests/test_x.py::TestClass"),
        ("R04", "tests/test_x.py::TestClass::test_method"),
        ("F58", "tests/test_x.py::test_cases"),
    }


def test_a_number_that_is_not_plain_text_is_refused() -> None:
    with pytest.raises(ValueError, match="plain text"):
        proofs.claims_in("@pytest.mark.proves(NUMBER)\ndef test_x(): ...", "tests/test_x.py")


def test_the_report_names_the_tests_and_what_has_none(project: Path) -> None:
    test = '@pytest.mark.proves("R02")\ndef test_state(): ...\n'
    (project / "tests" / "flows" / "test_start.py").write_text(test)

    text, strays = proofs.report(project)

    assert "Requirements (docs/requirements.md): 1 of 2 have a test" in text
    assert "R02  tests/flows/test_start.py::test_state" in text
    assert "Faults (docs/faults.md): 0 of 1 have a test" in text
    assert text.index("No test yet (1):") < text.index("R01") < text.index("Faults")
    assert not strays


def test_a_number_that_is_in_no_list_fails_the_command(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tests" / "test_x.py").write_text('pytestmark = pytest.mark.proves("R99")\n')

    assert proofs.main(project) == 1
    assert "tests/test_x.py says it proves R99" in capsys.readouterr().err


def test_the_lists_are_whole_and_every_number_that_a_test_names_exists() -> None:
    numbers = {title: proofs.numbers_in((proofs.ROOT / path).read_text()) for title, path in proofs.LISTS.items()}
    _, strays = proofs.report()

    assert numbers["Requirements"] == [f"R{number:02}" for number in range(1, 107)]
    assert numbers["Faults"] == [f"F{number:02}" for number in range(1, 105)]
    assert not strays
