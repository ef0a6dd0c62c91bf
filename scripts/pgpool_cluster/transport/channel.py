"""Serve and use the agent's socket, on which requests and answers are lines (lines.py), and notify systemd."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..ground import log, paths, plain
from ..ground.errors import ClusterError, OperationError, ServerError
from . import lines
from .lines import Asked, Line, OddAnswerError
from .peers import LINE_BYTES, SHORT_LINE_BYTES, Answering, Progress
from .protocol import (
    VERSIONS_DIFFER,
    ClockRequest,
    HistoryRequest,
    HoldRequest,
    LookRequest,
    MayStartRequest,
    NotePauseRequest,
    NoteRequest,
    Request,
    SilentRequest,
    StandingRequest,
    StatusRequest,
    TermRequest,
    WatchRequest,
    WhyRequest,
)

A = TypeVar("A")
SILENCE = 1800.0
"""Seconds of silence that a stage of a recovery may take."""


def _verbs(*requests: type[Request[Any]]) -> frozenset[str]:
    return frozenset(request.do for request in requests)


_KNOWN = _verbs(
    NoteRequest, TermRequest, WhyRequest, HoldRequest, NotePauseRequest, HistoryRequest, WatchRequest, SilentRequest
)
"""Requests that the agent answers from memory."""
_LOOKS = _verbs(LookRequest, ClockRequest, StatusRequest, MayStartRequest, StandingRequest)
"""Requests that wait for facts, which takes seconds if something hangs. All others may take hours."""
_KNOWN_AT_ONCE, _LOOKS_AT_ONCE, _LONG_AT_ONCE = 32, 64, 32
_MOST_CONNECTIONS = 96
_MOST_REQUESTS_OF_NODE = 24
"""Requests in progress for one node. The limit keeps a faulty agent from blocking the other nodes' requests."""
_MOST_CONNECTIONS_OF_NODE = 16
"""More than one, because the connections of a host that lost its power stay open until they have idled for 600 s."""
_MOST_KNOWN_OF_NODE = 8
_REQUEST_PAUSE_SECONDS = 0.005
"""Seconds between two requests of another node, so that a node cannot use up this node's processor."""
_IDLE_SECONDS = 600.0
"""Seconds after which an idle connection ends. The agents of other nodes ask every two seconds."""
_READ_SECONDS = 30.0
"""Seconds that the other side may take to read, and between two checks whether a connection is idle."""


class _Share:
    """Limits of the requests that one node has in progress, over all of its connections.

    Each program on this node has its own share.
    """

    def __init__(self, peer: str) -> None:
        self.requests = threading.BoundedSemaphore(_MOST_REQUESTS_OF_NODE)
        self.known = threading.BoundedSemaphore(_MOST_KNOWN_OF_NODE if peer else _KNOWN_AT_ONCE)
        self.connections = threading.BoundedSemaphore(_MOST_CONNECTIONS_OF_NODE)


class _Bounds:
    """Limits of all requests in progress. Each request is a thread, and no kind of request can block another kind."""

    def __init__(self) -> None:
        self._known = threading.BoundedSemaphore(_KNOWN_AT_ONCE)
        self._looks = threading.BoundedSemaphore(_LOOKS_AT_ONCE)
        self._long = threading.BoundedSemaphore(_LONG_AT_ONCE)
        self.connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._shares: dict[str, _Share] = {}

    def share(self, peer: str) -> _Share:
        """Return the share of node `peer`, or a new one for a program on this node."""
        return self._shares.setdefault(peer, _Share(peer)) if peer else _Share(peer)

    def of(self, verb: str, share: _Share) -> list[threading.BoundedSemaphore]:
        """Return the limits that a request counts against on a connection with this `share`."""
        if verb in _KNOWN:
            return [share.known, self._known]
        return [share.requests, self._looks if verb in _LOOKS else self._long]


_FROM = b"\0pgpool2-cluster/"
"""Prefix of the address to which `bridge` binds its end of a connection; the node's name follows."""


