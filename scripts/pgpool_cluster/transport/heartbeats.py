"""Exchange heartbeats with the agents of the other nodes, in a thread that nothing else delays.

The thread only sends, receives and verifies datagrams. It writes no file and no log: a slow disk or a full journal
would stop it. Other threads publish the state of the node, and take the news for the journal.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..decision.facts.facts import Postgresql
from ..decision.liveness.heartbeat import Heartbeat, OwnState, ProcessState, Seen
from ..decision.liveness.links import BEAT_SECONDS, Link, LinkChange, Links
from ..decision.liveness.silence import Hanging
from ..definition.cluster import Cluster, Node
from ..ground import plain, ports
from . import datagram

_BIND_PAUSE_SECONDS = 1.0
"""Pause between two tries to open the socket."""
_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class News:
    """A line for the journal. `bad`: something failed or is degraded."""

    text: str
    bad: bool = False


@dataclass(slots=True)
class _Remote:
    """Another node as the thread sees it."""

    name: str
    address: str
    rekeyed: bool = False
    """It has sent a heartbeat with the newest key, so neither side needs the former one any more."""
    told: Postgresql | None = None
    """The state of its PostgreSQL in its last heartbeat that counted."""
    hangs: Hanging | None = None
    """Since when its heartbeats say that its server hangs; None if they do not."""
    refused: str = ""
    """Why its last datagram was refused; "" if it was not."""


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Heartbeats:
    """The heartbeats of one agent. Several threads use it; each call takes microseconds."""

    cluster: Cluster
    me: Node
    on_news: Callable[[], None] = _nothing
    """Called by the thread after something has changed. It must not block."""
    port: int = ports.AGENT_HEARTBEAT
    _links: Links = field(init=False, repr=False)
    _own: OwnState = field(default=OwnState(), repr=False)
    _keys: tuple[bytes, ...] = field(default=(), repr=False)
    _remotes: dict[str, _Remote] = field(default_factory=dict, repr=False)
    """The other nodes by address."""
    _unbound: str = "it has not been opened yet"
    """Why the socket is not open; "" if it is."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Guards all of the above. Never held during a system call that can block."""
    _news: queue.SimpleQueue[News] = field(default_factory=queue.SimpleQueue, repr=False)
    _bell: int = field(init=False, repr=False)
    """An eventfd that wakes the thread."""
    _ended: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        incarnation = secrets.randbits(63) + 1
        self._links = Links(self.me.name, (), incarnation, time.monotonic())
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.renew(self.cluster, self.me)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._bell)

    # Other threads

    def renew(self, cluster: Cluster, me: Node) -> None:
        """Exchange heartbeats with the nodes of this cluster from now on. Links with remaining nodes stay up."""
        now = time.monotonic()
        with self._lock:
            others = [node for node in cluster.nodes if node.name != me.name]
            known = {remote.name: remote for remote in self._remotes.values()}
            found = [(known.get(node.name) or _Remote(node.name, ""), plain.address(node.address)) for node in others]
            for remote, address in found:
                remote.address = str(address) if address is not None else ""
            self._remotes = {remote.address: remote for remote, address in found if address is not None}
            self._links.renew([node.name for node in others], now)
            self.cluster, self.me = cluster, me
        self._ring()

    def use_keys(self, keys: Sequence[str]) -> None:
        """Authenticate with these keys, the newest first, each as hexadecimal digits; without one, nothing is sent."""
        found = tuple(bytes.fromhex(key) for key in keys)
        with self._lock:
            if found[:1] != self._keys[:1]:
                for remote in self._remotes.values():
                    remote.rekeyed = False
            self._keys = found

    @property
    def active(self) -> bool:
        """Whether this node sends heartbeats, because it has a key for them."""
        with self._lock:
            return bool(self._keys)

    @property
    def unbound(self) -> str:
        """Why no datagram can be sent or received; "" if the socket is open."""
        with self._lock:
            return self._unbound

    def publish(self, facts: Postgresql, began: float) -> None:
        """Send this state of the server from the next round on, unless later ones are known.

        `began`: when their collection began, by the monotonic clock.
        """
        with self._lock:
            if began > self._own.began:
                self._own = replace(self._own, facts=facts, began=began)

    def note_server(self, state: ProcessState) -> None:
        """Record that the local watch has seen this of PostgreSQL, and send it at once."""
        with self._lock:
            self._own = replace(self._own, server=Seen(state, time.monotonic()))
        self._ring()

    def note_support(self, supports: Mapping[str, bool]) -> None:
        """Record which nodes send heartbeats according to their agents' facts."""
        with self._lock:
            self._links.note_support(supports)

    @property
    def partners(self) -> frozenset[str]:
        """The nodes that send heartbeats, as far as this one knows."""
        with self._lock:
            return self._links.partners

    @property
    def postgresql(self) -> Postgresql | None:
        """The state of this node's server that the next heartbeat carries."""
        with self._lock:
            return self._own.at(time.monotonic())

    def links(self) -> dict[str, Link]:
        """Return the links with all other nodes by name."""
        with self._lock:
            return self._links.all(time.monotonic())

    @property
    def frozen(self) -> bool:
        """Whether a signal has stopped this node's server, according to the local watch."""
        with self._lock:
            return self._own.server.state is ProcessState.FROZEN

    def hanging(self) -> dict[str, Hanging]:
        """Return the servers that hang, by node, according to the last heartbeats of their own agents."""
        with self._lock:
            return {one.name: one.hangs for one in self._remotes.values() if one.hangs is not None}

    def refused(self, name: str) -> str:
        """Return why the last datagram from the address of a node was refused; "" if it was not."""
        with self._lock:
            return next((one.refused for one in self._remotes.values() if one.name == name), "")

    def news(self) -> list[News]:
        """Return the lines for the journal since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._news.get_nowait())
        return found

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Send and receive in a thread while the block runs."""
        with self._lock:
            self._ended = False
            self._links.expect(time.monotonic())
        thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._ended = True
            self._ring()
            thread.join(_END_SECONDS)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    # The thread

    def _run(self) -> None:
        door: socket.socket | None = None
        try:
            while not self._over:
                door = self._opened(door)
                self._send(door)
                pause = BEAT_SECONDS if door is not None else _BIND_PAUSE_SECONDS
                self._receive_until(door, min(time.monotonic() + pause, self._due))
        finally:
            if door is not None:
                door.close()

    @property
    def _due(self) -> float:
        with self._lock:
            return self._links.due

    @property
    def _over(self) -> bool:
        with self._lock:
            return self._ended

    def _opened(self, door: socket.socket | None) -> socket.socket | None:
        """Return the socket at this node's address; None if it cannot be opened, which is reported once.

        The only node of a cluster opens no socket.
        """
        with self._lock:
            address, alone = plain.address(self.me.address), not self._remotes
        if alone:
            if door is not None:
                door.close()
            return None
        place = "" if address is None else str(address)
        if door is not None and door.getsockname()[0] == place:
            return door
        if door is not None:
            door.close()
        try:
            fresh, why = _open(address, self.port), ""
        except OSError as error:
            fresh, why = None, error.strerror or str(error)
        with self._lock:
            changed, self._unbound = why != self._unbound, why
        if why and changed:
            what = f"cannot exchange heartbeats at {place or self.me.address}, port {self.port}: {why}"
            self._report(News(f"{what}; retrying every {_BIND_PAUSE_SECONDS:g} s", bad=True))
        return fresh

    def _send(self, door: socket.socket | None) -> None:
        """Send a heartbeat to every other node, and report links that have been lost or established."""
        now = time.monotonic()
        with self._lock:
            beats = {beat.receiver: beat for beat in self._links.round(self._own.at(now), now)}
            ways = [(one.address, self._keys_for(one), beats[one.name]) for one in self._remotes.values()]
            changes = self._links.changes(now)
        self._report(*(_line(change) for change in changes))
        if door is None:
            return
        for address, keys, beat in ways:
            for key in keys:
                with contextlib.suppress(OSError):  # the link is lost if this lasts
                    door.sendto(datagram.encode(beat, key), (address, self.port))

    def _keys_for(self, remote: _Remote) -> tuple[bytes, ...]:
        """Return the keys to send with: the former one, too, until the node has sent with the newest one."""
        return self._keys[:1] if remote.rekeyed else self._keys

    def _receive_until(self, door: socket.socket | None, end: float) -> None:
        """Process datagrams until `end`, or until another thread requires a heartbeat at once."""
        ready = select.poll()
        for handle in (self._bell, *([door.fileno()] if door is not None else [])):
            ready.register(handle, select.POLLIN)
        while not self._over:
            left = end - time.monotonic()
            if left <= 0:
                return
            found = [handle for handle, _ in ready.poll(math.ceil(left * 1000))]
            if door is not None and door.fileno() in found:
                self._read_one(door)
            if self._bell in found:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
                return

    def _read_one(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a wrong checksum, or the network reports an earlier failure
            data, source = door.recvfrom(datagram.LONGEST_BYTES + 1)
            self._receive(data, source[0])

    def _receive(self, data: bytes, address: str) -> None:
        """Process a datagram. One from the address of no node is dropped unread."""
        now = time.monotonic()
        with self._lock:
            remote = self._remotes.get(address)
            if remote is None:
                return
            try:
                beat = self._verified(remote, data)
            except ValueError as error:
                remote.refused = str(error)
                return
            remote.refused = ""
            if not self._links.receive(beat, now):
                return
            changes = self._links.changes(now)
            told, remote.told = remote.told, beat.postgresql
            if beat.postgresql is not Postgresql.HANGING:
                remote.hangs = None
            elif remote.hangs is None:
                remote.hangs = Hanging(now)
        lines = [_line(change) for change in changes]
        if beat.postgresql is not told and Postgresql.DOWN in (told, beat.postgresql):
            said = beat.postgresql or "of unknown state"
            lines.append(News(f"PostgreSQL of {beat.sender} is {said}, by its heartbeat", bad=said is Postgresql.DOWN))
        self._report(*lines)

    def _verified(self, remote: _Remote, data: bytes) -> Heartbeat:
        """Return the heartbeat of a datagram from the address of `remote`; raises ValueError if it must not count."""
        keys = self._keys_for(remote)
        found = ((key, beat) for key in keys if (beat := datagram.decode(data, key)) is not None)
        key, beat = next(found, (b"", None))
        if beat is None:
            size = len(data)
            raise ValueError("it is too long" if size > datagram.LONGEST_BYTES else "it was made with another key")
        if beat.sender != remote.name or beat.receiver != self.me.name:
            raise ValueError(f"it is from {beat.sender!r} to {beat.receiver!r}")
        remote.rekeyed = remote.rekeyed or key == self._keys[0]
        return beat

    def _report(self, *news: News) -> None:
        for one in news:
            self._news.put(one)
        if news:
            self.on_news()


def _line(change: LinkChange) -> News:
    if change.up:
        return News(f"heartbeats with {change.node} work in both directions")
    why = "no heartbeat arrives from it, or none of this node's arrives there"
    return News(f"the link with {change.node} is lost: {why}", bad=True)


def _open(address: plain.Address | None, port: int) -> socket.socket:
    if address is None:
        raise OSError("the address of this node is not known yet")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    door = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        door.bind((str(address), port))
    except OSError:
        door.close()
        raise
    return door
