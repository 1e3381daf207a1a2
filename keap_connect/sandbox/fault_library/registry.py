"""What a fault is, and the table of all of them."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass

from flask import Response

from keap_connect.sandbox import endpoints
from keap_connect.sandbox.grants import Grants

TOKEN = (endpoints.TOKEN, endpoints.EXCHANGE, endpoints.REFRESH)
API = (endpoints.API, endpoints.USERINFO, endpoints.PROFILE)
AUTHORIZE = (endpoints.AUTHORIZE,)
EVERYWHERE = (*TOKEN, *API, *AUTHORIZE)


@dataclass(frozen=True)
class Call:
    """One call that a fault may disturb.

    `act` does what Keap would do and gives its answer; `refuse` gives the endpoint's ordinary
    refusal without doing anything.
    """

    endpoint: str
    act: Callable[[], Response]
    refuse: Callable[[], Response]
    grants: Grants


@dataclass(frozen=True)
class FaultKind:
    """A fault: its plain sentence, the numbers of the fault matrix it serves, and where it can be set."""

    name: str
    sentence: str
    numbers: str
    endpoints: tuple[str, ...]
    play: Callable[..., Response]

    @property
    def family(self) -> str:
        """The file it stands in: statuses, bodies, network or callbacks."""
        return self.play.__module__.rpartition(".")[2]

    @property
    def groups(self) -> list[str]:
        """Where it can be set, in the fewest words."""
        return [one for one in (endpoints.TOKEN, endpoints.API, endpoints.AUTHORIZE) if one in self.endpoints]

    @property
    def parameters(self) -> dict[str, object]:
        """Names and defaults: the keyword arguments of the function that plays the fault."""
        arguments = list(inspect.signature(self.play).parameters.values())[1:]
        return {argument.name: argument.default for argument in arguments}

    def check(self, given: dict[str, object]) -> None:
        """Refuse parameters that the fault does not have, with a `ValueError`."""
        known = self.parameters
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{self.name} has no parameter {name!r}; it has: {', '.join(known) or 'none'}.")
            if not has_kind_of(value, known[name]):
                raise ValueError(f"{name} of {self.name} has the wrong type; its default is {known[name]!r}.")


def has_kind_of(value: object, default: object) -> bool:
    if default is None or name_of_anything(default):
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def name_of_anything(default: object) -> bool:
    """The default "missing" stands for a parameter that takes any JSON value."""
    return default == "missing"


FAULTS: dict[str, FaultKind] = {}
Play = Callable[..., Response]


def fault(sentence: str, numbers: str = "", on: tuple[str, ...] = EVERYWHERE) -> Callable[[Play], Play]:
    """Put a function into the table of faults, under its own name."""

    def register(play: Play) -> Play:
        name = play.__name__
        FAULTS[name] = FaultKind(name, sentence, numbers, on, play)
        return play

    return register


def json_answer(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def json_object(answer: Response) -> dict[str, object] | None:
    """The body of an answer if it is a JSON object."""
    body = answer.get_json(silent=True)
    return body if isinstance(body, dict) else None
