"""Faults of the line: late, lost, cut, dripping, far too long."""

import itertools
import json
import select
import time
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from flask import Response, request

from keap_connect.sandbox.fault_library.registry import TOKEN, Call, fault, json_object
from keap_connect.sandbox.raw_answers import RawAnswer, head_bytes

LONGEST_WAIT_SECONDS = 120.0
MEGABYTE = 1_000_000


def wait_for_client_to_leave(seconds: float) -> None:
    """Wait so long, or until the client has closed its end."""
    poll = select.poll()
    poll.register(request.environ["werkzeug.socket"], select.POLLIN | select.POLLRDHUP)
    poll.poll(min(seconds, LONGEST_WAIT_SECONDS) * 1000)


@fault("Answers late: acts, then waits.", "F17-F19 F48")
def slow(call: Call, *, seconds: float = 5.0, where: str = "after") -> Response:
    # where="before" waits first and acts then.
    if where == "before":
        wait_for_client_to_leave(seconds)
        return call.act()
    answer = call.act()
    wait_for_client_to_leave(seconds)
    return answer


@fault("Refuses late: a refusal, and nothing else, waits before it is sent.", "F85", TOKEN)
def late_refusal(call: Call, *, seconds: float = 20.0) -> Response:
    answer = call.act()
    if answer.status_code >= 400:
        wait_for_client_to_leave(seconds)
    return answer


@fault("Reads the call and never answers.", "F17")
def hang(call: Call, *, seconds: float = LONGEST_WAIT_SECONDS, rotate: bool = False) -> Response:
    if rotate:
        call.act()
    wait_for_client_to_leave(seconds)
    return RawAnswer()


@fault("Resets the connection before acting.", "F17")
def reset_before(call: Call) -> Response:  # noqa: ARG001  (it does not act)
    return RawAnswer(with_reset=True)


@fault("Acts (rotates), then resets the connection: the answer is lost.", "F17 F18")
def reset_after(call: Call) -> Response:
    call.act()
    return RawAnswer(with_reset=True)


@fault("Acts (rotates), then closes the connection without an answer.", "F18")
def lost_answer(call: Call) -> Response:
    call.act()
    return RawAnswer()


@fault("Acts, then sends the whole answer, headers too, one byte per second.", "F19")
def drip_headers(call: Call, *, seconds_per_byte: float = 1.0) -> Response:
    answer = call.act()
    body = answer.get_data()
    return RawAnswer(dripped(head_bytes(answer, len(body)) + body, seconds_per_byte))


@fault("Acts, then sends the headers at once and the body one byte per second.", "F19")
def drip_body(call: Call, *, seconds_per_byte: float = 1.0) -> Response:
    answer = call.act()
    body = answer.get_data()
    return RawAnswer(head_then(head_bytes(answer, len(body)), dripped(body, seconds_per_byte)))


@fault("Acts, then answers with blanks before the JSON: 100 MB in all.", "F19")
def huge_body(call: Call, *, megabytes: int = 100) -> Response:
    answer = call.act()
    body = answer.get_data()
    blanks = b" " * MEGABYTE
    head = head_bytes(answer, megabytes * MEGABYTE + len(body))
    return RawAnswer(head_then(head, (blanks if turn < megabytes else body for turn in range(megabytes + 1))))


@fault("Acts, then answers with blanks that never end.", "F19")
def endless_body(call: Call) -> Response:
    answer = call.act()
    return RawAnswer(head_then(head_bytes(answer, 10**15), blanks_without_end()))


Framing = Literal[
    "in turn",
    "no last chunk",
    "garbage after a chunk",
    "length too long",
    "length too long, left open",
    "length too short",
    "length too short, left open",
    "no length, left open",
    "false gzip label",
    "early hints",
    "110 headers",
    "no token_type",
]
_in_turn = itertools.cycle(get_args(Framing)[1:])


@fault(f"Acts (rotates), then sends the whole answer, wrongly framed: {', '.join(get_args(Framing))}.", "F84", TOKEN)
def framing(call: Call, *, way: Framing = "in turn") -> Response:
    chosen = next(_in_turn) if way == "in turn" else way
    return RawAnswer(framed(call.act(), chosen))


def framed(answer: Response, way: str) -> Iterator[bytes]:
    body = answer.get_data()
    if way == "no token_type":
        fields = json_object(answer) or {}
        body = json.dumps({name: value for name, value in fields.items() if name != "token_type"}).encode()
    right = head_bytes(answer, len(body))
    status, _, headers = right.partition(b"\r\n")
    chunked = right.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    longer, shorter = head_bytes(answer, len(body) + 100), head_bytes(answer, len(body) // 2)
    yield {
        "no last chunk": chunked + chunk,
        "garbage after a chunk": chunked + chunk + b"garbage\r\n",
        "length too long": longer + body,
        "length too long, left open": longer + body,
        "length too short": shorter + body,
        "length too short, left open": shorter + body,
        "no length, left open": right.replace(b"Content-Length: %d\r\n" % len(body), b"") + body,
        "false gzip label": status + b"\r\nContent-Encoding: gzip\r\n" + headers + body,
        "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" + right + body,
        "110 headers": status + b"\r\nX-Many: y" * 110 + b"\r\n" + headers + body,
    }.get(way, right + body)
    if way.endswith("left open"):
        wait_for_client_to_leave(LONGEST_WAIT_SECONDS)


def head_then(head: bytes, body: Iterable[bytes]) -> Iterator[bytes]:
    yield head
    yield from body


def dripped(content: bytes, seconds_per_byte: float) -> Iterator[bytes]:
    ends_at = time.monotonic() + LONGEST_WAIT_SECONDS
    for byte in content:
        if time.monotonic() > ends_at:
            return
        yield bytes([byte])
        time.sleep(seconds_per_byte)


def blanks_without_end() -> Iterator[bytes]:
    ends_at = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < ends_at:
        yield b" " * 10_000
        time.sleep(0.01)
