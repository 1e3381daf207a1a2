"""Connecting Keap accounts: by authorization, by reconnecting, or by import."""
