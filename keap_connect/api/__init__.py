"""The token API for programs: JSON over HTTP, with an API key.

operations.py     how an operation is declared: who may, what it takes, what it answers; reads each request by that
auth.py           checks the key, its scope and its rate before an operation runs
fast_path.py      answers most token calls before Flask, by the functions that the operation calls
requests.py       reads query strings and JSON bodies, and refuses what was not declared
schemas.py        the shapes of what comes in and goes out
errors.py         the one shape of an error
accounts.py, tokens.py, events.py    the operations
metrics.py        what monitoring reads, outside /api
documentation.py  the OpenAPI document, made from the declarations, and the page that shows it to people
"""
