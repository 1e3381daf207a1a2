"""Mail: whether it works, a test mail with what the server says, and the page that ends mails to an admin."""

from flask import render_template, request
from werkzeug.wrappers import Response

from keap_connect.access.mail_choices import read_unsubscribe, unsubscribe
from keap_connect.notifications.mail import list_results, send_trial
from keap_connect.services import services
from keap_connect.web.auth import Audience, Pages, signed_in_admin

bp = Pages("mail", __name__, url_prefix="/mail")


@bp.form("", Audience.ADMIN)
def index() -> str:
    """Show the last results; POST sends a test mail to the admin, and shows what was said."""
    settings = services().settings
    conversation = send_trial(signed_in_admin().email) if request.method == "POST" else None
    values = {"mail": settings.mail, "mails_customers": settings.mails_customers, "results": list_results()}
    return render_template("mail/index.html", conversation=conversation, **values)


@bp.form("/unsubscribe/<token>", Audience.ANYONE, takes_one_click=True)
def end(token: str) -> Response | str:
    """Ask by a button, since programs open the links in mails; the POST of a mail program asks nobody (RFC 8058)."""
    email, choice = read_unsubscribe(token)
    if request.method == "POST":
        unsubscribe(token)
    return render_template("mail/unsubscribe.html", email=email, choice=choice, is_done=request.method == "POST")
