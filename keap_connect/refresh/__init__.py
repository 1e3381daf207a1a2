"""The one place that presents refresh tokens, for pages, commands, the API and the worker.

lease.py            who may present a token now; committed before anything is sent
refresher.py        lease, send, store: for one account or many
storing.py          what an answer of Keap changes in the account's row
recovery.py         keeps a new pair that the database refused, encrypted, in a file that was allocated before
replaying.py        stores the pairs in these files
serving.py          returns a valid access token, waiting for somebody else's refresh if it must
worker.py           refreshes what is due (due.py), in the threads of worker_pool.py, and pauses with circuit_breaker.py
alarms.py           what pauses refreshing: mass refusals, a refused client, a copy of the installation
clone_guard.py      whether this database is the living one, a restored backup or a copy (identity.py)
state_keeper.py     keeps the stored states of accounts right, in a thread of the worker
heartbeat.py        what processes write about themselves; figures.py adds it up for the page Health
retention.py        deletes what is older than the settings allow
timing.py           how long leases and waits last
"""
