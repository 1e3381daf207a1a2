"""A stand-in for Keap: an authorization server and REST API of its own, reached over HTTP only.

Nothing here imports the application, and the application imports nothing from here.
"""
