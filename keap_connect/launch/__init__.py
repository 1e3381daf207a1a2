"""`python -m keap_connect.launch`, the whole of `make run`.

It prepares `instance/` (place.py), starts the sandbox and the app and ends them (programs.py). It checks
what it can before it starts anything, and it leaves no program of its own behind.
"""


class CannotRun(Exception):
    """Something has to be corrected first; each argument is one clear sentence."""


class Stopped(Exception):
    """A person or the system asked us to end."""
