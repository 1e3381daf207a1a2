"""Signing in at the stand-in: pick one of the made-up people, no password. A cookie remembers whom."""

import re
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, render_template, request

from keap_connect.sandbox.answers import see_other
from keap_connect.sandbox.grants import digest, random_secret
from keap_connect.sandbox.people import PEOPLE, Person, find_person
from keap_connect.sandbox.world import current_world

COOKIE = "sandbox_sign_in"
HOME = "/app/central/home"

sign_in_pages = Blueprint("sign_in", __name__)


def signed_in_person() -> Person | None:
    found = current_world().store.row(
        "SELECT person_id FROM sign_in WHERE digest = ?", digest(request.cookies.get(COOKIE, ""))
    )
    return find_person(found["person_id"]) if found else None


def sign_in_url() -> str:
    """The sign-in page that leads back to the page asked for now."""
    here = request.full_path if request.query_string else request.path
    return f"/app/signin?{urlencode({'next': here})}"


@sign_in_pages.get("/app/signin")
def show() -> str:
    return render_template("sign_in.html", people=PEOPLE, tenants=current_world().tenants.names(), next=next_page())


@sign_in_pages.post("/app/signin")
def create() -> Response:
    person = find_person(request.form.get("person_id")) or abort(400, "Pick one of the people.")
    cookie = random_secret(32)
    current_world().store.run("INSERT INTO sign_in VALUES (?, ?)", digest(cookie), person.person_id)
    answer = see_other(next_page())
    answer.set_cookie(COOKIE, cookie, httponly=True, samesite="Lax")
    return answer


def next_page() -> str:
    """Where to go after signing in: a page of the stand-in, nothing else."""
    wanted = request.args.get("next", HOME)
    return wanted if re.fullmatch(r"/app/[!-~]*", wanted) else HOME


def to_sign_in() -> Response:
    return see_other(sign_in_url())
