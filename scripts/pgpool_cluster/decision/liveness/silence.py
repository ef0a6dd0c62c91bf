"""Decide whether another node shows any sign of life. Pure.

A lost link alone proves little: its agent may be restarting, or a packet filter may drop heartbeats. So a server of a
node whose link is about to be lost is asked for an answer as well, which it gives before any log-in.
"""

from __future__ import annotations

from dataclasses import dataclass

from .links import DEAD_SECONDS, Link, LinkState

PROBE_AFTER_SECONDS = 0.6
"""Seconds without a heartbeat after which a server is probed, so that the result is known when the link is lost."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to another node's server. `began`: when it was sent, by the monotonic clock."""

    began: float
    answered: bool


def needs_probe(link: Link, now: float) -> bool:
    """Return whether the server of a node must be probed now."""
    if link.state is LinkState.UP:
        soon_lost = link.ends - now <= DEAD_SECONDS - PROBE_AFTER_SECONDS  # heartbeats may arrive in one direction only
        return soon_lost or now - link.heard >= PROBE_AFTER_SECONDS
    return link.state in (LinkState.LOST, LinkState.NEVER)


def is_silent(link: Link, probe: Probe | None, now: float, *, has_server: bool) -> bool:
    """Return whether a node shows no sign of life. `probe`: the last one that has ended; None without one.

    A node whose package is older sends no heartbeats, and is never silent.
    """
    lost = link.state is LinkState.LOST or (link.state is LinkState.NEVER and now - link.since >= DEAD_SECONDS)
    if not lost or not has_server:
        return lost
    after = link.since - DEAD_SECONDS + PROBE_AFTER_SECONDS if link.state is LinkState.LOST else link.since
    return probe is not None and not probe.answered and probe.began >= after