def _peer(name: object) -> str:
    """Return the node that a connection comes from, read from the peer's address; "" for a local program."""
    return name.split(b"/")[1].decode("ascii", "replace") if isinstance(name, bytes) and name[:1] == b"\0" else ""


class _ServedConnection(socketserver.BaseRequestHandler):
    """A connection. It ends when the client closes it, is idle for 600 s, or sends a line that is not a request."""

    request: socket.socket
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(_READ_SECONDS)
        self.saying = threading.Lock()
        self.peer = _peer(self.client_address)
        self.share = self.server.bounds.share(self.peer)
        self.under_way: set[object] = set()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            taken = _taken([self.share.connections, self.server.bounds.connections])
            if not taken:
                self.refuse(None, "too many connections to the agent are open", _BUSY_HINT)
                return
            try:
                self._serve_lines()
            finally:
                _release(taken)

    def _serve_lines(self) -> None:
        pending = bytearray()
        last = time.monotonic()
        while True:
            try:
                data = self.request.recv(65536)
            except TimeoutError:
                if not self.under_way and time.monotonic() - last > _IDLE_SECONDS:
                    return
                continue
            if not data:
                return
            last = time.monotonic()
            *whole, rest = data.split(b"\n")
            for line in whole:
                if not self._take(bytes(pending) + line):
                    return
                pending.clear()
                if self.peer:
                    time.sleep(_REQUEST_PAUSE_SECONDS)
            pending += rest
            longest = LINE_BYTES if self.server.is_database(self.peer) else min(LINE_BYTES, SHORT_LINE_BYTES)
            if len(pending) > longest:
                self.refuse(None, f"a line of more than {longest} bytes", VERSIONS_DIFFER)
                return

    def _take(self, line: bytes) -> bool:
        """Start to serve a request. Return False if the line is not a request: the connection must then end."""
        try:
            asked = Asked.parse(line)
        except (ValueError, RecursionError):
            self.refuse(None, "a line that is not a request", VERSIONS_DIFFER)
            return False
        taken = _taken(self.server.bounds.of(asked.verb, self.share))
        if not taken:
            self.refuse(asked.number, f"{paths.UNIT} has too many requests in progress for {asked.verb!r}", _BUSY_HINT)
            return True
        under_way = object()
        self.under_way.add(under_way)

        def serve() -> None:
            try:
                self.say(self._done(asked))
            finally:
                self.under_way.discard(under_way)
                _release(taken)

        threading.Thread(target=serve, daemon=True).start()
        return True

    def _done(self, asked: Asked) -> bytes:
        number = asked.number
        try:
            found = self.server.answer(
                asked.request(), lambda text: self.say(lines.progress(text, number)), self.peer
            )  # fmt: skip
            return lines.done(found, number)
        except ClusterError as error:
            return lines.refusal(error, number)
        except Exception as error:
            log.error(traceback.format_exc().rstrip("\n"))
            return lines.fault(f"{paths.UNIT} failed: {error!r}", f"journalctl -u {paths.UNIT} shows more", number)

    def refuse(self, number: int | None, reason: str, hint: str) -> None:
        """Send the reason for refusing a request."""
        self.say(lines.refusal(OperationError(reason, hint=hint), number))

    def say(self, line: bytes) -> None:
        """Send a line. If the client has gone, the request continues; if it does not read, the connection ends."""
        with self.saying, contextlib.suppress(OSError, ValueError):
            try:
                self.request.sendall(line)
            except TimeoutError:  # half a line may have been sent
                self.request.shutdown(socket.SHUT_RDWR)


def _taken(bounds: list[threading.BoundedSemaphore]) -> list[threading.BoundedSemaphore]:
    """Acquire all bounds and return them; if one is used up, acquire none and return []."""
    taken = [bound for bound in bounds if bound.acquire(blocking=False)]
    if len(taken) == len(bounds):
        return taken
    _release(taken)
    return []


def _release(taken: list[threading.BoundedSemaphore]) -> None:
    for bound in taken:
        bound.release()


_BUSY_HINT = f"systemctl status {paths.UNIT}; run the same command again when other requests have ended"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, answer: Answering, is_database: Callable[[str], bool]) -> None:
        self.answer, self.is_database, self.bounds = answer, is_database, _Bounds()
        super().__init__(str(paths.AGENT), _ServedConnection)


