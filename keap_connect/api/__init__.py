"""The token API for programs: JSON over HTTP, with an API key. Each operation is declared (operations.py)."""
