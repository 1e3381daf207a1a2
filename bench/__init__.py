"""Measurements. `make bench-refresh` sweeps due accounts, beside a bare loop that only sends the same requests.

refresh.py         the measurement: rounds, medians, the table
accounts.py        a database full of due accounts
token_endpoint.py  a process that answers after 50 ms, rotates, and counts what is presented twice
bare_loop.py       a process that sends the same requests and throws the answers away
"""