@contextlib.contextmanager
def serving(answer: Answering, is_database: Callable[[str], bool] = lambda _: True) -> Iterator[None]:
    """Answer requests on the socket while the block runs.

    Each request has its own thread, or is refused at once if too many are in progress. `is_database` returns whether a
    peer may send long lines, which a list of users needs.
    """
    paths.AGENT.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listening = _Server(answer, is_database)
    finally:
        os.umask(before)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
    try:
        yield
    finally:
        listening.shutdown()
        listening.server_close()
        paths.AGENT.unlink(missing_ok=True)


def ask(request: Request[A], *, seconds: float = 30.0, progress: Progress | None = None) -> A:
    """Ask this node's agent and return its answer; raises ClusterError.

    `seconds` limit the silence between two lines, or without `progress` the whole time. The limit protects root, who
    calls this, from a program that postgres may have put in the agent's place.
    """
    hint = f"systemctl status {paths.UNIT} shows why; systemctl start {paths.UNIT}"
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(seconds)
            asking.connect(str(paths.AGENT))
            with contextlib.suppress(BrokenPipeError):  # the agent closed the connection, but its reason can be read
                asking.sendall(lines.request(request))
            for text in _lines(asking, seconds, each=progress is not None):
                line = Line.parse(text)
                if line.progress is None:
                    return line.answer(request, paths.UNIT)
                if progress is not None:
                    progress(plain.shown(line.progress))
    except PermissionError as error:
        raise ServerError(f"{paths.AGENT}: {error.strerror}", hint="run it as root") from error
    except BlockingIOError as error:
        raise ServerError(f"{paths.UNIT} does not answer: too many requests are waiting", hint=hint) from error
    except TimeoutError as error:
        raise ServerError(f"{paths.UNIT} did not answer within {seconds:g} s", hint=hint) from error
    except OSError as error:
        raise ServerError(f"{paths.UNIT} is not running on this node", hint=hint) from error
    except (ValueError, RecursionError, OddAnswerError) as error:
        raise ServerError(f"{paths.UNIT} sent an invalid answer", hint=hint) from error
    raise ServerError(f"{paths.UNIT} ended before it answered", hint=hint)


def _lines(asking: socket.socket, seconds: float, *, each: bool) -> Iterator[bytes]:
    """Yield received lines. Raises ValueError for a line that is too long, or TimeoutError after `seconds`.

    `each`: `seconds` limit the time of each line, not the whole time.
    """
    pending = bytearray()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        asking.settimeout(left)
        data = asking.recv(65536)
        if not data:
            return
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield bytes(pending) + line
            pending.clear()
            end = time.monotonic() + seconds if each else end
        pending += rest
        if len(pending) > LINE_BYTES:
            raise ValueError(f"a line of more than {LINE_BYTES} bytes")
    raise TimeoutError


def bridge(peer: str) -> None:
    """Connect standard input and output to the agent's socket, for the ssh key of node `peer`.

    The agent reads the node's name from the address of this end of the connection, so no request can claim another
    name.
    """
    with socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.settimeout(_READ_SECONDS)
            agent.bind(_FROM + f"{peer}/{secrets.token_hex(8)}".encode())
            agent.connect(str(paths.AGENT))
            agent.settimeout(None)
        except OSError as error:
            raise ServerError(f"{paths.UNIT} is not running there", hint=f"systemctl start {paths.UNIT}") from error

        def answers() -> None:
            with contextlib.suppress(OSError):
                while data := agent.recv(65536):
                    os.write(1, data)
            os._exit(0)

        threading.Thread(target=answers, daemon=True).start()
        while data := os.read(0, 65536):
            agent.sendall(data)


def notify(text: str, *, wait: bool = True) -> None:
    """Notify systemd (sd_notify(3)); do nothing if it does not listen, or if `wait` is False and it does not read."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as saying:
            saying.setblocking(wait)
            saying.connect(f"\0{place[1:]}" if place.startswith("@") else place)
            saying.sendall(text.encode())
