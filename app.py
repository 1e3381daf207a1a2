"""The WSGI application: `granian --interface wsgi app:app`."""

import sys

from keap_connect.application import create_app
from keap_connect.errors import SettingsError

try:
    app = create_app()
except SettingsError as refusal:
    sys.exit("Keap Connect does not start:\n" + "\n".join(f"- {problem}" for problem in refusal.problems))
