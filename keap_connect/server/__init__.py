"""The server that ships: `front.py` passes complete requests to the app, `serve.py` starts and ends it."""
