"""The WSGI application, for any server; `./keap-connect serve` starts the one that ships."""

import sys

from keap_connect.application import create_app, create_unfit_app
from keap_connect.errors import SettingsError

try:
    app = create_app()
except SettingsError as refusal:
    if "doctor" in sys.argv:  # `flask --app app doctor` looks at what does not start, too
        app = create_unfit_app(refusal.problems)
    else:
        sys.exit(refusal.report)
