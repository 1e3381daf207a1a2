"""Work of the worker that goes on beside refreshing, in a thread of its own."""

import threading
from abc import ABC, abstractmethod
from typing import Self

from flask import Flask


class Background(ABC):
    """Runs `_run` in a thread while it is entered; `_run` has to end soon after `_stopping` is set."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """Start nothing more."""
        self._stopping.set()

    @abstractmethod
    def _run(self) -> None: ...
