"""What a fault is, and the table of all of them."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

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
        """The file it is in: statuses, bodies, network or callbacks."""
        return self.play.__module__.rpartition(".")[2]

    @property
    def groups(self) -> list[str]:
        """Where it can be set, in the fewest words."""
        return [one for one in (endpoints.TOKEN, endpoints.API, endpoints.AUTHORIZE) if one in self.endpoints]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The keyword arguments of the function that plays the fault: names, types and defaults."""
        arguments = inspect.signature(self.play).parameters.values()
        return {argument.name: argument for argument in arguments if argument.kind is argument.KEYWORD_ONLY}

    def check(self, given: dict[str, object]) -> None:
        """Refuse parameters that the fault does not have, with a `ValueError`."""
        known = self.parameters
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{self.name} has no parameter {name!r}; it has: {', '.join(known) or 'none'}.")
            if not fits(value, known[name]):
                raise ValueError(f"{name} of {self.name} has the wrong type; its default is {known[name].default!r}.")


def fits(value: object, parameter: inspect.Parameter) -> bool:
    """Whether a JSON value has the type of a parameter, or is one of its choices; `object` takes any."""
    if parameter.annotation is object:
        return True
    if get_origin(parameter.annotation) is Literal:
        return value in get_args(parameter.annotation)
    kind = (int, float) if parameter.annotation is float else type(parameter.default)
    return isinstance(value, kind) and isinstance(value, bool) == isinstance(parameter.default, bool)


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
