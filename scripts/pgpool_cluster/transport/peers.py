"""Send requests to the other nodes, over one permanent ssh connection per node, as lines (lines.py).

The connection ends in the other node's `ssh-command`, which passes every line to the agent there. Many requests can be
in progress at once, so a long one does not delay the others.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import queue
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..definition.cluster import Cluster
from ..ground import paths, plain
from ..ground.errors import ClusterError, ServerError
from . import lines, reach
from .lines import Line
from .protocol import CheckRequest, NoteRequest, Request, UsersRequest

A = TypeVar("A")
_CONNECT_PAUSE_SECONDS = 0.3
_TRY_SECONDS = 8.0
_END_SECONDS = 2.0
"""Time limit for ssh to end once its connection has ended."""
LINE_BYTES = 1 << 24
"""Above the longest line that a node sends: its list of users, which may have tens of thousands of entries."""
SHORT_LINE_BYTES = 1 << 20
"""Above the longest line of any other kind: the facts of a node with ten thousand databases."""
_LONG = (UsersRequest, CheckRequest)
"""Requests whose answers may be longer. Reading megabytes of one node's facts would delay those of the others."""
Progress = Callable[[str], None]


class Answering(Protocol):
    """A function that answers a request from node `peer`, or from a local program (""); raises ClusterError."""

    def __call__(self, request: Request[A], progress: Progress, peer: str = "", /) -> A:
        """Carry out the request, report progress, and return the answer."""


class _PeerConnection:
    """One ssh connection to a node's agent. Once it has ended, `problem` gives the reason."""

    def __init__(self, name: str) -> None:
        self.problem = ""
        self._retired = False
        self._complaint = ""
        self._waiting: dict[int, queue.SimpleQueue[Line | None]] = {}
        self._long: set[int] = set()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._process = subprocess.Popen(
            ["ssh", "-F", str(paths.SSH_CONFIG), name, "agent"], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: Request[Any], seconds: float, progress: Progress | None) -> Line:
        """Return the last line of the answer; raises ConnectionError, or TimeoutError after `seconds` of silence.

        Without `progress`, `seconds` limit the whole time.
        """
        end = time.monotonic() + seconds
        received: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        with self._lock:
            if self.problem:
                raise ConnectionError(self.problem)
            number = next(self._numbers)
            self._waiting[number] = received
            if isinstance(request, _LONG):
                self._long.add(number)
        try:
            self._send(lines.request(request, number), seconds)
            while (line := received.get(timeout=max(0.0, end - time.monotonic()))) is not None:
                if line.progress is None:
                    return line
                if progress is not None:
                    progress(plain.shown(line.progress))
                    end = time.monotonic() + seconds
                elif time.monotonic() > end:
                    raise queue.Empty
        except queue.Empty:
            raise TimeoutError(f"no answer for {seconds:.0f} s") from None
        finally:
            with self._lock:
                del self._waiting[number]
                self._long.discard(number)
            self._end_if_done()
        raise ConnectionError(self.problem)

    def retire(self) -> None:
        """End the connection when the last request in progress has its answer."""
        self._retired = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        with self._lock:
            done = self._retired and not self._waiting
        if done:
            self.close()

    def close(self) -> None:
        """End the connection and every request in progress on it."""
        self._process.kill()

    def _send(self, line: bytes, seconds: float) -> None:
        """Write a line; end the connection if ssh does not read the whole line within `seconds`.

        Raises TimeoutError if another line blocks the connection for that long.
        """
        end = time.monotonic() + seconds
        if not self._writing.acquire(timeout=seconds):
            raise TimeoutError(f"no answer for {seconds:.0f} s")
        try:
            with contextlib.suppress(OSError, ValueError):  # the pipe is broken or closed: the reader records why
                assert self._process.stdin is not None  # noqa: S101 - for the type checker
                taking = select.poll()
                taking.register(self._process.stdin.fileno(), select.POLLOUT)
                while line:
                    line = line[self._process.stdin.write(line) or 0 :]
                    if line and not taking.poll(max(0.0, end - time.monotonic()) * 1000):
                        self.close()  # ssh has read half of a line
                        break
        finally:
            self._writing.release()

    def _read(self) -> None:
        try:
            self._read_lines()
        except (OSError, ValueError, RecursionError) as error:
            self._complaint = f"it sent an invalid answer: {error}"
            self._process.kill()
        problem = self._said()
        with self._lock:
            self.problem = problem
            for waiting in self._waiting.values():
                waiting.put(None)

    def _read_lines(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        with io.BufferedReader(self._process.stdout) as stream:  # type: ignore[type-var,unused-ignore]
            while text := stream.readline(LINE_BYTES + 1):
                longest = LINE_BYTES if self._long else min(LINE_BYTES, SHORT_LINE_BYTES)
                if len(text) > longest:
                    raise ValueError(f"a line of more than {longest} bytes")
                self._hand_on(Line.parse(text))

    def _hand_on(self, line: Line) -> None:
        """Pass a line to the request that waits for it."""
        if line.number is None:  # the line is about the connection, which ends after it
            self._complaint = str(plain.shown(line.error or ""))
            return
        with self._lock:
            waiting = self._waiting.get(line.number)
        if waiting is not None:
            waiting.put(line)

    def _said(self) -> str:
        """Return why the connection ended: the other agent's reason, or the last line of ssh's own messages."""
        text = b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_SECONDS)
        self._process.kill()
        with self._writing, contextlib.suppress(subprocess.TimeoutExpired, ValueError):  # closes standard input
            _, text = self._process.communicate(timeout=_END_SECONDS)
        if self._complaint:
            return reach.explained([self._complaint])
        said = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
        if said and said[-1].startswith("hint: "):
            said.pop()
        return reach.explained(said)


