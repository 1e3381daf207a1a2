"""Arguments that several commands take: an account, a number of days."""

import re
from datetime import timedelta

import click

from keap_connect.accounts.naming import read_typed_name


class AccountName(click.ParamType[str]):
    """An account's number, its tenant, or `external:` and the id that the operator gave it."""

    name = "account"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = read_typed_name(value)
        if name is None:
            self.fail(f"{value!r} is neither a number, nor a tenant like ab123, nor external:<your own id>", param, ctx)
        return name


class Days(click.ParamType[timedelta]):
    """A number of days followed by "d", so that nobody takes it for another unit."""

    name = "days"

    def __init__(self, at_least: timedelta = timedelta(days=1)) -> None:
        self.at_least = at_least

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,4})d", value)
        if found is None:
            self.fail(f"{value!r} is not a number of days, such as 400d", param, ctx)
        days = timedelta(days=int(found[1]))
        if days < self.at_least:
            self.fail(f"it must be {self.at_least.days}d or more", param, ctx)
        return days


account_argument = click.argument("account", type=AccountName())
