"""Check that every pgpool-II that serves clients has joined the watchdog, so that it blocks them in a second stage.

The pgpool-II that runs a recovery informs those that its watchdog knows as standbys. A pgpool-II that counts as lost
keeps serving in native replication, and its clients' writes would be missing on the target. The leader's view counts,
because a pgpool-II does not always notice that the leader has lost it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Mapping, Sequence

from ..decision.facts.facts import Standing, WatchdogState
from ..ground.errors import OperationError
from ..ground.waiting import poll
from ..machine import pgpool
from ..node.node import LOOK_SECONDS, Here
from ..transport.peers import Progress
from ..transport.protocol import StandingRequest

_JOIN_SECONDS = 30.0
"""A lost pgpool-II rejoins in 1 s, or in 11 s if its first attempt fails (watchdog.c, MIN_SECS_CONNECTION_RETRY)."""
_JOIN_PAUSE_SECONDS = 0.2
_CONNECT_SECONDS = 0.4
_HINT = "systemctl restart pgpool2 there; start again when pgpoolctl status shows each pgpool-II as leader or standby"


def outside(standings: Mapping[str, Standing], serving: Collection[str] = ()) -> list[str]:
    """Return the nodes whose pgpool-II serves clients, but is unknown to a leader; there can be two leaders.

    `standings`: the answers, by node. `serving`: nodes that did not answer, but whose pgpool-II may serve clients. If
    no leader answered, each pgpool-II's own state counts.
    """
    leaders = {name: one for name, one in standings.items() if one.state is WatchdogState.LEADER}
    if leaders:
        known = set.intersection(*({name, *one.standbys} for name, one in leaders.items()))
    else:
        known = {name for name, one in standings.items() if one.state is WatchdogState.STANDBY}
    return sorted({name for name, one in standings.items() if one.serves}.union(serving) - known)


def outsiders(here: Here) -> list[str]:
    """Query all nodes and return those of `outside`, within 3 s plus 0.4 s for each node that does not answer."""
    if not here.cluster.uses_watchdog:
        return []
    names = [node.name for node in here.cluster.pgpools]
    standings = here.peers.ask_some(names, StandingRequest(), seconds=LOOK_SECONDS)
    if here.me.name in names:
        standings[here.me.name] = pgpool.standing(here.cluster)
    found = outside(standings, set(names) - set(standings))
    return [name for name in found if name in standings or _takes_connections(here, name)]


def _takes_connections(here: Here, name: str) -> bool:
    place = here.cluster.named(name).address, pgpool.port(here.cluster)
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=_CONNECT_SECONDS):
        return True
    return False


def await_joined(here: Here, progress: Progress, *, seconds: float = _JOIN_SECONDS) -> None:
    """Wait until every serving pgpool-II has joined, as after a restart. Raises OperationError after `seconds`."""
    reported: list[str] = []

    def joined() -> bool:
        names = outsiders(here)
        if names and names != reported:
            progress(f"{_not_joined(names)}: waiting for it to join; if this lasts, systemctl restart pgpool2 there")
        reported[:] = names
        return not names

    if not poll(joined, seconds=seconds, pause=_JOIN_PAUSE_SECONDS):
        text = f"{_not_joined(reported)}: their writes would be missing on the recovered node"
        raise OperationError(text, hint=_HINT)


def _not_joined(names: Sequence[str]) -> str:
    return f"pgpool-II of {' and '.join(names)} serves clients, but has not joined the others"
