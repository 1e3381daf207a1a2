"""The two reasons to end early."""


class CannotRun(Exception):
    """Something has to be mended first; each argument is one clear sentence."""


class Stopped(Exception):
    """A person or the system asked us to end."""
