"""The one place that presents a refresh token, for pages, commands, programs and the worker alike.

timing.py     how long leases, doubt and patience last
lease.py      who may present a token now; taken durably before anything is sent
refresher.py    presents it, and writes down what the answer means
storing.py    stores what it brought, by the fence
recovery.py   keeps a new pair that the database refused, sealed, in a file that was allocated beforehand
serving.py    hands out a valid access token, waiting for a refresh of somebody else if it must
clone_guard.py  whether this database is the living one, or a restored backup, or a copy
identity.py   what tells this database apart from a copy of it
alarms.py     what pauses refreshing: mass refusals, a refused client, a restored backup
"""
