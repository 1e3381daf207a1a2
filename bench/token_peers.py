"""The programs that our token endpoint is measured beside: a bare route, Flask-Dance's storage, an Authlib token model.

Each reads the tokens of its accounts from the SQLite file PEER_DATABASE, behind the same check of the same key, as the
documentation of each library shows it. `PEER` names which one `app` is.
"""

import hashlib
import hmac
import json
import os
import time

from flask import Flask, Response, abort, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ACCOUNTS = 100
BODY = json.dumps(
    {
        "state": "active",
        "access_token": "a" * 32,
        "token_type": "bearer",
        "expires_in": 86000,
        "expires_at": "2026-11-26T03:33:51.614170+00:00",
        "tenant_id": "ab123",
        "fingerprint": "e2c6c00b7fed7108",
    }
)


class Base(DeclarativeBase):
    """The base of all tables."""


db = SQLAlchemy(model_class=Base)


class Key(db.Model):  # type: ignore[name-defined,misc]
    """An API key."""

    id: Mapped[int] = mapped_column(primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    secret_hash: Mapped[str]


def bare() -> Flask:
    """A route that returns a constant."""
    app = Flask("bare")

    @app.get("/api/v1/accounts/<int:account_id>/token")
    def token(account_id: int) -> Response:  # noqa: ARG001
        return Response(BODY, mimetype="application/json")

    return app


def with_database(name: str) -> Flask:
    """An app on the peers' database."""
    app = Flask(name)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["PEER_DATABASE"]
    db.init_app(app)
    return app


def check_key() -> None:
    """Let in whoever has the key."""
    text = request.headers.get("Authorization", "").removeprefix("Bearer ")
    public_id, _, secret = text.removeprefix("kc_").partition("_")
    key = db.session.scalar(select(Key).where(Key.public_id == public_id))
    if key is None or not hmac.compare_digest(key.secret_hash, hashlib.sha256(secret.encode()).hexdigest()):
        abort(401)


def answer(token: dict[str, object]) -> Response:
    """Answer as our endpoint does."""
    return Response(json.dumps({**json.loads(BODY), **token}), mimetype="application/json")


def flask_dance() -> Flask:
    """Flask-Dance's SQLAlchemyStorage; the user is the account."""
    from flask_dance.consumer import OAuth2ConsumerBlueprint  # noqa: PLC0415
    from flask_dance.consumer.storage.sqla import OAuthConsumerMixin, SQLAlchemyStorage  # noqa: PLC0415

    class Account(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)

    class OAuth(OAuthConsumerMixin, db.Model):  # type: ignore[name-defined,misc]
        provider_user_id: Mapped[str | None]
        user_id: Mapped[int] = mapped_column(db.ForeignKey(Account.id), index=True)
        user = db.relationship(Account)

    app = with_database("flask_dance")
    keap = OAuth2ConsumerBlueprint("keap", __name__, client_id="bench")
    keap.storage = SQLAlchemyStorage(OAuth, db.session, user_required=True)

    @app.get("/api/v1/accounts/<int:account_id>/token")
    def token(account_id: int) -> Response:
        check_key()
        found = keap.storage.get(keap, user_id=account_id)
        return answer({"access_token": found["access_token"], "expires_in": int(found["expires_at"] - time.time())})

    _fill(app, [Account(id=n) for n in range(1, ACCOUNTS + 1)])
    stored = {"access_token": "a" * 32, "refresh_token": "r" * 32, "expires_at": time.time() + 86000}
    _fill(app, [OAuth(provider="keap", user_id=n, token=stored) for n in range(1, ACCOUNTS + 1)])
    return app


def authlib() -> Flask:
    """An OAuth2Token model, as Authlib's client documentation shows it."""

    class OAuth2Token(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        token_type: Mapped[str]
        access_token: Mapped[str]
        refresh_token: Mapped[str]
        expires_at: Mapped[int]
        user_id: Mapped[int] = mapped_column(index=True)

        def to_token(self) -> dict[str, object]:
            return {
                "access_token": self.access_token,
                "token_type": self.token_type,
                "refresh_token": self.refresh_token,
                "expires_at": self.expires_at,
            }

    from authlib.oauth2.rfc6749 import OAuth2Token as Token  # noqa: PLC0415

    app = with_database("authlib")

    @app.get("/api/v1/accounts/<int:account_id>/token")
    def token(account_id: int) -> Response:
        check_key()
        query = select(OAuth2Token).filter_by(name="keap", user_id=account_id)
        found = Token.from_dict(db.session.scalars(query).one().to_token())
        if found.is_expired():
            abort(503)
        return answer({"access_token": found["access_token"], "expires_in": int(found["expires_at"] - time.time())})

    pair = {"token_type": "bearer", "access_token": "a" * 32, "refresh_token": "r" * 32}
    expires_at = int(time.time()) + 86000
    _fill(app, [OAuth2Token(name="keap", user_id=n, expires_at=expires_at, **pair) for n in range(1, ACCOUNTS + 1)])
    return app


def _fill(app: Flask, rows: list[object]) -> None:
    with app.app_context():
        db.create_all()
        db.session.add_all(rows)
        public_id, _, secret = os.environ["PEER_KEY"].removeprefix("kc_").partition("_")
        if db.session.scalar(select(Key.id)) is None:
            db.session.add(Key(public_id=public_id, secret_hash=hashlib.sha256(secret.encode()).hexdigest()))
        db.session.commit()


if "PEER" in os.environ:
    app = {"bare": bare, "flask_dance": flask_dance, "authlib": authlib}[os.environ["PEER"]]()
