"""Define the heartbeat of an agent: it proves that both directions of a link work, and carries its node's state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .facts import Lsn, NodeFacts, Postgresql


class ProcessState(StrEnum):
    """The state of a main process according to the local watch."""

    UNSEEN = "unseen"
    """It has not been found since the agent started, so only the node's facts describe it."""
    RUNS = "runs"
    FROZEN = "frozen"
    """It has been stopped by a signal (SIGSTOP) for some seconds, so it answers nothing."""
    ENDED = "ended"
    """It has ended because systemd, an administrator or the agent stops or restarts it."""
    DIED = "died"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The state of a node in its heartbeat.

    `postgresql`: None if the node has no recent facts, or runs a newer package that has another state. `position`: the
    end of the WAL that it has written or received, on `timeline`. `follows`: the node that its primary_conninfo names.
    `streaming`: it receives messages from its primary. `pool`: its pgpool-II serves; None if that is unknown. `term`
    and `led` are as in NodeFacts (facts.py).
    """

    term: int = 0
    led: int = 0
    postgresql: Postgresql | None = None
    in_recovery: bool = False
    follows: str | None = None
    streaming: bool = False
    position: Lsn | None = None
    timeline: int | None = None
    pool: bool | None = None

    @property
    def accepts_writes(self) -> bool:
        """Whether its PostgreSQL answers and is no standby."""
        return self.postgresql is Postgresql.UP and not self.in_recovery

    @classmethod
    def of(cls, facts: NodeFacts, *, pools: bool) -> NodeState:
        """Return the state of a node by its own facts. `pools`: it runs a pgpool-II."""
        return cls(
            term=facts.term,
            led=facts.led,
            postgresql=facts.postgresql,
            in_recovery=facts.in_recovery,
            follows=facts.follows,
            streaming=facts.streaming,
            position=facts.position,
            timeline=facts.timeline,
            pool=facts.pgpool is not None if pools else None,
        )

    def without_server(self, postgresql: Postgresql | None) -> NodeState:
        """Return the state while PostgreSQL answers nothing."""
        return replace(self, postgresql=postgresql, in_recovery=False, streaming=False)


@dataclass(frozen=True, slots=True)
class Echo:
    """The last sequence received from an incarnation of the receiver's agent."""

    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One datagram from agent to agent.

    `incarnation`: a random number of the agent's start. `sequence` grows with every round of datagrams. `echoes`: the
    last sequences that the sender has received from the receiver, of at most two incarnations. `lost`: the nodes with
    which the sender has no link.
    """

    sender: str
    receiver: str
    incarnation: int
    sequence: int
    echoes: tuple[Echo, ...] = ()
    lost: tuple[str, ...] = ()
    state: NodeState = NodeState()


@dataclass(frozen=True, slots=True)
class Seen:
    """The last state of a main process according to the local watch, and when it began, by the monotonic clock."""

    state: ProcessState = ProcessState.UNSEEN
    at: float = float("-inf")


FACTS_SECONDS = 10.0
"""Age at which facts describe a node no longer, as while a disk hangs."""


@dataclass(frozen=True, slots=True)
class OwnState:
    """The state of this node: by its facts, and by the local watch since these were collected."""

    facts: NodeState = NodeState()
    began: float = float("-inf")
    """When the collection of the facts began, by the monotonic clock."""
    server: Seen = Seen()
    pool: Seen = Seen()

    def at(self, now: float) -> NodeState:
        """Return the state to send. The observations of the local watch count until newer facts have been collected."""
        state = self.facts
        if now - self.began > FACTS_SECONDS:
            state = replace(state.without_server(None), pool=None)
        if self.server.state is ProcessState.FROZEN:
            state = state.without_server(Postgresql.HANGING)
        elif self.server.at > self.began:
            state = _since(state, self.server.state)
        if self.pool.at > self.began and self.pool.state in (ProcessState.DIED, ProcessState.ENDED):
            state = replace(state, pool=False if self.pool.state is ProcessState.DIED else None)
        return state


def _since(state: NodeState, server: ProcessState) -> NodeState:
    """Return the state of a node whose PostgreSQL has changed since its facts were collected."""
    if server is ProcessState.DIED:
        return state.without_server(Postgresql.DOWN)
    runs = state.postgresql in (Postgresql.UP, Postgresql.HANGING)
    if server is ProcessState.ENDED and runs:
        return state.without_server(Postgresql.STARTING)
    if server is ProcessState.RUNS and not runs and state.postgresql is not None:
        return state.without_server(Postgresql.STARTING)
    return state
