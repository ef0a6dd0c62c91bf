"""Define the heartbeat of an agent: it proves that both directions of a link work, and has the state of its server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..facts.facts import Postgresql


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
class Echo:
    """The last sequence received from an incarnation of the receiver's agent."""

    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One datagram from agent to agent.

    `incarnation`: a random number of the agent's start. `sequence` grows with every round of datagrams. `echoes`: the
    last sequences that the sender has received from the receiver, of at most two incarnations. `postgresql`: the state
    of the sender's server; None if it is unknown, or if a newer package has another state.
    """

    sender: str
    receiver: str
    incarnation: int
    sequence: int
    echoes: tuple[Echo, ...] = ()
    postgresql: Postgresql | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The last state of a main process according to the local watch, and when it began, by the monotonic clock."""

    state: ProcessState = ProcessState.UNSEEN
    at: float = float("-inf")


FACTS_SECONDS = 10.0
"""Age at which facts describe a node no longer, as while a disk hangs."""


@dataclass(frozen=True, slots=True)
class OwnState:
    """The state of this node's server: by its facts, and by the local watch since these were collected."""

    facts: Postgresql | None = None
    began: float = float("-inf")
    """When the collection of the facts began, by the monotonic clock."""
    server: Seen = Seen()

    def at(self, now: float) -> Postgresql | None:
        """Return the state to send. The observations of the local watch count until newer facts have been collected."""
        facts = self.facts if now - self.began <= FACTS_SECONDS else None
        if self.server.state is ProcessState.FROZEN:
            return Postgresql.HANGING
        return _since(facts, self.server.state) if self.server.at > self.began else facts


def _since(facts: Postgresql | None, server: ProcessState) -> Postgresql | None:
    """Return the state of a server that has changed since the facts were collected."""
    if server is ProcessState.DIED:
        return Postgresql.DOWN
    ran = facts in (Postgresql.UP, Postgresql.HANGING)
    changed = ran if server is ProcessState.ENDED else server is ProcessState.RUNS and facts is not None and not ran
    return Postgresql.STARTING if changed else facts
