"""Detect within seconds, during a recovery in two stages, that a host has stopped sending packets, and detach it.

Clients may be waiting for that host in the second stage, or if it is the main node that takes their writes. pgpool-II's
health checks and lifecheck need 8 to 20 seconds, because they must tolerate a busy server and a broken session. A vigil
queries the other host's kernel, which answers for any port, open or closed, even if its programs are busy. A single
node never declares a host dead: more than half of all nodes must find it silent. So a cluster of two nodes never does.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..decision.facts.facts import ClusterFacts
from ..definition.cluster import Node, Service
from ..ground import log, ports
from ..ground.errors import ClusterError
from ..machine import pgpool, units
from ..node.node import Here
from ..transport.protocol import SilentRequest

TRIES = 3
"""Unanswered tries after which a host is silent. A number, not a time, because this node itself may be slow."""
_ANSWER_SECONDS = 0.4
_PAUSE_SECONDS = 0.1
_ANSWERED_PAUSE_SECONDS = 0.25
"""Seconds between an answered try and the next."""
_LINGER_SECONDS = 30.0
"""Seconds for which a vigil continues after the last sign of a recovery: the node that shows it may have failed."""
_DETACH_SECONDS = 30.0
"""Seconds for which the vigil requests a detachment. By then, pgpool-II's own health checks have detached the host."""


@dataclass(slots=True)
class Vigil:
    """The vigil of one node. It publishes, in `here.under_way.mute`, the names of the hosts that it finds silent."""

    here: Here
    _until: float = 0.0
    _watching: bool = False
    _given_up: dict[str, float] = field(default_factory=dict)
    """When each host was declared dead, by the monotonic clock."""
    _out: set[str] = field(default_factory=set)
    """The dead hosts that pgpool-II has detached."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tend(self, facts: ClusterFacts) -> None:
        """Begin or extend the vigil if a recovery is running."""
        if any(found.promoting for found in facts.nodes.values()):
            self.begin()

    def begin(self) -> None:
        """Begin the vigil, or extend a running one by 30 s."""
        with self._lock:
            self._until = time.monotonic() + _LINGER_SECONDS
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        others = [node for node in self.here.cluster.nodes if node != self.here.me]
        missed: dict[str, int] = {}
        over = threading.Event()
        for node in others:
            threading.Thread(target=self._listen, args=(node, missed, over), daemon=True).start()
        try:
            while self._goes_on():
                time.sleep(_PAUSE_SECONDS)
                self.here.under_way.mute.publish(silent(missed))
                for node in others:
                    self._judge(node)
        finally:
            over.set()
            self.here.under_way.mute.publish(frozenset())

    def _goes_on(self) -> bool:
        """Return whether to keep watching: at least until every dead host has been reported alive again."""
        with self._lock:
            self._watching = time.monotonic() < self._until or bool(self._given_up)
            return self._watching

    def _listen(self, node: Node, missed: dict[str, int], over: threading.Event) -> None:
        """Count unanswered tries since the last answer. Ignore a host that never answered, as behind a firewall."""
        own = node.port if Service.POSTGRESQL in node.runs else pgpool.port(self.here.cluster)
        with contextlib.suppress(OSError):
            places = [_place(node, port) for port in (own, ports.SSH)]
            while not over.wait(_PAUSE_SECONDS if missed.get(node.name) else _ANSWERED_PAUSE_SECONDS):
                family, address = places[missed.get(node.name, 0) % len(places)]
                if answers(family, address):
                    missed[node.name] = 0
                elif node.name in missed:
                    missed[node.name] += 1

    def _judge(self, node: Node) -> None:
        here = self.here
        if node.name not in here.under_way.mute.value:
            if node.name in self._given_up:
                del self._given_up[node.name]
                self._out.discard(node.name)
                self._do(lambda: self._tell_watchdog(node, alive=True))
            return
        if node.name not in self._given_up:
            if not agreed(here.cluster.majority, node.name, self._others_say()):
                return
            self._given_up[node.name] = time.monotonic()
            log.warning(f"{node.name} stopped sending packets during a recovery: detaching it")
            self._do(lambda: self._tell_watchdog(node, alive=False))
            self._do(lambda: units.hang_up(here.cluster, node))
            here.peers.drop(node.name, "it stopped sending packets")
            here.forget_looks()
        if time.monotonic() < self._given_up[node.name] + _DETACH_SECONDS:
            self._detach(node)

    def _others_say(self) -> list[frozenset[str]]:
        quiet = self.here.under_way.mute.value
        answering = [node.name for node in self.here.cluster.nodes if node.name not in quiet]
        answers = self.here.peers.ask_some(answering, SilentRequest(), seconds=_ANSWER_SECONDS).values()
        return [answer.silent for answer in answers]

    def _tell_watchdog(self, node: Node, *, alive: bool) -> None:
        runs = Service.PGPOOL in self.here.me.runs
        if self.here.cluster.uses_watchdog and runs and node in self.here.cluster.pgpools:
            pgpool.tell_watchdog(self.here.cluster, node, alive=alive)

    def _detach(self, node: Node) -> None:
        """Detach the node from this node's pgpool-II if that leads, unless it has confirmed the detachment already.

        `_watch` repeats this until then, for 30 s at most. Only pcp_detach_node confirms the detachment: pcp_node_info
        connects to the node and waits, and pgpool_status has only this pgpool-II's own decisions, not those of a leader
        (4.3 to 4.7). This does not wait for the quorum, because the nodes have agreed, and the other pgpool-IIs need a
        second to join the leader.
        """
        runs = Service.PGPOOL in self.here.me.runs
        if runs and node.name not in self._out and pgpool.leads(self.here.cluster):
            try:
                pgpool.detach(self.here.cluster, node)
            except ClusterError as error:  # pgpool-II may refuse for a moment, and logs why
                if pgpool.DOWN_ALREADY in error.message:
                    self._out.add(node.name)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ClusterError as error:
            log.warning(f"{error.message}; hint: {error.hint}")


def _place(node: Node, port: int) -> tuple[int, tuple[Any, ...]]:
    """Return family and address for a socket. This asks no name server, because that may be on the silent host."""
    found = socket.getaddrinfo(node.address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    return found[0], found[4]


def silent(missed: dict[str, int]) -> frozenset[str]:
    """Return the silent hosts. `missed`: the number of unanswered tries of each host since its last answer."""
    return frozenset(name for name, tries in list(missed.items()) if tries >= TRIES)


def agreed(majority: int, name: str, others: list[frozenset[str]]) -> bool:
    """Return whether a majority finds `name` silent: this node, and each set of `others` that contains it."""
    return 1 + sum(name in found for found in others) >= majority


def answers(family: int, address: tuple[Any, ...]) -> bool:
    """Return whether a host answers on a port within 0.4 s; a refused connection is an answer, too."""
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as asking:
        asking.settimeout(_ANSWER_SECONDS)
        try:
            asking.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:  # also a connection that `hang-up` has ended
            return False
        return True
