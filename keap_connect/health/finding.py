"""The result of a check."""

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    WELL = "well"
    ATTENTION = "attention"  # it works, and somebody should look at it
    WRONG = "wrong"  # it does not work, or not for long
    UNKNOWN = "unknown"  # it could not be checked


@dataclass(frozen=True)
class Finding:
    subject: str
    health: Health
    sentence: str
    advice: str | None = None  # what to do about it


def well(subject: str, sentence: str) -> Finding:
    return Finding(subject, Health.WELL, sentence)


def attention(subject: str, sentence: str, advice: str) -> Finding:
    return Finding(subject, Health.ATTENTION, sentence, advice)


def wrong(subject: str, sentence: str, advice: str) -> Finding:
    return Finding(subject, Health.WRONG, sentence, advice)
