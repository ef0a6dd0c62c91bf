"""Decide whether another node shows any sign of life. Pure.

A lost link alone proves little: its agent may be restarting, or a packet filter may drop heartbeats. So a server of a
node whose link is about to be lost is asked for an answer as well, which it gives before any log-in. A server that its
own agent reports as hanging may only be slow. So it must also refuse to let others log in.
"""

from __future__ import annotations

from dataclasses import dataclass

from .links import DEAD_SECONDS, Link, LinkState

PROBE_AFTER_SECONDS = 0.6
"""Seconds without a heartbeat after which a server is probed, so that the result is known when the link is lost."""
BOOT_SECONDS = 60.0
"""Seconds that other nodes may take to boot. A node of which nothing has arrived by then is no longer expected."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to another node's server. `began`: when it was sent, by the monotonic clock."""

    began: float
    answered: bool


@dataclass(frozen=True, slots=True)
class Hanging:
    """A server that hangs, according to the heartbeats of its own agent. `since`: when they began to say so."""

    since: float


def needs_probe(link: Link, now: float, hanging: Hanging | None = None) -> bool:
    """Return whether the server of a node must be probed now."""
    if link.state is LinkState.UP and hanging is not None:
        return True
    if link.state is LinkState.UP:
        return now - link.heard >= PROBE_AFTER_SECONDS
    return link.state in (LinkState.LOST, LinkState.NEVER) or _is_overdue(link, now)


def is_silent(link: Link, probe: Probe | None, now: float, *, has_server: bool, hanging: Hanging | None = None) -> bool:
    """Return whether a node shows no sign of life. `probe`: the last one that has ended; None without one.

    With `hanging`, its probes are log-ins, and its server counts, not its link. A node whose package is older sends no
    heartbeats, and is never silent, unless it has answered no request either since this agent started BOOT_SECONDS ago.
    """
    if link.state is LinkState.UP and hanging is not None:
        return probe is not None and not probe.answered and probe.began >= hanging.since
    if not _is_lost(link, now) or not has_server:
        return _is_lost(link, now)
    delays = {LinkState.LOST: PROBE_AFTER_SECONDS - DEAD_SECONDS, LinkState.UNKNOWN: BOOT_SECONDS}
    after = link.since + delays.get(link.state, 0.0)
    return probe is not None and not probe.answered and probe.began >= after


def _is_lost(link: Link, now: float) -> bool:
    never = link.state is LinkState.NEVER and now - link.since >= DEAD_SECONDS
    return link.state is LinkState.LOST or never or _is_overdue(link, now)


def _is_overdue(link: Link, now: float) -> bool:
    return link.state is LinkState.UNKNOWN and now - link.since >= BOOT_SECONDS
