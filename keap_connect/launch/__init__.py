"""`python -m keap_connect.launch`, which is all of `make run`.

It prepares `instance/` and checks all it can (place.py), then starts sandbox and app and ends them (__main__.py).
"""
