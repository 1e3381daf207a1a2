"""Numbers of days, as options take them: 400d."""

import re
from datetime import timedelta

import click

AGE = re.compile(r"([0-9]{1,4})d")


class Days(click.ParamType[timedelta]):
    """A number of days with a "d" behind it, so that nobody takes it for another unit."""

    name = "days"

    def __init__(self, at_least: timedelta = timedelta(days=1)) -> None:
        self.at_least = at_least

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, and refuse what is too little."""
        if isinstance(value, timedelta):
            return value
        found = AGE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is not a number of days, such as 400d", param, ctx)
        days = timedelta(days=int(found[1]))
        if days < self.at_least:
            self.fail(f"it must be {self.at_least.days}d or more", param, ctx)
        return days
