"""Decide which nodes this one has a link with, from the heartbeats that it sends and receives.

A link is up while both directions work. A heartbeat proves that: it echoes a sequence that this agent sent a moment
ago, so the datagram with that sequence has arrived there, and the answer here. A replayed datagram echoes an old
sequence and proves nothing. Times are seconds of the monotonic clock, which the caller passes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..facts.facts import Postgresql
from .heartbeat import Echo, Heartbeat

BEAT_SECONDS = 0.2
"""Pause between two rounds of heartbeats."""
DEAD_SECONDS = 1.2
"""Time without a new heartbeat after which a link is lost."""
ECHO_SECONDS = 1.8
"""Age of the last echoed sequence at which a link is lost.

It is larger than DEAD_SECONDS because an echo is older than its datagram by up to two pauses and a round trip.
"""
_MOST_RETIRED = 8
"""Former incarnations that are remembered per node. Older ones echo nothing recent anyway."""


class LinkState(StrEnum):
    """Whether this node has a link with another one."""

    UP = "up"
    LOST = "lost"
    NEVER = "never"
    """Its agent's facts say that it sends heartbeats, but no link has been up since this agent started."""
    UNSUPPORTED = "unsupported"
    """Its agent's facts say that it sends no heartbeats: its package is older, or it has no key for them yet."""
    UNKNOWN = "unknown"
    """Neither a heartbeat nor facts have arrived since this agent started."""


@dataclass(frozen=True, slots=True)
class Link:
    """The link with another node.

    `since`: when it entered its state. `heard`: when its last authentic heartbeat arrived, -inf for never. `ended`:
    when its heartbeats began to say that its server is down or hangs, -inf if they do not.
    """

    node: str
    state: LinkState
    since: float
    heard: float = -math.inf
    ended: float = -math.inf


