"""Keap Connect: connects many customers' Keap accounts through OAuth 2.0 and never loses one.

Empty on purpose: `keap_connect.application.create_app` builds the app, and `keap_connect.sandbox` is a
program of its own that must not import any of it.
"""
