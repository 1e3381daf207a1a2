"""Migrations lead to the models and back, lose no row on the way, and happen as a whole or not at all."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, DateTime, Float, Integer, LargeBinary, insert, select

from keap_connect.answer_limit import LimitedConnection
from keap_connect.application import create_app
from keap_connect.database import Base, db
from keap_connect.deployment import MIGRATIONS, downgrade, upgrade
from keap_connect.models import AccountEvent, AuthorizationFlow
from keap_connect.settings import Settings
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.support.engines import on_postgresql, on_sqlite

SCRIPTS = ScriptDirectory(str(MIGRATIONS))
REVISIONS = [one.revision for one in reversed(list(SCRIPTS.walk_revisions()))]
HEAD = REVISIONS[-1]
# What columns hold that take only some values.
CHOSEN = {("account", "kind"): "oauth", ("admin", "role"): "viewer", ("ticket", "purpose"): "new_password"}
CHOSEN["one_time_token", "purpose"] = "new_password"
CHOSEN["invitation", "state"] = "sent"
THEN = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def starts_empty():
    """Say whether the database has no table yet."""
    return False


from_empty = pytest.mark.parametrize("starts_empty", [True], ids=["from empty"])


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path, starts_empty):
    """Give a database at the newest revision without a row, or one without a table."""
    if request.param == "sqlite":
        path = tmp_path / "migrating.db"
        if not starts_empty:
            shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        return f"sqlite:///{path}"
    new_database = request.getfixturevalue("new_database")
    return new_database() if starts_empty else new_database(request.getfixturevalue("empty_postgres"))


@pytest.fixture(autouse=True)
def revisions_read_once(monkeypatch):
    """Let Alembic read the revisions once, not at each step."""
    read_anew = ScriptDirectory.from_config

    def from_config(config):
        return SCRIPTS if config.get_main_option("script_location") == str(MIGRATIONS) else read_anew(config)

    monkeypatch.setattr(ScriptDirectory, "from_config", from_config)


@pytest.fixture(autouse=True)
def inside_the_app(database_url, tmp_path):
    environ = {
        "PORT": "5000",
        "SECRET_KEY": SECRET_KEY,
        "TOKEN_KEYS": TOKEN_KEY,
        "DATABASE_URL": database_url,
        "INSTANCE_PATH": str(tmp_path / "instance"),
    }
    app = create_app(Settings.from_env(environ), serves=False)
    with app.app_context():
        yield
        db.engine.dispose()


def go_up(revision="head", folder=MIGRATIONS):
    upgrade(revision, folder)


def go_down(revision="base", folder=MIGRATIONS):
    downgrade(revision, folder)


def revision_now():
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


# What a schema is made of


def described(engine):
    """Return all that a reflection tells, as lines that can be compared; types in the words of their kind."""
    inspector = sqlalchemy.inspect(engine)
    lines = set()
    for (_, table), columns in inspector.get_multi_columns().items():
        for one in columns:
            kind = one["type"]._type_affinity.__name__
            lines.add(f"{table}.{one['name']}: {kind}, nullable {one['nullable']}, default {one['default']}")
    keys = ((place, [key]) for place, key in inspector.get_multi_pk_constraint().items())
    others = inspector.get_multi_foreign_keys(), inspector.get_multi_unique_constraints()
    others += inspector.get_multi_check_constraints(), inspector.get_multi_indexes()
    for (_, table), found in chain(keys, *(one.items() for one in others)):
        for one in found:
            for name, value in one.get("dialect_options", {}).items():
                one["dialect_options"][name] = str(value)  # a condition, as text
            lines.add(f"{table}: {sorted((key, str(value)) for key, value in one.items() if value)}")
    return {line for line in lines if not line.startswith("alembic_version")}


@pytest.fixture
def created_url(database_url, tmp_path, request):
    """Give a second empty database of the same engine."""
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/created.db"
    return request.getfixturevalue("new_database")()


def test_the_migrations_lead_to_the_models(created_url):
    created = sqlalchemy.create_engine(created_url)
    Base.metadata.create_all(created)
    ours, theirs = described(db.engine), described(created)
    created.dispose()

    assert sorted(ours - theirs) == []
    assert sorted(theirs - ours) == []
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_constraint_has_a_name():
    inspector = sqlalchemy.inspect(db.engine)

    for table in Base.metadata.tables:
        key = inspector.get_pk_constraint(table)
        # SQLite wants AUTOINCREMENT beside the column, where no name can stand.
        is_nameless = (
            db.engine.dialect.name == "sqlite"
            and Base.metadata.tables[table].dialect_options["sqlite"]["autoincrement"]
        )
        named = [*([] if is_nameless else [key]), *inspector.get_foreign_keys(table)]
        named += [*inspector.get_unique_constraints(table), *inspector.get_check_constraints(table)]
        for one in named:
            assert one["name"], f"{table}: {one}"
            assert one["name"].startswith(("pk_", "fk_", "uq_", "ck_")), one["name"]


def test_the_rules_of_the_tables_are_kept_by_the_database():
    fill_all_tables()
    account = Base.metadata.tables["account"]
    with db.engine.connect() as connection:
        row = connection.execute(select(account)).mappings().first()
    others = {name: value for name, value in row.items() if name not in {"id", "tenant_id", "external_id"}}

    for broken in ({"kind": "password"}, {"tenant_id": row["tenant_id"]}, {"reconnects_account_id": 999}):
        with pytest.raises(sqlalchemy.exc.IntegrityError), db.engine.begin() as connection:
            connection.execute(insert(account).values(others | broken))


def test_an_id_is_never_used_again():
    account = Base.metadata.tables["account"]
    values = {"client_id": "c", "token_url": "t", "created_at": THEN, "connected_at": THEN, "kind": "oauth"}
    ids = []
    for _ in range(2):
        with db.engine.begin() as connection:
            ids += connection.execute(
                insert(account).values(**values, generation=1, failures=0).returning(account.c.id)
            )
            connection.execute(account.delete())

    assert ids[0] != ids[1]


# Up and down


@from_empty
def test_up_from_empty_and_down_to_empty():
    for _ in range(2):
        go_up()
        assert revision_now() == HEAD

        go_down()
        assert revision_now() is None
        assert set(sqlalchemy.inspect(db.engine).get_table_names()) == {"alembic_version"}


def test_going_up_twice_changes_nothing():
    fill_all_tables()
    before = all_rows()

    go_up()

    assert all_rows() == before


def value_for(column, number):
    """Return a value that fits a column; each row gets values of its own."""
    if column.foreign_keys:
        return 1 if number > 1 or column.table.name != "account" else None
    if (column.table.name, column.name) in CHOSEN:
        return CHOSEN[column.table.name, column.name]
    kinds = {
        Integer: number,
        Float: number + 0.5,
        Boolean: True,
        DateTime: THEN + timedelta(microseconds=number),
        LargeBinary: bytes([number, 0, 255]),
        JSON: {"number": number, "text": "é"},
    }
    impl = getattr(column.type, "impl", column.type)
    return next((value for kind, value in kinds.items() if isinstance(impl, kind)), f"{column.name} {number} é")


def fill_all_tables():
    with db.engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            for number in (1, 2):
                connection.execute(insert(table), {one.name: value_for(one, number) for one in table.columns})


FIRST_NAMES = {
    "outcome_unknown_since": "lost_at",
    "blocked_until": "hold_until",
    "last_used_at": "asked_at",
    "pending_grant_sealed": "held_grant_sealed",
    "pending_until": "held_until",
}


def all_rows():
    """Return what stands in each table, by the columns that it has now; renamed ones by their first name, too."""
    with db.engine.connect() as connection:
        keys = sqlalchemy.inspect(connection).get_multi_pk_constraint()
        return {
            table: [
                dict(row) | {FIRST_NAMES.get(name, name): value for name, value in row.items()}
                for row in connection.exec_driver_sql(
                    f'SELECT * FROM "{table}" ORDER BY {", ".join(key["constrained_columns"])}'
                ).mappings()
            ]
            for (_, table), key in keys.items()
            if table != "alembic_version"
        }


@from_empty
def test_each_step_up_can_be_taken_back_and_loses_no_row_either_way():
    schemas = {}
    for revision in REVISIONS:
        go_up(revision)
        schemas[revision] = described(db.engine)
        if len(schemas) == 1:
            first_columns = columns_now()
            del first_columns["deployment"]  # its rows are moved, see below
    fill_all_tables()
    before = only(all_rows(), first_columns)

    for revision in reversed(REVISIONS[:-1]):
        go_down(revision)
        assert described(db.engine) == schemas[revision], revision
        assert only(all_rows(), first_columns) == before, revision
    for revision in REVISIONS[1:]:
        go_up(revision)
        assert only(all_rows(), first_columns) == before, revision


@from_empty
def test_a_grant_that_waits_for_a_decision_waits_after_the_renaming_too():
    go_up("0011")
    flow = dict.fromkeys(("ref", "state_hash", "browser_hash"), "x") | dict.fromkeys(("started_at", "expires_at"), THEN)
    with db.engine.begin() as connection:
        for ending in ("held", "held_expired", "connected"):
            values = {name: f"{value}{ending}" if value == "x" else value for name, value in flow.items()}
            connection.execute(insert(AuthorizationFlow), values | {"ending": ending})

    def endings():
        with db.engine.connect() as connection:
            return list(connection.scalars(select(AuthorizationFlow.ending).order_by(AuthorizationFlow.id)))

    go_up("0013")
    assert endings() == ["decision_pending", "decision_expired", "connected"]
    go_down("0011")
    assert endings() == ["held", "held_expired", "connected"]


def columns_now():
    inspector = sqlalchemy.inspect(db.engine)
    names = set(inspector.get_table_names()) - {"alembic_version"}
    return {table: [column["name"] for column in inspector.get_columns(table)] for table in names}


def only(rows, tables):
    return {name: [{column: row[column] for column in tables[name]} for row in rows[name]] for name in tables}


@from_empty
def test_the_facts_of_the_table_deployment_are_moved_and_come_back():
    go_up("0013")
    facts = {"key_check": b"sealed", "instance": b"a:b:8", "client_check": b"{}", "held_file:1": b"2026\nsealed"}
    with db.engine.begin() as connection:
        for name, value in facts.items():
            connection.execute(
                sqlalchemy.text("INSERT INTO deployment VALUES (:name, :value)"), {"name": name, "value": value}
            )

    go_up("0014")
    with db.engine.connect() as connection:
        sealed = connection.scalar(sqlalchemy.text("SELECT sealed FROM key_check WHERE id = 1"))
        counter = connection.execute(sqlalchemy.text("SELECT instance_id, stored_pairs FROM counter_of_0_1")).all()
    go_down("0013")
    with db.engine.connect() as connection:
        back = dict(connection.execute(sqlalchemy.text("SELECT name, value FROM deployment")).all())

    assert (bytes(sealed), counter) == (b"sealed", [("a:b", 8)])
    assert {name: bytes(value) for name, value in back.items()} == {name: facts[name] for name in list(facts)[:2]}


@from_empty
def test_refresh_tokens_that_were_imported_before_are_known():
    go_up("0016")
    event = {"at": THEN, "account_id": 7, "actor": "x", "pair_mark": None}
    imports = [("imported", {"fingerprint": "f" * 16, "generation": 1}), ("imported", {"generation": 1})]
    imports += [("imported_again", {"fingerprint": "f" * 16, "generation": 3}), ("refreshed", {})]
    with db.engine.begin() as connection:
        connection.execute(insert(AccountEvent), [event | {"kind": kind, "details": one} for kind, one in imports])

    go_up("0018")

    with db.engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT * FROM imported_token")).all() == [("f" * 16, 7, 3)]


# A revision that is not there yet


@pytest.fixture
def folder(tmp_path):
    """Give a copy of the migrations, to be added to."""
    return Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations"))


def add_revision(folder, number, after, up):
    lines = "\n    ".join(up)
    (folder / "versions" / f"{number}_test.py").write_text(
        f'"""A revision of this test."""\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision, down_revision = "{number}", "{after}"\n\n\ndef upgrade():\n    {lines}\n'
    )


RECREATE_ACCOUNT = [
    'recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"',
    'with op.batch_alter_table("account", recreate=recreate) as account:',
    '    account.add_column(sa.Column("added", sa.String(), server_default="x"))',
]


def test_a_parent_table_that_is_made_anew_keeps_the_rows_that_refer_to_it(folder):
    fill_all_tables()
    before = all_rows()
    add_revision(folder, "9001", HEAD, RECREATE_ACCOUNT)

    go_up(folder=folder)

    after = all_rows()
    assert [row.pop("added") for row in after["account"]] == ["x", "x"]
    assert after == before
    assert len(after["sign_in"]) == len(after["authorization_flow"]) == 2


def test_foreign_keys_are_watched_again_after_a_migration(folder):
    add_revision(folder, "9001", HEAD, RECREATE_ACCOUNT)
    go_up(folder=folder)
    sign_in = Base.metadata.tables["sign_in"]

    orphan = {one.name: value_for(one, 1) for one in sign_in.columns} | {"account_id": 999, "admin_id": None}
    with pytest.raises(sqlalchemy.exc.IntegrityError), db.engine.begin() as connection:
        connection.execute(insert(sign_in), orphan)


@on_postgresql
def test_a_migration_may_take_longer_than_any_other_statement(folder, monkeypatch):
    monkeypatch.setattr(LimitedConnection, "answer_seconds", 1.5)
    sleep = "SELECT pg_sleep(2)"
    add_revision(folder, "9001", HEAD, [f'op.execute("{sleep}")'])

    go_up(folder=folder)

    assert revision_now() == "9001"
    with pytest.raises(sqlalchemy.exc.OperationalError) as late, db.engine.connect() as connection:
        connection.exec_driver_sql(sleep)
    assert late.value.connection_invalidated


FAILURES = {
    "an error of our own": ['raise RuntimeError("the migration fails")'],
    "an error of the database": ['op.execute("INSERT INTO no_such_table VALUES (1)")'],
    "a broken rule": ['op.execute("INSERT INTO account_event (id) VALUES (NULL)")'],
}


@pytest.mark.proves("F42")
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_migration_that_fails_leaves_everything_as_it_was(folder, failure):
    fill_all_tables()
    before = all_rows(), described(db.engine)
    add_revision(folder, "9001", HEAD, ['op.create_table("extra", sa.Column("id", sa.Integer(), primary_key=True))'])
    add_revision(folder, "9002", "9001", ['op.execute("DELETE FROM account_event")', *RECREATE_ACCOUNT, *failure])

    with pytest.raises((Exception, SystemExit)):
        go_up(folder=folder)

    assert (all_rows(), described(db.engine)) == before
    assert revision_now() == HEAD


@pytest.mark.proves("F42")
def test_a_migration_that_would_leave_orphans_is_taken_back(folder):
    fill_all_tables()
    before = all_rows()
    add_revision(folder, "9001", HEAD, ['op.execute("UPDATE sign_in SET account_id = 999")'])

    with pytest.raises((Exception, SystemExit)):
        go_up(folder=folder)

    assert all_rows() == before
    assert revision_now() == HEAD


def test_after_a_migration_that_failed_foreign_keys_are_watched_again(folder):
    add_revision(folder, "9001", HEAD, FAILURES["an error of our own"])
    with pytest.raises((Exception, SystemExit)):
        go_up(folder=folder)

    sign_in = Base.metadata.tables["sign_in"]
    orphan = {one.name: value_for(one, 1) for one in sign_in.columns} | {"account_id": 999, "admin_id": None}
    with pytest.raises(sqlalchemy.exc.IntegrityError), db.engine.begin() as connection:
        connection.execute(insert(sign_in), orphan)


# The files themselves


@on_sqlite
def test_revisions_are_numbered_in_a_row_and_say_why():
    scripts = list(reversed(list(ScriptDirectory(str(MIGRATIONS)).walk_revisions())))

    assert [one.revision for one in scripts] == [f"{number:04}" for number in range(1, len(scripts) + 1)]
    for one in scripts:
        title, _, reason = one.module.__doc__.partition("\n\n")
        assert re.fullmatch(rf"{one.revision}_[a-z_]+\.py", Path(one.path).name)
        assert title.endswith(".")
        assert len(reason.split()) >= 5, one.path