def unheard(links: Mapping[str, Link]) -> frozenset[str]:
    """Return the nodes of which neither a heartbeat nor facts have arrived since this agent started."""
    return frozenset(name for name, link in links.items() if link.state is LinkState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A link that was established or lost."""

    node: str
    up: bool


@dataclass(slots=True)
class _Received:
    """The heartbeats received from another node."""

    began: float
    """When this agent started to expect heartbeats of the node."""
    supports: bool | None = None
    proven: Echo | None = None
    """The incarnation that proved the link last, with its last sequence."""
    pending: Echo | None = None
    """Another incarnation that has proved nothing yet: a restarted agent, or a replay."""
    retired: deque[int] = field(default_factory=lambda: deque(maxlen=_MOST_RETIRED))
    heard: float = -math.inf
    """When the last new heartbeat of the proven incarnation arrived."""
    arrived: float = -math.inf
    """When any authentic heartbeat arrived."""
    proof: float = -math.inf
    """When the last sequence was sent that the proven incarnation has echoed."""
    up_since: float = -math.inf
    ended: float = -math.inf
    """When its heartbeats began to say that its server is down or hangs."""
    told_up: bool = False
    """Whether the link was up according to the last change returned by `changes`."""

    @property
    def ends(self) -> float:
        """When the link is lost unless another heartbeat arrives."""
        return min(self.heard + DEAD_SECONDS, self.proof + ECHO_SECONDS)

    @property
    def echoes(self) -> tuple[Echo, ...]:
        return tuple(echo for echo in (self.proven, self.pending) if echo is not None)

    def is_new(self, beat: Heartbeat) -> bool:
        """Return whether the heartbeat is no repetition, and later than the last one of its incarnation."""
        last = next((echo for echo in self.echoes if echo.incarnation == beat.incarnation), None)
        return beat.incarnation not in self.retired and (last is None or beat.sequence > last.sequence)

    def note(self, echo: Echo) -> None:
        """Remember the sequence that the next heartbeat to this node echoes."""
        if self.proven is not None and self.proven.incarnation == echo.incarnation:
            self.proven = echo
        else:
            self.pending = echo

    def prove(self, echo: Echo) -> None:
        """Make this incarnation the present one. Heartbeats of the former one no longer count."""
        if self.proven is not None and self.proven.incarnation != echo.incarnation:
            self.retired.append(self.proven.incarnation)
        self.proven, self.pending = echo, None


class Links:
    """The links of one agent with the other nodes. It is not thread-safe."""

    def __init__(self, me: str, others: Iterable[str], incarnation: int, now: float) -> None:
        self.me, self.incarnation = me, incarnation
        self._sequence = 0
        self._sent: deque[tuple[int, float]] = deque()
        """The sequences sent in the last ECHO_SECONDS, and when."""
        self._peers = {name: _Received(now) for name in others}

    def renew(self, others: Iterable[str], now: float) -> None:
        """Expect heartbeats of these nodes from now on, and keep the links with those that remain."""
        self._peers = {name: self._peers.get(name) or _Received(now) for name in others}

    def expect(self, now: float) -> None:
        """Begin to wait for nodes that have sent nothing yet, since this agent can receive from now on."""
        for peer in self._peers.values():
            peer.began = max(peer.began, now)

    @property
    def partners(self) -> frozenset[str]:
        """The nodes that send heartbeats, as far as this one knows."""
        return frozenset(name for name, peer in self._peers.items() if peer.supports)

    def note_support(self, supports: Mapping[str, bool]) -> None:
        """Record which nodes send heartbeats according to their agents' facts."""
        for name, does in supports.items():
            if name in self._peers:
                self._peers[name].supports = does

    def round(self, postgresql: Postgresql | None, now: float) -> tuple[Heartbeat, ...]:
        """Return the heartbeats that are sent now, one for every other node. `postgresql`: the state of its server."""
        self._sequence += 1
        self._sent.append((self._sequence, now))
        self._forget_sent(now)
        return tuple(
            Heartbeat(self.me, name, self.incarnation, self._sequence, peer.echoes, postgresql)
            for name, peer in self._peers.items()
        )

    def receive(self, beat: Heartbeat, now: float) -> bool:
        """Process an authentic heartbeat, and return whether it counts: whether it proves that the link works.

        A heartbeat for another node, of this node, of an unknown node or with an old sequence changes nothing.
        """
        peer = self._peers.get(beat.sender)
        if peer is None or beat.receiver != self.me or not peer.is_new(beat):
            return False
        peer.arrived, peer.supports = now, True
        echo = Echo(beat.incarnation, beat.sequence)
        peer.note(echo)
        sent = self._sent_at(beat.echoes, now)
        was_up = peer.ends > now
        if sent is not None:
            peer.prove(echo)
            peer.proof = max(peer.proof, sent) if was_up else sent
            peer.up_since = peer.up_since if was_up else now
        if sent is not None or (was_up and peer.proven == echo):  # only a proof establishes a link that was lost
            peer.heard = now
            ended = beat.postgresql in (Postgresql.DOWN, Postgresql.HANGING)
            peer.ended = (peer.ended if peer.ended > -math.inf else now) if ended else -math.inf
        return sent is not None

    def of(self, name: str, now: float) -> Link:
        """Return the link with a node; raises KeyError for an unknown node."""
        peer = self._peers[name]
        state = self._state(peer, now)
        since = {LinkState.UP: peer.up_since, LinkState.LOST: peer.ends}.get(state, peer.began)
        return Link(name, state, since, peer.arrived, peer.ended)

    def all(self, now: float) -> dict[str, Link]:
        """Return the links with all other nodes by name."""
        return {name: self.of(name, now) for name in self._peers}

    def changes(self, now: float) -> tuple[LinkChange, ...]:
        """Return the links that have been established or lost since the last call."""
        found = []
        for name, peer in self._peers.items():
            up = peer.ends > now
            if up != peer.told_up:
                peer.told_up = up
                found.append(LinkChange(name, up))
        return tuple(found)

    @property
    def due(self) -> float:
        """When the next link is lost unless another heartbeat arrives; infinite if no link is up."""
        return min((peer.ends for peer in self._peers.values() if peer.told_up), default=math.inf)

    @staticmethod
    def _state(peer: _Received, now: float) -> LinkState:
        if peer.ends > now:
            return LinkState.UP
        if peer.supports is None:
            return LinkState.UNKNOWN
        if not peer.supports:
            return LinkState.UNSUPPORTED
        return LinkState.NEVER if peer.proven is None else LinkState.LOST

    def _sent_at(self, echoes: Iterable[Echo], now: float) -> float | None:
        """Return when the latest echoed sequence was sent; None if it is not of this incarnation, or too old."""
        self._forget_sent(now)
        echoed = max((echo.sequence for echo in echoes if echo.incarnation == self.incarnation), default=0)
        return next((at for sequence, at in self._sent if sequence == echoed), None)

    def _forget_sent(self, now: float) -> None:
        while self._sent and now - self._sent[0][1] >= ECHO_SECONDS:
            self._sent.popleft()
