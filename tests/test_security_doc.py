"""SECURITY.md tells the truth: its figures are those of the program, its settings exist and have these defaults."""

import re
from pathlib import Path

import pytest

from keap_connect.access import passwords, rate_limits, second_factor, sign_ins
from keap_connect.access.passwords import LIFETIMES
from keap_connect.application import flask_config
from keap_connect.connect import flows
from keap_connect.keap import call_slots, transport
from keap_connect.models import TokenPurpose
from keap_connect.refresh.timing import UNKNOWN_OUTCOME_WAIT_SECONDS
from keap_connect.server import front
from keap_connect.settings import Settings
from tests.test_settings import REQUIRED, names_that_are_read, read

TEXT = " ".join((Path(__file__).parent.parent / "SECURITY.md").read_text(encoding="utf-8").split())
WINDOW = f"in {rate_limits.WINDOW.seconds // 60} minutes"
AT_CODE = second_factor.ATTEMPTS_AT_CODE
ENTRIES = {
    "window": f"Wrong passwords {WINDOW}",
    "passwords": (
        f"{passwords.ATTEMPTS_PER_ADDRESS} per network address, {passwords.ATTEMPTS_PER_EMAIL} per e-mail address and "
        f"{passwords.ATTEMPTS_OF_STRANGERS:,} in all; from a browser that this admin has signed in with before, "
        f"{passwords.ATTEMPTS_PER_DEVICE} of its own"
    ),
    "codes": f"{AT_CODE} per admin; from such a browser, {AT_CODE} of its own",
    "again": f"before a dangerous act {WINDOW} | {passwords.ATTEMPTS_AGAIN} per admin, and {AT_CODE} wrong codes",
    "known": f"{rate_limits.KNOWN_FOR_SECONDS // 86400} days, or until the password or `SECRET_KEY` changes",
    "silence": f"after {sign_ins.IDLE_LIMIT.seconds // 60} minutes of silence",
    "hours": f"after {sign_ins.ABSOLUTE_LIMIT.seconds // 3600} hours",
    "second step": f"Time for the second step | {LIFETIMES[TokenPurpose.SECOND_STEP].seconds // 60} minutes",
    "new password": f"within {LIFETIMES[TokenPurpose.NEW_PASSWORD].total_seconds() / 3600:.0f} hours",
    "sign-in code": f"within {LIFETIMES[TokenPurpose.SIGN_IN].total_seconds() / 3600:.0f} hour;",
    "length": f"{passwords.SHORTEST_PASSWORD} to {passwords.LONGEST_PASSWORD} characters",
    "step": f"at most {second_factor.STEP_SECONDS} seconds early or late",
    "recovery": f"{second_factor.RECOVERY_CODES} recovery codes of {second_factor.RECOVERY_CODE_BYTES * 8} bits",
    "call": (
        f"{transport.DEADLINE_SECONDS:.0f} seconds in all, {transport.CONNECT_SECONDS:.0f} to connect, "
        f"{transport.SIZE_CAP_BYTES // 1_000_000} MB at most"
    ),
    "doubt": f"the token rests for {UNKNOWN_OUTCOME_WAIT_SECONDS:.0f} seconds",
    "request": f"{flask_config(Settings.from_env(REQUIRED))['MAX_CONTENT_LENGTH'] // 1024} kB",
    "body": f"{front.BODY_SECONDS:.0f} seconds for its body; {front.QUEUE} may wait for a thread, "
    f"{front.QUEUE_SECONDS:.0f} seconds each",
    "rates": (
        f"{rate_limits.WRONG_KEYS_PER_MINUTE.amount} wrong keys, {rate_limits.REFUSED_FORMS_PER_MINUTE.amount} refused "
        f"forms, {rate_limits.STARTED_FLOWS_PER_MINUTE.amount} started flows and "
        f"{rate_limits.CALLBACKS_PER_MINUTE.amount} callbacks, and {rate_limits.ALL_CALLBACKS_PER_MINUTE.amount} "
        f"callbacks in all; a minute and account {rate_limits.REJECTIONS_PER_MINUTE.amount} reports that Keap refused"
    ),
    "networks": f"counted by their /{rate_limits.PREFIX_LENGTH}",
    "calls at once": f"at most {call_slots.MOST_AT_ONCE} threads of a process at once",
    "unused flows": f"{flows.MOST_UNUSED:,} in all, {flows.MOST_UNUSED_PER_BROWSER} per browser",
    "ended flows": f"Flows that have ended | {flows.MOST_ENDED:,} in all; the oldest go first. Gone after `KEEP",
    "failed connections": f"Failed connections in the history | {flows.MOST_RECORDED_AN_HOUR} in an hour",
    "guesses": (
        f"those of {rate_limits.WINDOW.seconds // 60} minutes: {passwords.ATTEMPTS_OF_STRANGERS:,} in all, up to 3 "
        f"rows each, and {passwords.REFUSALS_IN_HISTORY} for the history"
    ),
    "refusals": f"{passwords.REFUSALS_IN_HISTORY} {WINDOW}; the log has each of them",
    "sign-ins": f"{sign_ins.MOST_PER_OWNER} sign-ins per account",
}


@pytest.mark.proves("R54", "R61", "R95", "R98", "R99")
@pytest.mark.parametrize("words", ENTRIES.values(), ids=ENTRIES)
def test_each_figure_is_the_one_in_the_program(words: str):
    assert words in TEXT


@pytest.mark.proves("R95")
def test_each_setting_that_is_named_exists():
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT))

    assert named >= {"TOKEN_KEYS", "SECRET_KEY", "TRUSTED_PROXIES", "LOG_FORMAT", "ADMIN_EMAIL"}
    assert named - names_that_are_read() == set()


@pytest.mark.proves("R95")
def test_each_default_is_the_stated_one():
    table = dict(re.findall(r"\| `([A-Z_]+)` \| `([^`]+)`", TEXT.partition("## Settings that matter here")[2]))

    assert set(table) == {"PUBLIC_URL", "TRUSTED_PROXIES", "LOG_LEVEL", "LOG_FORMAT", "REQUIRE_TWO_FACTOR"}
    assert read(**table) == read()
