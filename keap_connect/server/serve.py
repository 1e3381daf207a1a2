"""Serves the app with Granian until a signal ends it, and finishes the requests that are in flight."""

import asyncio
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import uvloop
from flask import Flask
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server
from sqlalchemy.exc import SQLAlchemyError

from keap_connect.clock import seconds_since_boot
from keap_connect.errors import SettingsError
from keap_connect.refresh.heartbeat import beat_as_server, process_name, retire
from keap_connect.refresh.recovery import wait_for_pairs_in_memory
from keap_connect.refresh.replaying import replay
from keap_connect.server.front import Front
from keap_connect.settings import Settings, read_supervisor
from keap_connect.signals import stop_signals
from keap_connect.supervisor import ALIVE, ENDING, READY, report

log = logging.getLogger(__name__)
STOP_SECONDS = 35.0
LATE_SECONDS = 4.0  # what becomes complete later is refused: a call to Keap has to end, and be stored, in STOP_SECONDS
FLUSH_SECONDS = 2.0
REPORT_SECONDS = 15.0
LOOK_SECONDS = 0.05
# Granian closes a connection that sends no complete headers for so long: silent, slow and idle ones.
HEADER_MILLISECONDS = 30_000
HEADER_BYTES = 64 * 1024  # of the headers of one request, which are kept until they are complete
OTHER_FILES = 200  # files that are no connections: databases, logs, answers
MOST_CONNECTIONS = 20_000


def serve(app: Flask, settings: Settings, certificate: Path | None = None, key: Path | None = None) -> NoReturn:
    """Serve until SIGTERM, SIGINT or SIGHUP, then end the process: exit code 0 if all requests in flight were finished.

    Raises SettingsError: it cannot listen at HOST and PORT, or cannot use the certificate.
    """
    host, port = settings.host, settings.port
    check_address(host, port)
    if certificate and key:
        check_certificate(certificate, key)
    front = Front(app, settings.instance_path)
    server = Server(
        front,
        host,
        port,
        interface=Interfaces.ASGINL,
        # Over HTTP/2, and while it waits to see which version a client speaks, Granian closes no silent connection.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_MILLISECONDS, max_buffer_size=HEADER_BYTES),
        websockets=False,
        backlog=1024,
        backpressure=raise_file_limit(),
        ssl_cert=certificate,
        ssl_key=key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.error,
        # Its lines go where the app's go, in the same form.
        log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        log.info("Serving %s at %s port %s.", "HTTPS" if certificate else "HTTP", host, port)
        code = runner.run(serve_until_signal(app, server, front))
        wait_for_pairs_in_memory()
        logging.shutdown()
        # Granian waits for clients without end, and so would the end of the interpreter.
        os._exit(code)


def check_address(host: str, port: int) -> None:
    """Check that the address is free: Granian would share it with another Granian, whatever that serves.

    Raises SettingsError: it is not.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as problem:
        reason = f"{problem.strerror}): end the program there, or choose others."
        raise SettingsError(f"HOST {host} and PORT {port} cannot be used ({reason}") from None


def check_certificate(certificate: Path, key: Path) -> None:
    """Check a certificate and its key.

    Raises SettingsError: they are no certificate and key in PEM form, do not belong together, or need a password.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as problem:  # SSLError is an OSError
        reason = f"({problem}): they must be PEM files that belong together, the key without a password."
        raise SettingsError(f"The certificate {certificate} and the key {key} cannot be used {reason}") from None


def raise_file_limit() -> int:
    """Let this process open as many files as it may, and return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(soft, wanted) - OTHER_FILES, 1)


async def keep_reporting(app: Flask) -> None:
    """Write at intervals that this process lives, and at the end that it does not; store what dead ones left."""

    def write(work: Callable[[], None], what: str) -> None:
        try:
            with app.app_context():
                work()
        except SQLAlchemyError as problem:
            log.warning("This process could not %s (%s).", what, type(problem).__name__)
        except Exception:  # the next report must come all the same: others rely on it
            log.exception("A fault of this program: this process could not %s.", what)

    async def repeat(work: Callable[[], None], what: str) -> None:
        while True:
            await asyncio.to_thread(write, work, what)
            await asyncio.sleep(REPORT_SECONDS)

    try:
        # A disk that hangs must not keep it from reporting.
        await asyncio.gather(repeat(beat_as_server, "report itself"), repeat(replay, "store kept token pairs"))
    except asyncio.CancelledError:
        await asyncio.to_thread(write, lambda: retire(process_name()), "report its end")


async def keep_supervisor_informed(host: str, port: int) -> None:
    """Report that the server takes connections, and then at intervals that the event loop runs."""
    path, seconds = read_supervisor()
    is_listening = not path
    while not is_listening:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            is_listening = True
        await asyncio.sleep(LOOK_SECONDS)
    report(READY)
    while seconds:
        report(ALIVE)
        await asyncio.sleep(seconds / 2)


async def serve_until_signal(app: Flask, server: Server, front: Front) -> int:
    """Return the exit code, 1 if requests were cut off or the server ended unexpectedly."""
    is_ending = asyncio.Event()
    for sign in stop_signals():
        asyncio.get_running_loop().add_signal_handler(sign, is_ending.set)
    serving = asyncio.create_task(server.serve())
    ending = asyncio.create_task(is_ending.wait())
    reporting = asyncio.create_task(keep_reporting(app))
    settings = app.extensions["keap_connect"].settings
    informing = asyncio.create_task(keep_supervisor_informed(settings.host, settings.port))
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    if not is_ending.is_set():
        log.error("The server ended unexpectedly.", exc_info=serving.exception())
        return 1
    report(ENDING)
    # Takes no more connections, closes the idle ones, and each other one after the answer to the request that is on
    # its way, so that a restart turns no client away.
    server.stop()  # type: ignore[no-untyped-call]
    ends = seconds_since_boot() + STOP_SECONDS
    await asyncio.wait({serving}, timeout=LATE_SECONDS)
    is_finished = await front.finish(ends - seconds_since_boot())
    await asyncio.wait({serving}, timeout=FLUSH_SECONDS)  # the last answers are on their way
    if not is_finished:
        log.error("Requests were still running after %.0f seconds; they were cut off.", STOP_SECONDS)
    reporting.cancel()
    informing.cancel()
    await asyncio.wait({reporting}, timeout=FLUSH_SECONDS)
    return 0 if is_finished else 1
