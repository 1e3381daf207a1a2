"""The token API for programs: JSON over HTTP, with an API key.

operations.py     how an operation is declared: who may call it, what it takes, what it returns
auth.py           checks the key, its scope and its rate before an operation runs
fast_path.py      answers most token calls before Flask, by the functions that the operation calls
requests.py       reads query strings and JSON bodies by their schemas
questions.py      the shapes of what a caller sends, and the kinds of fields
schemas.py        the shapes of answers
errors.py         the one shape of an error
accounts.py, tokens.py, invitations.py, webhooks.py    the operations
metrics.py        /metrics, for monitoring
documentation.py  the OpenAPI document, made from the declarations, and the page that shows it
"""
