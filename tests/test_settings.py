"""What the app can be told from outside: every problem at once, no secret in sight, and Keap's own hosts only."""

import base64
import os
import re
from pathlib import Path

import pytest
from flask import Flask

from keap_connect.errors import SettingsError
from keap_connect.health.support import SETTINGS as SHOWN
from keap_connect.settings import ADDRESSES, KEAP_HOSTS, SANDBOX_CLIENT_ID, SECRETS, Settings

ROOT = Path(__file__).parent.parent
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
REQUIRED = {"SECRET_KEY": "canary-secret-key-" + "k" * 20, "TOKEN_KEYS": KEY}
KEAP = {"KEAP_CLIENT_ID": "our-client-id", "KEAP_CLIENT_SECRET": "canary-client-secret"}
PUBLIC = {"PUBLIC_URL": "https://connect.example.com"}
# `make run` reads these two itself; the app never sees them.
ONLY_FOR_MAKE_RUN = {"HTTPS"}
# They name people, or what customers see of the integrator; the last three are of other programs.
NOT_IN_SUPPORT_TEXT = {
    "ADMIN_EMAIL", "ADMIN_PASSWORD", "MAIL_FROM", "SERVICE_NAME", "SERVICE_LOGO", "SUPPORT_EMAIL", "PRIVACY_URL",
    "RETURN_ORIGINS", "SANDBOX_PORT", "HTTPS_PROXY", "SSL_CERT_FILE",
}  # fmt: skip


def read(**environ):
    return Settings.from_env(REQUIRED | environ)


def problems_of(**environ):
    with pytest.raises(SettingsError) as refusal:
        read(**environ)
    return refusal.value.problems


# What holds by default


def test_without_a_client_the_app_speaks_to_the_sandbox_on_the_next_port():
    settings = read(PORT="6001")

    assert settings.public_url == "http://localhost:6001"
    assert settings.sandbox_url == "http://127.0.0.1:6002"
    assert settings.keap.client_id == SANDBOX_CLIENT_ID
    assert settings.keap.token_url == "http://127.0.0.1:6002/token"
    assert settings.keap.redirect_uri == "http://localhost:6001/callback"


def test_with_a_client_the_app_speaks_to_keap():
    settings = read(**KEAP, **PUBLIC)

    assert settings.sandbox_url is None
    assert settings.keap.client_id == "our-client-id"
    assert settings.keap.authorize_url == "https://signin.infusionsoft.com/app/oauth/authorize"
    assert settings.keap.token_url == "https://api.infusionsoft.com/token"
    assert settings.keap.api_url == "https://api.infusionsoft.com/crm/rest"
    assert settings.keap.redirect_uri == "https://connect.example.com/callback"


def test_the_log_is_for_people_on_this_machine_and_for_programs_elsewhere():
    assert read().log_format == "TEXT"
    assert read(**KEAP, **PUBLIC).log_format == "JSON"
    assert read(**KEAP, **PUBLIC, LOG_FORMAT="text").log_format == "TEXT"


def test_blank_counts_as_not_set():
    blank = {name: " " for name in names_that_are_read() if name not in REQUIRED}

    assert read(**blank) == read()


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://connect.example.com/", "https://connect.example.com"),
        ("HTTPS://Connect.Example.COM", "https://connect.example.com"),
        ("https://connect.example.com:8443", "https://connect.example.com:8443"),
        ("https://Bücher.example", "https://xn--bcher-kva.example"),
        ("https://connect.example.com:443", "https://connect.example.com"),
        ("https://connect.example.com.", "https://connect.example.com"),
        ("https://[2001:DB8:0:0::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_the_public_url_is_brought_into_one_form(url, normal):
    settings = read(**KEAP, PUBLIC_URL=url)

    assert settings.public_url == normal
    assert settings.is_https


def test_a_letter_that_older_rules_write_otherwise_is_asked_for_in_ascii():
    (problem,) = problems_of(**KEAP, PUBLIC_URL="https://straße.example")

    assert "in the form that begins with xn--" in problem


@pytest.mark.parametrize(
    ("url", "engine_url"),
    [
        ("postgres://u:p@db/name", "postgresql+psycopg://u:p@db/name"),
        ("postgresql://u:p@db/name", "postgresql+psycopg://u:p@db/name"),
        ("postgresql+psycopg://u:p@db/name", "postgresql+psycopg://u:p@db/name"),
        ("sqlite:////data/app.db", "sqlite:////data/app.db"),
    ],
)
def test_a_database_url_gets_the_driver_we_have(url, engine_url):
    assert read(DATABASE_URL=url).database_url == engine_url


def test_relative_paths_count_from_the_project_wherever_a_command_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert read().database_url == f"sqlite:///{ROOT}/instance/keap_connect.db"
    assert read(AUDIT_LOG="log/audit.log").audit_log == ROOT / "log" / "audit.log"
    assert read(INSTANCE_PATH="kept").instance_path == ROOT / "kept"


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:////data/app.db", Path("/data/app.db")),
        ("sqlite:///app.db", Path(Flask("keap_connect").instance_path) / "app.db"),  # where Flask-SQLAlchemy opens it
        ("postgresql://keap@db/keap", None),
    ],
)
def test_one_place_knows_the_file_of_the_database(url, file):
    assert read(DATABASE_URL=url).sqlite_file == file


