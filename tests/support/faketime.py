"""A host whose clock is off: libfaketime, preloaded into a program of its own.

`python -m tests.support.faketime` installs it where it is missing and that is allowed; `make test` runs it first.
"""

from pathlib import Path

import pytest

from tests.support.packages import install_by_apt


def find_faketime() -> Path | None:
    """Return the library for programs with threads, or None."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def shifted_clock(seconds: int) -> dict[str, str]:
    """Return the environment of a program whose clock is off by so many seconds; its durations stay right."""
    library = find_faketime()
    if library is None:
        pytest.skip("libfaketime is not installed; the same rule is tested by a shift of the app's own clock, too")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}", "DONT_FAKE_MONOTONIC": "1"}


if __name__ == "__main__" and find_faketime() is None:
    install_by_apt("libfaketime")
