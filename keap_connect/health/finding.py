"""One thing that was looked at, and how it is."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """`attention` can be lived with, `wrong` cannot; `unknown` could not be looked at."""

    WELL = "well"
    ATTENTION = "attention"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it."""

    subject: str
    health: Health
    sentence: str
    advice: str | None = None


def well(subject: str, sentence: str) -> Finding:
    """All is as it should be."""
    return Finding(subject, Health.WELL, sentence)


def attention(subject: str, sentence: str, advice: str) -> Finding:
    """It works, and somebody should look at it."""
    return Finding(subject, Health.ATTENTION, sentence, advice)


def wrong(subject: str, sentence: str, advice: str) -> Finding:
    """It does not work, or not for long."""
    return Finding(subject, Health.WRONG, sentence, advice)


def unknown(subject: str, sentence: str) -> Finding:
    """It could not be looked at."""
    return Finding(subject, Health.UNKNOWN, sentence)