@pytest.mark.parametrize("ring", [f"{KEY},{OTHER_KEY}", f" {KEY} , {OTHER_KEY} "])
def test_token_keys_are_a_ring_in_order(ring):
    assert read(TOKEN_KEYS=ring).token_keys == (bytes(range(32)), bytes(range(32, 64)))


def test_a_url_safe_key_is_read_too():
    key = bytes([251, 255]) * 4 + bytes(range(24))

    assert read(TOKEN_KEYS=base64.urlsafe_b64encode(key).decode()).token_keys == (key,)


def test_the_environment_wins_over_the_file(monkeypatch):
    in_file = {"PORT": "6001", "LOG_LEVEL": "ERROR", "A_NAME_WITHOUT_VALUE": None}
    monkeypatch.setattr("keap_connect.settings.dotenv_values", lambda _path, **_options: in_file)
    monkeypatch.setattr(os, "environ", REQUIRED | {"PORT": "6002"})

    settings = Settings.from_env()

    assert (settings.port, settings.log_level) == (6002, "ERROR")


# What `make run` left


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Give the function that reads settings as a command does, beside a `make run` that has been here."""
    (tmp_path / "secret_key").write_text(REQUIRED["SECRET_KEY"])
    (tmp_path / "token_keys").write_text(KEY)
    (tmp_path / ADDRESSES).write_text("PORT=8000\nPUBLIC_URL=https://localhost:8000\nSANDBOX_PORT=5001\n")
    monkeypatch.setattr("keap_connect.settings.DOTENV", tmp_path / ".env")

    def run(**environ):
        monkeypatch.setattr(os, "environ", {"INSTANCE_PATH": str(tmp_path)} | environ)
        return Settings.from_env()

    return run


def test_a_command_without_settings_reads_what_make_run_left(command, tmp_path):
    settings = command()

    assert (settings.secret_key, settings.token_keys) == (REQUIRED["SECRET_KEY"], (bytes(range(32)),))
    assert settings.database_url == f"sqlite:///{tmp_path}/keap_connect.db"
    assert (settings.port, settings.public_url) == (8000, "https://localhost:8000")
    assert settings.keap.token_url == "http://127.0.0.1:5001/token"
    assert settings.secret_files == (tmp_path / "secret_key", tmp_path / "token_keys")


def test_what_is_set_wins_over_what_make_run_left(command, tmp_path):
    (tmp_path / ".env").write_text(f"TOKEN_KEYS={OTHER_KEY}\nSECRET_KEY=\n")

    settings = command(**KEAP, PUBLIC_URL="https://connect.example.com")

    assert (settings.secret_key, settings.token_keys) == (REQUIRED["SECRET_KEY"], (bytes(range(32, 64)),))
    assert settings.public_url == "https://connect.example.com"
    assert settings.keap.token_url == "https://api.infusionsoft.com/token"


def test_another_port_has_another_address_and_the_same_sandbox(command):
    settings = command(PORT="9000")

    assert (settings.public_url, settings.sandbox_url) == ("http://localhost:9000", "http://127.0.0.1:5001")


def test_the_app_does_not_take_the_port_of_the_sandbox(command):
    with pytest.raises(SettingsError, match="PORT must not be 5001: the sandbox uses that one"):
        command(PORT="5001")


def test_keys_of_another_user_are_said_to_be_closed(command, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os.path, "isfile", lambda _: False)  # as it is in a folder that is closed to us
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError))

    with pytest.raises(SettingsError, match=r"SECRET_KEY_FILE cannot be read \(PermissionError\)"):
        command()


# What is wrong

WRONG = [
    ("INSTANCE_PATH", __file__, "INSTANCE_PATH must be a folder"),
    ("INSTANCE_PATH", f"{__file__}/below", "INSTANCE_PATH must be a folder"),
    ("PORT", "http", "PORT must be a whole number"),
    ("PORT", "0", "PORT must be a whole number from 1 to 65534"),
    ("PORT", "65535", "PORT must be a whole number from 1 to 65534"),
    ("PORT", "-1", "PORT must be a whole number"),
    ("PORT", "\u0665\u0660", "PORT must be a whole number"),
    ("PORT", "9" * 5000, "PORT must be a whole number from 1 to 65534, not '99999999999999999999'"),
    ("KEEP_EVENTS", "29", "KEEP_EVENTS must be 30 days or more, or 0 to keep everything"),
    ("KEEP_LINKS", "7d", "KEEP_LINKS must be a whole number"),
    ("TRUSTED_PROXIES", "many", "TRUSTED_PROXIES must be"),
    ("TRUSTED_PROXIES", "11", "TRUSTED_PROXIES must be"),
    ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR"),
    ("LOG_FORMAT", "xml", "LOG_FORMAT must be one of JSON, TEXT"),
    ("KEAP_PKCE", "yes", "KEAP_PKCE must be one of ON, OFF"),
    ("REQUIRE_TWO_FACTOR", "yes", "REQUIRE_TWO_FACTOR must be one of ON, OFF"),
    ("PUBLIC_URL", "connect.example.com", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "ftp://localhost", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://[::1", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://localhost:http", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://user@localhost", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://:password@localhost", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://localhost?x=y", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://localhost#top", "PUBLIC_URL must be an address"),
    ("PUBLIC_URL", "https://localhost/app", "PUBLIC_URL must not have a path"),
    ("PUBLIC_URL", "http://connect.example.com", "PUBLIC_URL must start with https://"),
    ("PUBLIC_URL", "http://localhost.example.com", "PUBLIC_URL must start with https://"),
    ("SECRET_KEY", "", "SECRET_KEY must be at least 32 random characters"),
    ("SECRET_KEY", "short", "SECRET_KEY must be at least 32 random characters"),
    ("SECRET_KEY", "k" * 40, "SECRET_KEY must be at least 32 random characters"),
    ("SECRET_KEY", "changeme" * 8, "SECRET_KEY must be at least 32 random characters"),
    ("SECRET_KEY", "Your-secret-key-goes-here-replace-it", "SECRET_KEY must be at least 32 random characters"),
    ("TOKEN_KEYS", "", "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", "not base64 at all!", "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", base64.b64encode(bytes(range(16))).decode(), "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", base64.b64encode(bytes(range(33))).decode(), "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", base64.b64encode(bytes(32)).decode(), "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", base64.b64encode(b"changeme" * 4).decode(), "TOKEN_KEYS: key 1 must be 32 random bytes"),
    ("TOKEN_KEYS", f"{KEY},short", "TOKEN_KEYS: key 2 must be 32 random bytes"),
    ("TOKEN_KEYS", f"{KEY},", "TOKEN_KEYS: key 2 must be 32 random bytes"),
    ("DATABASE_URL", "mysql://u:p@db/name", "DATABASE_URL must start with sqlite:/// or postgresql://"),
    ("DATABASE_URL", "/data/app.db", "DATABASE_URL must start with"),
    ("DATABASE_URL", "sqlite://", "DATABASE_URL must start with"),
    ("DATABASE_URL", "sqlite:///", "DATABASE_URL must name a file"),
    ("DATABASE_URL", "sqlite:///:memory:", "DATABASE_URL must name a file"),
    ("DATABASE_URL", "postgresql://u:p@db:port/name", "DATABASE_URL is not a valid address"),
    ("DATABASE_URL", "postgresql://db/name?host=a:1&host=b&port=3", "DATABASE_URL is not a valid address"),
    (
        "DATABASE_URL",
        "postgresql://db/name?ssl_mode=require",
        "DATABASE_URL has an option that PostgreSQL does not know",
    ),
    ("DATABASE_URL", "postgresql://db/name?pool_size=5", "DATABASE_URL has an option that PostgreSQL does not know"),
    ("DATABASE_URL", "postgresql://db/name?connect_timeout=soon", "DATABASE_URL: connect_timeout must be"),
    (
        "DATABASE_URL",
        "sqlite:////data/app.db?check_same_thread=no",
        "DATABASE_URL has an option, and SQLite takes none",
    ),
    ("DATABASE_URL", "sqlite:///file:app.db?uri=true", "DATABASE_URL has an option, and SQLite takes none"),
    ("RATE_LIMIT_STORAGE", "memcached://cache", "RATE_LIMIT_STORAGE must be memory://"),
    ("API_RATE_PER_MINUTE", "many", "API_RATE_PER_MINUTE must be a whole number"),
    ("ADMIN_EMAIL", "ann@example.com", "ADMIN_EMAIL and ADMIN_PASSWORD belong together"),
    ("ADMIN_PASSWORD", "canary-admin-password", "ADMIN_EMAIL and ADMIN_PASSWORD belong together"),
    ("SMTP_URL", "smtps://mail.example.com", "SMTP_URL and MAIL_FROM belong together"),
    ("MAIL_FROM", "connect@example.com", "SMTP_URL and MAIL_FROM belong together"),
    ("CUSTOMER_MAIL", "on", "CUSTOMER_MAIL=on needs SMTP_URL and MAIL_FROM"),
    ("SERVICE_NAME", "Acme\nSync", "SERVICE_NAME must be one line of at most 60"),
    ("SERVICE_NAME", "A" * 61, "SERVICE_NAME must be one line of at most 60"),
    ("SERVICE_LOGO", "no-such-file.png", "SERVICE_LOGO cannot be read (FileNotFoundError): check no-such-file.png"),
    ("SERVICE_LOGO", "static/favicon.svg", "SERVICE_LOGO must be a PNG, JPEG or WebP file of at most 50 kB"),
    ("SUPPORT_EMAIL", "Acme Sync <support@example.com>", "SUPPORT_EMAIL must be one address"),
    ("SUPPORT_EMAIL", "support", "SUPPORT_EMAIL must be one address"),
    ("PRIVACY_URL", "javascript:alert(1)", "PRIVACY_URL must be an address"),
    ("CONNECT_MODE", "closed", "CONNECT_MODE must be one of OPEN, INVITATION"),
    (
        "RETURN_ORIGINS",
        "https://app.example.com,http://crm.example.com",
        "RETURN_ORIGINS must be addresses without a path",
    ),
    ("RETURN_ORIGINS", "https://app.example.com/keap", "RETURN_ORIGINS must be addresses without a path"),
    ("RETURN_ORIGINS", "javascript:alert(1)", "RETURN_ORIGINS must be an address"),
    ("RETURN_ORIGINS", "https://stra\xdfe.example", "RETURN_ORIGINS: write the host name in the form that begins with"),
    ("KEAP_CLIENT_ID", "our-client-id", "KEAP_CLIENT_SECRET is missing"),
    ("KEAP_CLIENT_SECRET", "canary-client-secret", "KEAP_CLIENT_ID is missing"),
]


@pytest.mark.proves("R91")
@pytest.mark.parametrize(("name", "value", "words"), WRONG)
def test_a_bad_value_is_named_and_the_only_problem(name, value, words):
    problems = problems_of(**{name: value})

    assert [problem for problem in problems if problem.startswith(words)], problems
    assert len([problem for problem in problems if "KEAP_CLIENT_ID and" not in problem]) == 1


def test_an_option_that_is_misspelled_comes_with_the_right_one():
    (problem,) = problems_of(DATABASE_URL="postgresql://db/name?sslmod=require")

    assert problem.endswith("'sslmod'. Did you mean sslmode?")


def test_the_rest_of_a_password_is_not_taken_for_an_option_and_shown():
    (problem,) = problems_of(DATABASE_URL="postgresql://u:p@cana?ry-password=1@db/name")

    assert "ry-password" not in problem
    assert "%3F" in problem


def test_all_problems_are_told_at_once():
    environ = {
        "PORT": "no",
        "PUBLIC_URL": "http://connect.example.com/path",
        "SECRET_KEY": "",
        "TOKEN_KEYS": "short,shorter",
        "DATABASE_URL": "mysql://",
        "ADMIN_EMAIL": "ann@example.com",
        "KEAP_TOKEN_URL": "https://evil.example/token",
        "KEAP_PKCE": "maybe",
        "LOG_LEVEL": "LOUD",
        "TRUSTED_PROXIES": "-1",
    }

    told = "\n".join(problems_of(**environ))

    for name in environ:
        assert name in told
    assert told.count("TOKEN_KEYS: key") == 2
    assert "KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are missing" in told


def test_no_problem_tells_a_secret():
    secrets = {name: f"canary-{name}" for name in SECRETS}

    told = str(problems_of(**secrets, PUBLIC_URL="http://connect.example.com"))

    assert "canary" not in told


# The right server


@pytest.mark.proves("R24")
@pytest.mark.parametrize("name", ["KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL"])
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/token",
        "https://api.infusionsoft.com.evil.example/token",
        "https://evil-infusionsoft.com/token",
        "https://evil.infusionsoft.com/token",
        "https://infusionsoft.com/token",
        "https://api.infusionsoft.com:8443/token",
        "http://api.infusionsoft.com/token",
        "https://api.infusionsoft.com@evil.example/token",
        "https://api.infusionsoft.com\\@evil.example/token",
        "https://:password@api.infusionsoft.com/token",
        "https://api.infusionsoft.com/token?next=evil",
        "https://169.254.169.254/token",
        "http://127.0.0.1:5001/token",
        "http://localhost/token",
        "https://localhost/token",
        "file:///etc/passwd",
        "token",
    ],
)
def test_no_address_but_keaps_own_is_accepted_in_public(name, url):
    problems = problems_of(**KEAP, **PUBLIC, **{name: url})

    assert len(problems) == 1
    assert problems[0].startswith(f"{name} must be")


@pytest.mark.parametrize("host", sorted(KEAP_HOSTS))
def test_each_of_keaps_hosts_is_accepted(host):
    url = f"https://{host}/token"

    assert read(**KEAP, **PUBLIC, KEAP_TOKEN_URL=url).keap.token_url == url


@pytest.mark.parametrize("host", ["localhost:5001", "127.0.0.1:5001", "[::1]:5001"])
def test_loopback_is_accepted_only_while_the_app_itself_is_on_loopback(host):
    url = f"http://{host}/token"

    assert read(**KEAP, KEAP_TOKEN_URL=url, PUBLIC_URL="http://localhost:5000").keap.token_url == url
    assert problems_of(**KEAP, KEAP_TOKEN_URL=url, **PUBLIC)[0].startswith("KEAP_TOKEN_URL must be https on one of")


def test_loopback_is_no_way_to_any_other_host():
    assert problems_of(KEAP_TOKEN_URL="http://192.168.1.1/token")[0].startswith("KEAP_TOKEN_URL must be https on")


def test_the_sandbox_is_for_loopback_only():
    assert problems_of(**PUBLIC) == [
        "KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are missing: without them the app speaks to the sandbox, and only when "
        "PUBLIC_URL is on localhost."
    ]


@pytest.mark.parametrize("name", ["KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL"])
def test_keaps_own_addresses_without_a_client_are_half_a_setting(name):
    problems = problems_of(**{name: "https://api.infusionsoft.com/token"})

    assert problems == [f"{name} is Keap's own, but KEAP_CLIENT_ID and KEAP_CLIENT_SECRET are missing."]


def test_the_sandbox_may_stand_on_another_port():
    settings = read(KEAP_AUTHORIZE_URL="http://127.0.0.1:7000/app/oauth/authorize")

    assert settings.sandbox_url == "http://127.0.0.1:7000"


# The way to Keap


@pytest.mark.proves("F100")
@pytest.mark.parametrize(
    "value",
    [
        "http://proxy.example.com:3128",
        "https://proxy.example.com:443",
        "http://user:canary@10.0.0.1:8080/",
        "http://[::1]:3128",
    ],
)
def test_a_proxy_for_calls_to_keap_is_taken_as_it_is_and_shown_nowhere(value):
    settings = read(KEAP_PROXY=value)

    assert settings.keap.proxy == value
    assert value not in repr(settings)


@pytest.mark.parametrize(
    "value",
    [
        "proxy.example.com:3128",
        "canary.example.com",
        "http://canary.example.com",
        "http://:3128",
        "http://canary:port",
        "http://canary.example.com:0",
        "http://canary.example.com:99999",
        "socks5://canary.example.com:1080",
        "http://canary.example.com:3128/path",
        "http://canary.example.com:3128?query",
        "http://[canary:3128",
    ],
)
def test_what_is_no_proxy_is_a_problem_that_tells_no_password(value):
    (problem,) = problems_of(KEAP_PROXY=value)

    assert problem.startswith("KEAP_PROXY must be http:// or https:// with host and port")
    assert "canary" not in problem


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtps://user:p%40ss@mail.example.com", ("mail.example.com", 465, True, False, "user", "p@ss")),
        ("smtp://user:canary@mail.example.com", ("mail.example.com", 587, False, True, "user", "canary")),
        ("smtp://mail.example.com:25?starttls=off", ("mail.example.com", 25, False, False, None, None)),
        ("smtp://user:canary@localhost:1025", ("localhost", 1025, False, False, "user", "canary")),
    ],
)
def test_mail_goes_over_tls_unless_the_server_is_near_or_the_setting_says_so(url, expected):
    mail = read(SMTP_URL=url, MAIL_FROM="Acme Sync <connect@example.com>").mail

    assert (mail.host, mail.port, mail.is_tls, mail.needs_starttls, mail.user, mail.password) == expected
    assert "canary" not in repr(mail)


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.com",
        "https://canary.example.com",
        "smtp://",
        "smtp://canary.example.com:port",
        "smtp://canary.example.com/path",
        "smtp://canary.example.com?tls=off",
        "smtps://canary.example.com?starttls=off",
        "smtp://canary@mail.example.com",
        "smtp://user:canary@mail.example.com?starttls=off",
        "smtp://canary..example.com",
        f"smtp://canary{'a' * 64}.example.com",
        "smtp://canary .example.com",
        "smtp://can\tary.example.com",
    ],
)
def test_a_wrong_mail_server_is_a_problem_that_tells_no_password(url):
    (problem,) = problems_of(SMTP_URL=url, MAIL_FROM="connect@example.com")

    assert problem.startswith("SMTP_URL")
    assert "canary" not in problem


@pytest.mark.parametrize(
    "sender",
    ["Acme Sync", "a@example.com, b@example.com", "a@", "@example.com", "é@example.com", "A <a@b", "a b@c", "<>"],
)
def test_mails_are_from_one_address(sender):
    (problem,) = problems_of(SMTP_URL="smtps://mail.example.com", MAIL_FROM=sender)

    assert problem.startswith("MAIL_FROM must be one address")


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "Keap Connect"),
        ({**KEAP, **PUBLIC}, "connect.example.com"),
        ({"SMTP_URL": "smtp://localhost", "MAIL_FROM": "connect@example.com"}, "Keap Connect"),
        ({"SMTP_URL": "smtp://localhost", "MAIL_FROM": "Acme Mail <connect@example.com>"}, "Acme Mail"),
        (
            {"SMTP_URL": "smtp://localhost", "MAIL_FROM": "Acme <a@example.com>", "SERVICE_NAME": "Acme Sync"},
            "Acme Sync",
        ),
    ],
)
def test_customers_know_the_service_by_the_best_name_there_is(environ, name):
    assert read(**environ).service.name == name


@pytest.mark.parametrize(
    ("start", "size", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", 50 * 1024, "png"),
        (b"\xff\xd8\xff", 4, "jpeg"),
        (b"RIFF\n\0\0\0WEBP", 12, "webp"),
        (b"\x89PNG\r\n\x1a\n", 50 * 1024 + 1, None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'>", 40, None),
        (b"", 0, None),
    ],
)
def test_a_logo_is_a_small_picture_that_holds_no_script(start, size, kind, tmp_path):
    path = tmp_path / "logo"
    path.write_bytes(start.ljust(size, b"\0"))

    if kind is None:
        assert problems_of(SERVICE_LOGO=str(path))[0].startswith("SERVICE_LOGO must be a PNG, JPEG or WebP file")
    else:
        logo = read(SERVICE_LOGO=str(path)).service.logo
        assert (logo.kind, len(logo.content)) == (kind, size)


@pytest.mark.proves("F100")
@pytest.mark.parametrize("name", ["KEAP_CA_FILE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text"])
def test_a_file_without_certificates_is_a_problem(name, kind, tmp_path):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("no certificate" if kind == "text" else "")

    (problem,) = problems_of(**{name: str(path)})

    assert problem.startswith(f"{name} must be a file of certificates in PEM (")
    assert str(path) in problem


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_of_the_environment_is_noticed_and_not_used(name, monkeypatch):
    for variable, value in {**REQUIRED, name: "http://proxy.example.com:3128"}.items():
        monkeypatch.setenv(variable, value)

    noticed = Settings.from_env()
    monkeypatch.setenv("KEAP_PROXY", "http://proxy.example.com:3128")

    assert (noticed.keap.proxy, noticed.has_unused_proxy) == (None, True)
    assert not Settings.from_env().has_unused_proxy


def test_origins_to_go_back_to_are_read_as_browsers_write_them():
    origins = "https://App.Example.com:443/, http://localhost:8080,https://m\xfcnchen.example,"

    assert read(RETURN_ORIGINS=origins).return_origins == {
        *("https://app.example.com", "http://localhost:8080", "https://xn--mnchen-3ya.example")
    }


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KEAP_CLIENT_IDD", "KEAP_CLIENT_ID"),
        ("KEAP_CLIENT_ID_FILE", "KEAP_CLIENT_ID"),
        ("TOKEN_KEY", "TOKEN_KEYS"),
        ("public_url", "PUBLIC_URL"),
    ],
)
def test_a_name_that_only_looks_like_a_setting_is_noticed(name, meant):
    assert read(**{name: "canary"}).misspelled == {name: meant}
    assert problems_of(PORT="0", **{name: "canary"})[-1] == f"{name} is no setting: did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    [
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "POSTGRES_PASSWORD",
        "HOSTNAME",
        "PATH",
        "SMTP_USER",
        "NIX_SSL_CERT_FILE",
        "KEAP_CONNECT_KEY",
    ],
)
def test_names_of_other_programs_are_no_misspelled_settings(name):
    assert read(**{name: "canary"}).misspelled == {}
    assert read(KEAP_CLIENT_IDD=" ").misspelled == {}


# Secrets


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_each_secret_may_stand_in_a_file(name, tmp_path):
    values = {"TOKEN_KEYS": OTHER_KEY, "DATABASE_URL": "sqlite:////data/other.db"}
    values["RATE_LIMIT_STORAGE"] = "redis://:canary@redis.example.com"
    values["KEAP_PROXY"] = "http://user:canary@proxy.example.com:3128"
    values["SMTP_URL"] = "smtps://user:canary@mail.example.com"
    value = values.get(name, f"canary-{name}-" + "x" * 32)
    (tmp_path / "secret").write_text(f"{value}\n")
    partners = {"KEAP_CLIENT_SECRET": {"KEAP_CLIENT_ID": "c"}, "ADMIN_PASSWORD": {"ADMIN_EMAIL": "a@example.com"}}
    partners["SMTP_URL"] = {"MAIL_FROM": "a@example.com"}
    environ = REQUIRED | partners.get(name, {})

    by_file = Settings.from_env({**environ, name: "", f"{name}_FILE": str(tmp_path / "secret")})
    by_name = Settings.from_env({**environ, name: value})

    assert by_file == by_name


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_given_twice_is_a_problem(name, tmp_path):
    path = tmp_path / "secret"
    path.write_text("canary-in-a-file")

    problems = problems_of(**{name: "canary-in-the-environment", f"{name}_FILE": str(path)})

    assert f"{name} and {name}_FILE are both set: keep one of them." in problems
    assert "canary" not in str(problems)


@pytest.mark.parametrize("name", ["KEAP_CLIENT_ID", "KEAP_CLIENT_SECRET"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("\ufeffcanary", "which may be invisible"),
        ("can\nary", "has a line break"),
        ("can\u200bary", "which may be invisible"),
        ("can\xa0ary", "which may be invisible"),
        ("'canary'", "quotes"),
        ('"canary', "quotes"),
        ("\u201ccanary\u201d", "which may be invisible"),
    ],
)
def test_a_credential_that_keap_never_gives_is_refused_and_not_shown(name, value, words):
    (problem,) = problems_of(**{**KEAP, **PUBLIC, name: value})

    assert problem.startswith(name)
    assert words in problem
    assert "canary" not in problem


def test_a_file_of_settings_may_have_a_mark_in_front_and_must_be_utf_8(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", REQUIRED)
    monkeypatch.setattr("keap_connect.settings.DOTENV", tmp_path / ".env")
    (tmp_path / ".env").write_text("PORT=6001\n", encoding="utf-8-sig")
    port = Settings.from_env().port
    (tmp_path / ".env").write_text("# Schlüssel\nPORT=6001\n", encoding="cp1252")
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env()

    assert port == 6001
    assert "is not in UTF-8" in str(refusal.value)


@pytest.mark.parametrize("name", sorted(SECRETS))
@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_secret_file_that_cannot_be_read_is_a_problem(name, kind, tmp_path):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe canary")
    environ = {other: value for other, value in REQUIRED.items() if other != name}

    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({**environ, f"{name}_FILE": str(path)})

    assert [problem for problem in refusal.value.problems if problem.startswith(f"{name}_FILE cannot be read")]
    assert "canary" not in str(refusal.value)


def test_what_is_no_secret_has_no_file(tmp_path):
    (tmp_path / "port").write_text("6001")

    assert read(PORT_FILE=str(tmp_path / "port")).port == 5000


@pytest.mark.parametrize("password", ["  a password of spaces  ", "ends with a tab\t"])
def test_a_password_keeps_its_spaces(tmp_path, password):
    (tmp_path / "password").write_text(f"{password}\n")

    for named in ({"ADMIN_PASSWORD": password}, {"ADMIN_PASSWORD_FILE": str(tmp_path / "password")}):
        assert read(ADMIN_EMAIL="ann@example.com", **named).admin_password == password


def test_its_repr_shows_no_secret():
    settings = read(
        **KEAP,
        DATABASE_URL="postgresql://user:canary-database-password@db/name",
        ADMIN_EMAIL="ann@example.com",
        ADMIN_PASSWORD="canary-admin-password",
    )

    shown = repr(settings) + str(settings) + repr(settings.keap)

    assert "canary" not in shown
    assert repr(settings.token_keys[0]) not in shown
    assert "our-client-id" in shown


# .env.example


class RecordingEnvironment(dict):
    """Notes each name that somebody asks for."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


