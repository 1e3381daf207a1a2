"""Measurements, each of them a target of make.

refresh.py         refreshes of due accounts, beside a bare loop that only sends the same requests
token.py           token calls, beside a bare route and what two libraries offer (token_peers.py)
dashboard.py       pages and lists of 1,000,000 accounts, beside those of 1,000
scale.py           disk, memory, and what more processes give, for docs/sizing.md
callers.py         a process that asks as fast as it is answered
accounts.py        a database full of due accounts
token_endpoint.py  a process that answers after 50 ms, rotates, and counts what is presented twice
bare_loop.py       a process that sends the same requests and throws the answers away
"""
