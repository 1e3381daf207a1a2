"""Keap, as a client sees it: authorization and token requests, user info, and how each answer is judged.

No Flask and no database here; the sandbox is the other party of the protocol and is never imported.
"""