CERTIFICATES = {"KEAP_CA_FILE", "SSL_CERT_FILE"}  # no secrets: they are in files always


def names_that_are_read():
    environ = RecordingEnvironment(REQUIRED)
    Settings.from_env(environ)
    return environ.asked


def example_lines():
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    return re.findall(r"^(#?)([A-Z_]+)=(.*)$", text, flags=re.MULTILINE)


def test_env_example_explains_each_setting_once_and_no_other():
    names = [name for _, name, _ in example_lines()]

    assert len(names) == len(set(names))
    assert set(names) - ONLY_FOR_MAKE_RUN == names_that_are_read()
    assert set(names) >= ONLY_FOR_MAKE_RUN


def test_the_support_text_shows_each_setting_that_it_may_show():
    ours = {name for name in names_that_are_read() if not name.endswith("_FILE")} | {"KEAP_CA_FILE", "SSL_CERT_FILE"}

    assert set(SHOWN) == ours - NOT_IN_SUPPORT_TEXT


def test_make_run_reads_what_the_example_says_it_reads():
    place = (ROOT / "keap_connect" / "launch" / "place.py").read_text(encoding="utf-8")

    assert {name for name in ONLY_FOR_MAKE_RUN if f'value_of(environ, "{name}")' in place} == ONLY_FOR_MAKE_RUN


def test_each_secret_has_its_file_in_the_example():
    names = {name for _, name, _ in example_lines()}

    assert {f"{name}_FILE" for name in SECRETS} == {name for name in names if name.endswith("_FILE")} - CERTIFICATES


def test_the_defaults_in_the_example_are_the_defaults():
    defaults = {name: value for mark, name, value in example_lines() if mark and value}

    assert set(defaults) >= {"PORT", "PUBLIC_URL", "LOG_LEVEL", "KEAP_PKCE", "KEAP_TOKEN_URL", "TRUSTED_PROXIES"}
    assert read(**KEAP, **defaults) == read(**KEAP)


def test_a_copy_of_the_example_changes_nothing():
    copied = {name: value for mark, name, value in example_lines() if not mark}

    assert set(copied.values()) == {""}
    assert Settings.from_env(copied | REQUIRED) == read()