@dataclass(slots=True)
class Peer:
    """One other node. `problem` gives the reason why the last request failed to reach it, "" if it succeeded.

    A thread retries a node that did not answer, 0.3 s after each failure. Until it answers, requests without `patient`
    fail at once, so that an unreachable host does not block them.
    """

    name: str
    problem: str = ""
    _trying: threading.Thread | None = field(default=None, repr=False)
    _closed: bool = False
    _connection: _PeerConnection | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ask(self, request: Request[A], *, seconds: float, progress: Progress | None = None, patient: bool = False) -> A:
        """Send a request and return its answer.

        `seconds` limit the silence between two lines, or without `progress` the whole time. `patient`: wait at most 8 s
        for an unreachable node. Raises RemoteError if the node refuses, OddAnswerError if it sends something other than
        an answer, and ServerError if it is unreachable.
        """
        trying = self._trying
        if trying is not None:
            if patient:
                trying.join(min(seconds, _TRY_SECONDS))
            if self._trying is not None:
                raise self._out_of_reach(self.problem)
        try:
            line = self._ask(request, seconds, progress)
        except OSError as error:
            self._note_problem(str(error))
            self._try_again()
            raise self._out_of_reach(str(error)) from error
        self._note_problem("")
        return line.answer(request, self.name)

    def _ask(self, request: Request[Any], seconds: float, progress: Progress | None) -> Line:
        connection = self._connected()
        try:
            return connection.ask(request, seconds, progress)
        except OSError:
            connection.retire()
            with self._lock:
                if self._connection is connection:
                    self._connection = None
            raise

    def _connected(self) -> _PeerConnection:
        with self._lock:
            if self._closed:
                raise ConnectionError("cluster.yml was reloaded")
            if self._connection is None or self._connection.problem:
                self._connection = _PeerConnection(self.name)
            return self._connection

    def _try_again(self) -> None:
        with self._lock:
            if self._trying is None and not self._closed:
                self._trying = threading.Thread(target=self._keep_trying, daemon=True)
                self._trying.start()

    def _keep_trying(self) -> None:
        try:
            while not self._closed:
                time.sleep(_CONNECT_PAUSE_SECONDS)
                try:
                    self._ask(NoteRequest(), _TRY_SECONDS, None)
                except OSError as error:
                    self._note_problem(str(error))
                else:
                    return
        finally:
            with self._lock:
                self._trying = None

    def _note_problem(self, reason: str) -> None:
        with self._lock:
            self.problem = reason

    def _out_of_reach(self, reason: str) -> ServerError:
        return ServerError(f"{self.name} is unreachable: {reason}", hint=reach.fix(reason, self.name))

    def drop(self, reason: str) -> None:
        """End the connection and every request in progress, as if it had broken for `reason`."""
        with self._lock:
            connection, self._connection, self.problem = self._connection, None, reason
        if connection is not None:
            connection.close()
        self._try_again()

    def close(self) -> None:
        """Refuse new requests, and end the connection when those in progress have their answers."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.retire()


@dataclass(slots=True)
class Peers:
    """All other nodes, by name."""

    peers: dict[str, Peer]

    @classmethod
    def of(cls, cluster: Cluster, me: str) -> Peers:
        """Return the peers of node `me`, without connecting to them."""
        return cls({node.name: Peer(node.name) for node in cluster.nodes if node.name != me})

    def ask_all(self, request: Request[A], *, seconds: float) -> dict[str, A]:
        """Ask all nodes at once and return the answers that arrived within `seconds`."""
        return self.ask_some(list(self.peers), request, seconds=seconds)

    def ask_some(self, names: list[str], request: Request[A], *, seconds: float) -> dict[str, A]:
        """Ask some nodes at once and return the answers that arrived within `seconds`."""
        outcomes = self.outcomes(names, request, seconds=seconds)
        return {name: found for name, found in outcomes.items() if not isinstance(found, ClusterError)}

    def outcomes(self, names: list[str], request: Request[A], *, seconds: float) -> dict[str, A | ClusterError]:
        """Ask some nodes at once and return each answer, or the error of `Peer.ask`, that arrived in time."""
        found: dict[str, A | ClusterError] = {}

        def ask(name: str) -> None:
            try:
                found[name] = self.peers[name].ask(request, seconds=seconds)
            except ClusterError as error:
                found[name] = error

        threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names if name in self.peers]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds + 0.5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return dict(found)

    def ask(self, name: str, request: Request[A], *, seconds: float, progress: Progress | None = None) -> A:
        """Ask one node, and wait for it if it has just been unreachable; raises as `Peer.ask`."""
        return self.peers[name].ask(request, seconds=seconds, progress=progress, patient=True)

    def drop(self, name: str, reason: str) -> None:
        """End the connection to a node that is gone, so that no request waits for it."""
        self.peers[name].drop(reason)

    def close(self) -> None:
        """End all connections."""
        for peer in self.peers.values():
            peer.close()
