"""A small model of PostgreSQL: WAL with timelines, streaming, synchronous commits, promotion and crash recovery."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from pgpool_cluster.decision.facts.facts import Lsn, Switch

from .kernel import Process

if TYPE_CHECKING:
    from .hosts import Host, World

SYSTEM = 7000
CHECKPOINT = 0
"""The number of a WAL record that is not a client's write."""
FIRST_BYTES, RECORD_BYTES = 1000, 8
RETRY_SECONDS = 1.0
"""wal_retrieve_retry_interval."""
SILENCE_SECONDS = 10
"""wal_sender_timeout and wal_receiver_timeout."""
RESEND_SECONDS = 0.5
"""When TCP sends again what the network has lost."""


class Violation(BaseException):
    """An invariant is broken; not an Exception, so that the package does not catch it."""


def position_of(records: int) -> Lsn:
    """Return the position after so many records."""
    return Lsn(FIRST_BYTES + RECORD_BYTES * records)


@dataclass(slots=True)
class Data:
    """A data directory, all of it on disk. `log`: the records of its WAL, as (timeline, number of the write)."""

    log: list[tuple[int, int]] = field(default_factory=lambda: [(1, CHECKPOINT)])
    timeline: int = 1
    history: tuple[Switch, ...] = ()
    standby: bool = False
    follows: str | None = None
    slots: frozenset[str] = frozenset()
    ended: bool = False
    """It was shut down cleanly."""
    whole: bool = True

    @property
    def position(self) -> Lsn:
        """The end of the WAL."""
        return position_of(len(self.log))

    @property
    def writes(self) -> set[int]:
        """The clients' writes that it contains."""
        return {number for _, number in self.log if number != CHECKPOINT}

    def copy(self) -> Data:
        """Return an independent copy, without the slots, which stay on their server."""
        return Data(list(self.log), self.timeline, self.history, whole=self.whole)


@dataclass(slots=True, eq=False)
class Stream:
    """The connection of a walreceiver to a walsender. `flushed`: how many records the walsender knows to be flushed."""

    source: Host
    standby: Host
    open: bool = True
    flushed: int = 0
    sent: int = 0
    silent: int = 0
    """For how many seconds one side has heard nothing."""


@dataclass(slots=True, eq=False)
class Running:
    """A running server. `names`: its synchronous_standby_names; `waiting`: commits, by their end and their number."""

    process: Process
    names: str
    answers: bool = False
    """It accepts connections, since its start is over."""
    senders: dict[str, Stream] = field(default_factory=dict)
    receiver: Stream | None = None
    waiting: list[tuple[int, int]] = field(default_factory=list)
    silent_since: float | None = None
    """Since when its agent has had no answer."""
    was_paused: bool = False
    apart_since: float | None = None
    """Since when it has had no walsender."""


@cache
def required(names: str) -> tuple[int, frozenset[str]]:
    """Return how many of which standbys a commit waits for."""
    found = re.fullmatch(r"ANY (\d+) \((.*)\)", names)
    return (int(found[1]), frozenset(re.findall(r'"([^"]+)"', found[2]))) if found else (0, frozenset())


