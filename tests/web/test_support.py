"""The support text helps, and holds no secret and nothing of customers, on the page and by the command."""

import logging
from dataclasses import replace

import pytest
import sqlalchemy
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo

from keap_connect import logs
from keap_connect.accounts.credentials import open_access_token, open_refresh_token
from keap_connect.cli.command import commands
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import record_failure
from keap_connect.database import Base, db, write_transaction
from keap_connect.deployment import VERSION
from keap_connect.errors import SettingsError
from keap_connect.events.history import EventKind, record
from keap_connect.health.support import SETTINGS
from keap_connect.models import Account, AuthorizationFlow
from keap_connect.settings import Settings
from tests.conftest import ADMIN_PASSWORD, SECRET_KEY, TOKEN_KEY
from tests.support.engines import on_sqlite
from tests.web.fixtures import World
from tests.web.inventory import LINK_TOKEN, PASSWORD_TICKET

SET = {
    "SMTP_URL": "smtps://sender:canary-smtp-password@mail.internal",
    "MAIL_FROM": "Acme Sync <canary-from@example.com>",
    "SUPPORT_EMAIL": "canary-support@example.com",
    "KEAP_ISSUER": "https://issuer.example.com",
    "RETURN_ORIGINS": "https://canary-origin.example.com",
}


@pytest.mark.proves("R86", "R92")
@pytest.mark.parametrize("environ", [SET], indirect=True)
def test_no_secret_and_no_customer_is_in_the_text(world: World, app: Flask, settings: Settings):
    built = app.extensions["keap_connect"]
    keap = replace(settings.keap, proxy="http://user:canary-proxy-password@127.0.0.1:9")
    admin = {"admin_email": "canary-first@example.com", "admin_password": "canary password"}
    changed = replace(settings, keap=keap, rate_limit_storage="redis://:canary@127.0.0.1:9/0", **admin)
    app.extensions["keap_connect"] = replace(built, settings=changed)
    with app.app_context():
        with write_transaction() as session:
            account = session.get_one(Account, world.account_id)
            account.label, account.external_id = "canary-label", "canary-external-id"
            record(session, EventKind.REFRESH_FAILED, account.id, "canary-actor", reason="Keap answered 503.")
            secrets = {open_access_token(account), open_refresh_token(account), account.person_email, account.tenant_id}
        secrets |= {SECRET_KEY, TOKEN_KEY, ADMIN_PASSWORD, LINK_TOKEN, PASSWORD_TICKET, "canary", "mail.internal"}
        secrets |= {settings.keap.client_secret, *of_customers()}

    texts = [world.admin.get("/support").text, app.test_cli_runner().invoke(args=["support"]).stdout]

    assert "Last warnings of this process\n  none: each process has its own, in its log" in texts[1]
    assert "but without the client address and the last warnings of this web process" in " ".join(texts[0].split())
    for text in texts:
        assert f"account {world.account_id}: A refresh failed; the tokens are kept. Keap answered 503." in text
        shown = {name: text.partition(f"\n  {name} ")[2].partition("\n")[0].strip() for name in SETTINGS}
        assert {name: shown[name] for name in ("SECRET_KEY", "SMTP_URL", "KEAP_PROXY", "RATE_LIMIT_STORAGE")} == {
            **dict.fromkeys(("SECRET_KEY", "SMTP_URL", "KEAP_PROXY"), "set"),
            "RATE_LIMIT_STORAGE": "redis",
        }
        assert [one for one in secrets if one and one in text] == []


def of_customers() -> set[str]:
    """Return what the columns with names and addresses of people hold."""
    table = Base.metadata.tables["account"]
    names = [column for column in table.columns if column.name.startswith(("person_", "business"))]
    with db.engine.connect() as connection:
        return {str(value) for row in connection.execute(sqlalchemy.select(*names)) for value in row if value}


@on_sqlite
def test_the_page_shows_versions_addresses_checks_and_what_this_process_warned_of(
    world: World, app: Flask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logs, "_KEPT", logs.Kept())
    monkeypatch.setattr(logging.getLogger(), "handlers", [logs._KEPT])
    logging.getLogger("keap_connect.test").warning("A line of the log\nand more")
    logging.getLogger("keap_connect.test").warning("%s, %s; %s", "203.0.113.77", "2001:db8::77", "canary@example.com")
    with app.app_context(), write_transaction() as session:
        flow = AuthorizationFlow(ref="a-ref", reconnects_account_id=None)
        record_failure(session, flow, Ending.TENANT_CONFLICT, "canary-words ab123")

    text = world.admin.get("/support", headers={"X-Forwarded-For": "203.0.113.9", "X-Real-Ip": "198.51.100.7"}).text

    assert f"Keap Connect {VERSION}" in text
    assert "X-Forwarded-For    203.0.113.9" in text
    assert "198.51.100.7" not in text
    assert "accounts active" in text
    assert "keys: well. TOKEN_KEYS opens what is stored." in text
    assert "mail: well. What it says may name addresses" in text
    assert "account -: A person could not connect: Keap names two different accounts.\n" in text
    assert [one for one in ("203.0.113.77", "2001:db8", "canary") if one in text] == []
    assert "keap_connect.test: (address), (address); (address)" in text
    assert "WARNING keap_connect.test: A line of the log and more" in text


def test_the_command_works_with_wrong_settings():
    def refuse() -> Flask:
        raise SettingsError("PUBLIC_URL must start with https://.")

    ended = CliRunner().invoke(commands, ["support"], obj=ScriptInfo(create_app=refuse))

    assert ended.exit_code == 0
    assert "PUBLIC_URL must start with https://." in ended.stdout
