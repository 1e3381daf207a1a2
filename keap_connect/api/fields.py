"""The kinds of fields that requests and answers have. `about` is what the OpenAPI document says of a field."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from marshmallow import ValidationError, fields, validate

from keap_connect.accounts.naming import LABEL_CHARACTERS, LONGEST_NAME


class Whole(validate.Regexp):
    """A pattern that the whole value must match; `$` alone would let a line break follow."""

    def __call__(self, value: str) -> str:  # type: ignore[override]
        """Refuse also lone surrogates, which no database can store."""
        has_lone_surrogate = any("\ud800" <= one <= "\udfff" for one in value)
        if has_lone_surrogate or re.fullmatch(str(self.regex.pattern), value) is None:
            raise ValidationError("It has characters, or a form, that are not allowed here.")
        return value


class Text(fields.String):
    def __init__(
        self, most: int = LONGEST_NAME, pattern: str = f"^{LABEL_CHARACTERS}*$", *, about: str = "", **options: Any
    ) -> None:
        whole = [validate.Length(min=1, max=most), Whole(pattern)]
        super().__init__(validate=whole, metadata=_described(about), **options)


class Digits(fields.Integer):
    """A whole number of a query string: only digits. `int` would accept more, such as 1_0."""

    def __init__(self, least: int, most: int, *, about: str = "", **options: Any) -> None:
        super().__init__(validate=validate.Range(least, most), metadata=_described(about), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if re.fullmatch("[0-9]{1,10}", str(value)) is None:
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Number(fields.Integer):
    """A whole number of a JSON body: 5 and 5.0, neither "5" nor true."""

    def __init__(self, *, about: str = "", **options: Any) -> None:
        super().__init__(metadata=_described(about), **options)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Flag(fields.Boolean):
    """True or false of a JSON body, and no other word or number for it."""

    def __init__(self, about: str, **options: Any) -> None:
        super().__init__(truthy={True}, falsy={False}, metadata=_described(about), **options)


class Shown:
    """Makes the fields of answers, by the names of marshmallow; they are required unless it says otherwise."""

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        return partial(_shown, getattr(fields, kind))


shown = Shown()


def _shown(kind: Callable[..., Any], *values: Any, null: bool = False, about: str = "", **options: Any) -> Any:
    return kind(*values, **{"required": True, "allow_none": null, "metadata": _described(about), **options})


def _described(about: str) -> dict[str, Any]:
    return {"description": about} if about else {}
