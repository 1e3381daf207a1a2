"""Group commit: threads that write at the same moment share a transaction, but not each other's failures."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from keap_connect.database import read_session, write_transaction
from keap_connect.models import Deployment
from keap_connect.refreshing.group_commit import write_together
from tests.faults.conftest import until

NUMBER = 8


class Scribe:
    """Writes names down, and can be held until all who want something written have come."""

    def __init__(self):
        self.groups = []
        self.go_on = threading.Event()

    def write(self, session, names):
        self.groups.append(list(names))
        if names == ["first"]:
            assert self.go_on.wait(30)
        if "poison" in names:
            raise KeyError("poison")
        if "outage" in names:
            raise OperationalError("INSERT", {}, Exception("the server closed the connection"))
        for name in names:
            session.merge(Deployment(name=name, value=b"x"))
        return [f"wrote {name}" for name in names]


@pytest.fixture
def scribe(app):
    yield Scribe()
    with app.app_context(), write_transaction() as session:
        session.execute(delete(Deployment).where(Deployment.value == b"x"))


def write_at_once(app, scribe, names):
    """Let one transaction wait until `names` are wished for, too; return the futures by name."""

    def wish(name):
        with app.app_context():
            return write_together(scribe.write, name)

    with ThreadPoolExecutor(len(names) + 1) as pool:
        first = pool.submit(wish, "first")
        until(lambda: scribe.groups == [["first"]])
        futures = {name: pool.submit(wish, name) for name in names}
        (group,) = app.extensions["keap_connect.groups"].values()
        until(lambda: len(group._waiting) == len(names))
        scribe.go_on.set()
        assert first.result(30) == "wrote first"
    return futures


def names_written(app):
    with app.app_context(), read_session() as session:
        return set(session.scalars(select(Deployment.name).where(Deployment.value == b"x")))


def test_who_comes_while_a_transaction_is_under_way_shares_the_next_one(app, scribe):
    names = [f"name {number}" for number in range(NUMBER)]

    futures = write_at_once(app, scribe, names)

    assert {name: future.result() for name, future in futures.items()} == {name: f"wrote {name}" for name in names}
    assert len(scribe.groups) == 2
    assert names_written(app) == {"first", *names}


def test_only_the_wish_that_cannot_be_fulfilled_hears_of_it(app, scribe):
    futures = write_at_once(app, scribe, ["one", "poison", "two"])

    with pytest.raises(KeyError):
        futures["poison"].result()
    assert (futures["one"].result(), futures["two"].result()) == ("wrote one", "wrote two")
    assert names_written(app) == {"first", "one", "two"}


def test_a_database_that_fails_is_asked_once_for_all(app, scribe):
    futures = write_at_once(app, scribe, ["one", "outage", "two"])

    for future in futures.values():
        with pytest.raises(OperationalError):
            future.result()
    assert len(scribe.groups) == 2
    assert names_written(app) == {"first"}
