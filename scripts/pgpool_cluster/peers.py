"""The other nodes: one ssh connection each, kept open, over which requests and answers go as lines of JSON.

The connection ends in the other node's `ssh-command`, which hands every line to the agent there. A request is a
mapping whose `do` names it and whose `id` all lines of its answer bear: the last of them has `done` or `error`, those
before it have `progress`. Many requests are under way at once, so a long one holds no look up.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import queue
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import paths, plain, reach
from .cluster import Cluster
from .errors import ClusterError, ExitStatus, OperationError, ServerError

_BETWEEN_TRIES = 0.3
_TRY_SECONDS = 8.0
_QUOTED = 120
"""Bytes of what is no answer."""
LINE_BYTES = 1 << 24
"""More than the longest line that a node has to say: its users, of whom there may be tens of thousands."""
SHORT_LINE_BYTES = 1 << 20
"""More than the longest of all others: a look with ten thousand databases."""
_LONG = frozenset({"users", "check"})
"""Requests whose answers may be longer. To read megabytes in every look would keep this node from looking at others."""
Json = dict[str, Any]
Progress = Callable[[str], None]


class RemoteError(OperationError):
    """What another node answered instead of doing it, with the exit status that it would have had there."""

    def __init__(self, message: str, *, hint: str, status: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_status = ExitStatus(status)


def raised(answer: Json) -> Json:
    """Return an answer's result; raises RemoteError with the other node's own two lines."""
    try:
        answer = plain.shown(answer)
    except RecursionError as error:
        reason = "its answer has no end of lists"
        raise RemoteError(reason, hint="pgpoolctl status", status=ExitStatus.FAILED) from error
    if "error" in answer:
        hint, status = str(answer.get("hint", "pgpoolctl status")), str(answer.get("status"))
        known = {str(int(one)): int(one) for one in ExitStatus}
        raise RemoteError(str(answer["error"]), hint=hint, status=known.get(status, ExitStatus.FAILED))
    found = answer.get("done")
    return found if isinstance(found, dict) else {}


class _Line:
    """One ssh connection to a node's agent, until it ends; `problem` then says why."""

    def __init__(self, name: str) -> None:
        self.problem = ""
        self._retired = False
        self._complaint = ""
        self._waiting: dict[int, queue.SimpleQueue[Json | None]] = {}
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

    def ask(self, request: Json, seconds: float, progress: Progress | None) -> Json:
        """Return the last line of the answer; raises ConnectionError, or TimeoutError after `seconds` of silence.

        Without `progress` there is nothing else to be said: these are the seconds in all then.
        """
        end = time.monotonic() + seconds
        lines: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
        with self._lock:
            if self.problem:
                raise ConnectionError(self.problem)
            number = next(self._numbers)
            self._waiting[number] = lines
            if request.get("do") in _LONG:
                self._long.add(number)
        try:
            self._send(json.dumps({**request, "id": number}).encode() + b"\n", seconds)
            while (line := lines.get(timeout=max(0.0, end - time.monotonic()))) is not None:
                if "progress" not in line:
                    return line
                if progress is not None:
                    progress(plain.shown(line["progress"]))
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
        """End the connection when the last request that is under way has its answer."""
        self._retired = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        with self._lock:
            done = self._retired and not self._waiting
        if done:
            self.close()

    def close(self) -> None:
        """End the connection, and with it all that is under way."""
        self._process.kill()

    def _send(self, line: bytes, seconds: float) -> None:
        """Write a line; where ssh takes no more of it for so long, the connection ends. Raises TimeoutError."""
        end = time.monotonic() + seconds
        if not self._writing.acquire(timeout=seconds):
            raise TimeoutError(f"no answer for {seconds:.0f} s")
        try:
            with contextlib.suppress(OSError, ValueError):  # broken or closed already: the reader says why
                assert self._process.stdin is not None  # noqa: S101 - for the type checker
                taking = select.poll()
                taking.register(self._process.stdin.fileno(), select.POLLOUT)
                while line:
                    line = line[self._process.stdin.write(line) or 0 :]
                    if line and not taking.poll(max(0.0, end - time.monotonic()) * 1000):
                        self.close()  # half a line is there
                        break
        finally:
            self._writing.release()

    def _read(self) -> None:
        try:
            self._read_lines()
        except (OSError, ValueError, RecursionError) as error:
            self._complaint = f"it sent what is no answer: {error}"
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
                self._hand_on(_parsed(text))

    def _hand_on(self, line: Json) -> None:
        """Hand an answer to the request that waits for it; raises ValueError for what is none."""
        if not isinstance(line, dict):
            raise ValueError("no mapping")  # noqa: TRY004 - like all else that is wrong with it
        if not isinstance(line.get("progress", ""), str):
            raise ValueError("progress that is no text")  # noqa: TRY004
        number = line.pop("id", None)
        if type(number) is not int:  # about the connection: it ends after it
            self._complaint = str(plain.shown(line.get("error", "")))
            return
        with self._lock:
            waiting = self._waiting.get(number)
        if waiting is not None:
            waiting.put(line)

    def _said(self) -> str:
        """Return why it ended: what the other agent said, or the last line of ssh's own messages."""
        text = b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._process.kill()
        with self._writing, contextlib.suppress(subprocess.TimeoutExpired, ValueError):  # it closes what is written to
            _, text = self._process.communicate(timeout=2)
        if self._complaint:
            return reach.explained([self._complaint])
        lines = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
        if lines and lines[-1].startswith("hint: "):
            lines.pop()
        return reach.explained(lines)


