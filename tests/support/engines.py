"""Marks of tests that ask for a database and need only one of the engines: the fixture `database_url` gives both."""

import pytest

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
