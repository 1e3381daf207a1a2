"""Every macro of the pages in every state, to check the design. For developers only.

`create_app` adds it in Flask's debug mode with the sandbox, and leaves it out everywhere else.
"""

from datetime import timedelta

from flask import render_template

from keap_connect.clock import utc_now
from keap_connect.web.auth import Audience, Pages

bp = Pages("patterns", __name__)


@bp.page("/patterns", Audience.ANYONE)
def index() -> str:
    now = utc_now()
    return render_template("patterns.html", moments=[now + timedelta(hours=3), now - timedelta(days=2), now, None])
