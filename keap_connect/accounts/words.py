"""The words by which accounts are found and sorted: lower case, without accents, the same on both databases."""

import re
import unicodedata

from keap_connect.models import Account

NAMES = frozenset({"tenant_id", "business_name", "person_name", "person_email", "label", "external_id"})
LONGEST_WORD = 64
LONGEST_KEY = 200


def words_in(text: str) -> list[str]:
    return [word[:LONGEST_WORD] for word in re.findall(r"[^\W_]+", _plain(text))]


def words_of(account: Account) -> set[str]:
    """Return the words of all names of an account, also the parts of an e-mail address."""
    return {word for name in NAMES for word in words_in(getattr(account, name) or "")}


def title_key_of(account: Account) -> str | None:
    """Return the title as the list sorts it; None, which is last, if there is none."""
    title = account.label or account.business_name or account.tenant_id
    return _plain(title)[:LONGEST_KEY] if title else None


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()