def _parsed(text: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of a line; raises ValueError that quotes the beginning of what is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        said = plain.shown(text[:_QUOTED].decode(errors="replace").strip())
        raise ValueError(f"'{said}'") from error


@dataclass(slots=True)
class Peer:
    """One other node. `problem` says why it could not be reached the last time, "" if it could.

    A node that did not answer is tried again in the background; until it answers, looks are refused at once, so that a
    host that is gone holds nobody up.
    """

    name: str
    problem: str = ""
    _trying: threading.Thread | None = field(default=None, repr=False)
    _closed: bool = False
    _line: _Line | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ask(self, request: Json, *, seconds: float, progress: Progress | None = None, patient: bool = False) -> Json:
        """Send a request and return its result; raises RemoteError for a refusal, ServerError where it is out of reach.

        `seconds` bound the silence between two lines, or all of it without `progress`; `patient`: so much is waited for
        a node out of reach, too.
        """
        trying = self._trying
        if trying is not None:
            if patient:
                trying.join(min(seconds, _TRY_SECONDS))
            if self._trying is not None:
                raise self._out_of_reach(self.problem)
        try:
            answer = self._ask(request, seconds, progress)
        except OSError as error:
            self.problem = str(error)
            self._try_again()
            raise self._out_of_reach(self.problem) from error
        self.problem = ""
        return raised(answer)

    def _ask(self, request: Json, seconds: float, progress: Progress | None) -> Json:
        line = self._connected()
        try:
            return line.ask(request, seconds, progress)
        except OSError:
            line.retire()
            with self._lock:
                if self._line is line:
                    self._line = None
            raise

    def _connected(self) -> _Line:
        with self._lock:
            if self._closed:
                raise ConnectionError("cluster.yml was read again")
            if self._line is None or self._line.problem:
                self._line = _Line(self.name)
            return self._line

    def _try_again(self) -> None:
        with self._lock:
            if self._trying is None and not self._closed:
                self._trying = threading.Thread(target=self._keep_trying, daemon=True)
                self._trying.start()

    def _keep_trying(self) -> None:
        try:
            while not self._closed:
                time.sleep(_BETWEEN_TRIES)
                try:
                    self._ask({"do": "note"}, _TRY_SECONDS, None)
                except OSError as error:
                    self.problem = str(error)
                else:
                    return
        finally:
            self._trying = None

    def _out_of_reach(self, reason: str) -> ServerError:
        return ServerError(f"{self.name} is out of reach: {reason}", hint=reach.fix(reason, self.name))

    def drop(self, reason: str) -> None:
        """End the connection with all that is under way, as one that has broken for `reason`."""
        with self._lock:
            line, self._line = self._line, None
        self.problem = reason
        if line is not None:
            line.close()
        self._try_again()

    def close(self) -> None:
        """Take no more requests, and end the connection when those under way have their answers."""
        with self._lock:
            self._closed = True
            line, self._line = self._line, None
        if line is not None:
            line.retire()


@dataclass(slots=True)
class Peers:
    """All other nodes, by name."""

    peers: dict[str, Peer]

    @classmethod
    def of(cls, cluster: Cluster, me: str) -> Peers:
        """Return the peers of node `me`; nothing is connected yet."""
        return cls({node.name: Peer(node.name) for node in cluster.nodes if node.name != me})

    def ask_all(self, request: Json, *, seconds: float) -> dict[str, Json]:
        """Ask all at once and return the answers of those who gave one in time."""
        return self.ask_some(list(self.peers), request, seconds=seconds)

    def ask_some(self, names: list[str], request: Json, *, seconds: float) -> dict[str, Json]:
        """Ask some at once and return the answers of those who gave one in time."""
        answers: dict[str, Json] = {}

        def ask(name: str) -> None:
            with contextlib.suppress(ClusterError):
                answers[name] = self.peers[name].ask(request, seconds=seconds)

        threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names if name in self.peers]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds + 0.5
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return dict(answers)

    def ask(self, name: str, request: Json, *, seconds: float, progress: Progress | None = None) -> Json:
        """Ask one node, also one that has just been out of reach; raises as `Peer.ask`."""
        return self.peers[name].ask(request, seconds=seconds, progress=progress, patient=True)

    def drop(self, name: str, reason: str) -> None:
        """End the connection to a node that is gone, so that nobody waits for it."""
        self.peers[name].drop(reason)

    def close(self) -> None:
        """End all connections."""
        for peer in self.peers.values():
            peer.close()
