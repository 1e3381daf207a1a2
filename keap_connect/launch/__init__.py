"""`python -m keap_connect.launch`, which is all of `make run`.

It prepares `instance/` and checks all it can (place.py), then starts sandbox and app and ends them (programs.py).
"""


class CannotRun(Exception):
    """Something has to be corrected first; each argument is one sentence."""


class Stopped(Exception):
    """A person or the system asked us to end."""