class Servers:
    """The PostgreSQL servers of all hosts."""

    def __init__(self, world: World) -> None:
        self.world = world

    def start(self, host: Host) -> None:
        """Start the server; it accepts connections later."""
        if host.server is not None or not host.on:
            return
        host.by_hand = False
        running = Running(Process(), host.standby_names)
        host.server = running
        self.world.touch()
        self.world.rouse(host)
        seconds = self.world.random.uniform(0.1, 0.8)
        self.world.kernel.after(seconds, lambda: running.process.receive(lambda: self._started(host, running)))

    def _started(self, host: Host, running: Running) -> None:
        if host.server is not running or host.data is None:
            return
        data = host.data
        running.answers = True
        self.world.touch()
        if data.standby:
            self.world.kernel.after(0.0, lambda: self._receive(host, running))
        else:
            data.log.append((data.timeline, CHECKPOINT))
            self.world.notes_writable(host)
        data.ended = False

    def stop(self, host: Host) -> None:
        """Stop the server by a fast shutdown: a standby that is connected gets the last WAL."""
        running, data = host.server, host.data
        if running is None or data is None:
            return
        if running.process.paused:
            running.process.ends_on_resume = True
            return
        if running.answers and not data.standby:
            data.log.append((data.timeline, CHECKPOINT))
            for stream in list(running.senders.values()):
                standby = stream.standby
                receives = standby.server is not None and standby.server.process.runs and not standby.slow
                if receives and self._linked(stream):
                    self._take(stream, len(data.log))
        data.ended = True
        self._end(host, running)

    def kill(self, host: Host, *, silent: bool = False) -> None:
        """Kill the server; `silent`: its host sends no packets any more, so the others notice it late."""
        running = host.server
        if running is None:
            return
        if host.data is not None:
            host.data.ended = False
        self._end(host, running, silent=silent)

    def _end(self, host: Host, running: Running, *, silent: bool = False) -> None:
        host.server = None
        self.world.touch()
        self.world.rouse(host)
        running.process.kill()
        running.waiting.clear()
        if running.receiver is not None:
            self.close(running.receiver, silent=silent)
        for stream in list(running.senders.values()):
            self.close(stream, silent=silent)

    def close(self, stream: Stream, *, silent: bool = False) -> None:
        """End a connection, for both sides unless it is `silent`."""
        if silent:
            return  # World.tick closes it later
        stream.open = False
        self.world.touch()
        if (source := stream.source.server) and source.senders.get(stream.standby.name) is stream:
            del source.senders[stream.standby.name]
        if (standby := stream.standby.server) and standby.receiver is stream:
            standby.receiver = None
            self._retry(stream.standby, standby)

    # Streaming

    def _retry(self, host: Host, running: Running) -> None:
        work = lambda: running.process.receive(lambda: self._receive(host, running))  # noqa: E731
        self.world.kernel.after(RETRY_SECONDS, work)

    def _receive(self, host: Host, running: Running) -> None:
        """Let the walreceiver connect."""
        data = host.data
        if host.server is not running or data is None or not data.standby or running.receiver is not None:
            return
        source = self.world.hosts.get(data.follows or "")
        if source is None or not self._accepts(source, host):
            self._retry(host, running)
            return
        assert source.server is not None
        assert source.data is not None
        self._same(source.data, data, host.name)
        if old := source.server.senders.pop(host.name, None):
            old.open = False
        stream = Stream(source, host, flushed=len(data.log), sent=len(data.log))
        running.receiver = source.server.senders[host.name] = stream
        self.world.touch()
        self._send(stream)
        self.world.kernel.after(self.world.latency(host, source), lambda: self._flushed(stream, len(data.log)))

    def _accepts(self, source: Host, host: Host) -> bool:
        """Return whether the source lets this standby stream; like PostgreSQL, it compares no content."""
        server, theirs, mine = source.server, source.data, host.data
        if server is None or theirs is None or mine is None or not server.answers or not server.process.runs:
            return False
        if not self.world.linked_both(source.name, host.name) or host.node.slot not in theirs.slots:
            return False
        if mine.timeline == theirs.timeline:
            return len(mine.log) <= len(theirs.log)
        end = next((switch.lsn for switch in theirs.history if switch.timeline == mine.timeline), None)
        return end is not None and mine.position <= end

    def _same(self, theirs: Data, mine: Data, name: str) -> None:
        if theirs.log[: len(mine.log)] != mine.log:
            raise Violation(f"{name} streams on from a server whose earlier WAL is different")

    def _linked(self, stream: Stream) -> bool:
        return self.world.linked_both(stream.source.name, stream.standby.name)

    def _send(self, stream: Stream) -> None:
        source, mine = stream.source.data, stream.standby.data
        if source is None or mine is None or (stream.sent >= len(source.log) and mine.timeline == source.timeline):
            return
        stream.sent = end = len(source.log)
        seconds = self.world.latency(stream.source, stream.standby)
        self.world.kernel.after(seconds, lambda: self._arrive(stream, end))

    def _arrive(self, stream: Stream, end: int) -> None:
        if not stream.open or stream.standby.server is None:
            return
        if not self.world.linked(stream.source.name, stream.standby.name) or stream.standby.slow:
            self.world.kernel.after(RESEND_SECONDS, lambda: self._arrive(stream, end))
            return
        stream.standby.server.process.receive(lambda: self._take(stream, end))

    def _take(self, stream: Stream, end: int) -> None:
        """Write and flush WAL on the standby, and answer."""
        source, mine = stream.source.data, stream.standby.data
        if not stream.open or source is None or mine is None or stream.standby.server is None:
            return
        if len(mine.log) < end:
            mine.log += source.log[len(mine.log) : end]
        timeline = mine.log[-1][0]
        if timeline != mine.timeline:
            mine.timeline = timeline
            mine.history = tuple(switch for switch in source.history if switch.timeline < timeline)
        for cascaded in list(stream.standby.server.senders.values()):
            self._send(cascaded)
        got = len(mine.log)
        seconds = self.world.latency(stream.standby, stream.source)
        self.world.kernel.after(seconds, lambda: self._flushed(stream, got))

    def _flushed(self, stream: Stream, end: int) -> None:
        """Let the walsender learn what its standby has flushed."""
        if stream.source.server is None or stream.source.server.senders.get(stream.standby.name) is not stream:
            return
        if not self.world.linked(stream.standby.name, stream.source.name):
            self.world.kernel.after(RESEND_SECONDS, lambda: self._flushed(stream, end))
            return

        def learn() -> None:
            stream.flushed = max(stream.flushed, end)
            self.release(stream.source)

        stream.source.server.process.receive(learn)

    def tick(self, host: Host) -> None:
        """Let both ends of broken connections time out; called once in a second."""
        running = host.server
        if running is None:
            return
        for stream in [*running.senders.values(), *([running.receiver] if running.receiver else [])]:
            ends = (stream.source, stream.standby)
            alive = all(end.server is not None and end.server.process.runs for end in ends)
            held = alive and stream.open and self._linked(stream) and self._of_both(stream)
            stream.silent = 0 if held else stream.silent + 1
            if stream.silent > SILENCE_SECONDS and running.process.runs:
                self.close(stream)

    def _of_both(self, stream: Stream) -> bool:
        """Return whether both servers have this connection, and not a later one."""
        source, standby = stream.source.server, stream.standby.server
        sender = source.senders.get(stream.standby.name) if source else None
        return sender is stream and standby is not None and standby.receiver is stream

    # Commits

    def write(self, host: Host, number: int) -> None:
        """Let a client write and commit on a server that takes writes."""
        running, data = host.server, host.data
        assert running is not None
        assert data is not None
        data.log.append((data.timeline, number))
        running.waiting.append((len(data.log), number))
        for stream in list(running.senders.values()):
            self._send(stream)
        self.release(host)

    def release(self, host: Host) -> None:
        """Acknowledge the commits that are on enough listed standbys."""
        running = host.server
        if running is None or not running.waiting:
            return
        count, names = required(running.names)
        flushed = sorted((stream.flushed for name, stream in running.senders.items() if name in names), reverse=True)
        end = 1 << 60 if count == 0 else flushed[count - 1] if len(flushed) >= count else 0
        while running.waiting and running.waiting[0][0] <= end:
            _, number = running.waiting.pop(0)
            self.world.acknowledge(host, number)

    def reload(self, host: Host) -> None:
        """Read the configuration again: the list of standbys, and the primary of a standby."""
        running, data = host.server, host.data
        if running is None or data is None:
            return
        running.names = host.standby_names
        self.world.touch()
        self.release(host)
        if running.receiver is not None and running.receiver.source.name != data.follows:
            self.leave(running)
            self._retry(host, running)

    def leave(self, running: Running) -> None:
        """End the walreceiver. Its last reports still reach the walsender, which then learns of the end."""
        stream, running.receiver = running.receiver, None
        if stream is None:
            return
        stream.open = False
        self.world.touch()
        seconds = self.world.latency(stream.standby, stream.source)

        def learn() -> None:
            source = stream.source.server
            if source is None or source.senders.get(stream.standby.name) is not stream:
                return
            if self._linked(stream):
                source.process.receive(lambda: self._part(stream))
            else:
                self.world.kernel.after(RESEND_SECONDS, learn)  # until `tick` ends the connection

        self.world.kernel.after(seconds, learn)

    def _part(self, stream: Stream) -> None:
        source = stream.source.server
        if source is not None and source.senders.get(stream.standby.name) is stream:
            del source.senders[stream.standby.name]
            self.world.touch()

    # Roles

    def end_recovery(self, host: Host) -> None:
        """Promote the standby."""
        running, data = host.server, host.data
        assert running is not None
        assert data is not None
        if not data.standby:
            return
        if running.receiver is not None:
            running.receiver.open = False
            if (source := running.receiver.source.server) and source.senders.get(host.name) is running.receiver:
                del source.senders[host.name]
            running.receiver = None
        self.world.touch()
        data.history += (Switch(data.timeline, data.position),)
        data.timeline += 1
        data.standby, data.follows = False, None
        data.log.append((data.timeline, CHECKPOINT))
        self.world.notes_writable(host)
        for stream in list(running.senders.values()):
            self._send(stream)
