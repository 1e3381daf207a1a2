"""Measurements. `make bench-refresh` sweeps due accounts, beside a bare loop that only sends the same requests;
`make bench-token` asks for tokens, beside a bare route and what two libraries offer.

refresh.py         the measurement: rounds, medians, the table
token.py           the measurement of the token endpoint
token_peers.py     what it is measured beside
callers.py         a process that asks as fast as it is answered
accounts.py        a database full of due accounts
token_endpoint.py  a process that answers after 50 ms, rotates, and counts what is presented twice
bare_loop.py       a process that sends the same requests and throws the answers away
"""
