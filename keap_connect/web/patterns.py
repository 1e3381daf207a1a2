"""Every piece that pages are made of, in every state: the place to judge the design. For developers only.

`create_app` adds it in Flask's debug mode with the sandbox, and leaves it out everywhere else.
"""

from datetime import timedelta

from flask import Blueprint, render_template

from keap_connect.accounts.outlook import Outlook, RunningOut
from keap_connect.clock import utc_now
from keap_connect.web.bar_chart import draw_outlook
from keap_connect.web.door import Audience, open_to

bp = Blueprint("patterns", __name__)


def examples() -> dict[str, object]:
    """Return made-up values for the pieces that show some."""
    now = utc_now()
    busy = Outlook(RunningOut((4, 0, 7, 12, 3, 1, 0, 0, 22, 18, 40, 2), 5), RunningOut((1, 2, 0, 0, 5, 9, 16, 3, 1), 0))
    calm = Outlook(RunningOut((0,) * 12, 0), RunningOut((0,) * 9, 0))
    return {
        "moments": [now + timedelta(hours=3), now - timedelta(days=2), now, None],
        "busy": draw_outlook(busy),
        "calm": draw_outlook(calm),
        "long": "Northern Lights Horticultural Supplies, Greenhouse Engineering and Seasonal Landscaping",
    }


@bp.get("/patterns")
@open_to(Audience.ANYONE)
def index() -> str:
    """Show them all."""
    return render_template("patterns.html", **examples())
