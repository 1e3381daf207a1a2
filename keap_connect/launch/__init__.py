"""`python -m keap_connect.launch`, the whole of `make run`.

It prepares `instance/` (place.py), starts the sandbox and the app and ends them (programs.py). It checks
what it can before it starts anything, and it leaves no program of its own behind.
"""
