"""The words by which accounts are found and sorted: lower case, without accents, the same on both databases."""

import re
import unicodedata
from collections.abc import Iterable

from keap_connect.models import Account

NAMES = frozenset({"tenant_id", "business_name", "person_name", "person_email", "label", "external_id"})
LONGEST_WORD = 64
LONGEST_KEY = 200
# Chinese and Japanese are written without spaces, and Korean names often are: each of their characters begins a word.
# These are the kana, the Han characters, and the consonants that begin a Korean syllable.
_BEGINS = re.compile("[\u1100-\u1112\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\U00020000-\U0003ffff]")


def words_in(text: str) -> list[str]:
    return [word[:LONGEST_WORD] for word in re.findall(r"[^\W_]+", _plain(text))]


def words_of(account: Account) -> set[str]:
    """Return the words of all names of an account, also the parts of an e-mail address."""
    return words_of_names(getattr(account, name) for name in NAMES)


def words_of_names(names: Iterable[str | None]) -> set[str]:
    words = {word for name in names for word in words_in(name or "")}
    return words | {word[found.start() :] for word in words for found in _BEGINS.finditer(word)}


def title_key_of(account: Account) -> str | None:
    """Return the title as the list sorts it; None, which is last, if there is none."""
    title = account.label or account.business_name or account.tenant_id
    return _plain(title)[:LONGEST_KEY] if title else None


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()
