"""While a recovery in two stages goes on, a host that sends no packet any more is given up within seconds.

Clients may be waiting for it: in the second stage, or for a main node that takes their writes. pgpool-II's health
checks and lifecheck need 8 to 20 seconds, since they have to bear a busy server and a broken session; what is asked
here is the other host's kernel, which answers for a port, be it open or closed, however busy its programs are. Nobody
is given up on one node's word: more than half of all nodes must find that host silent. Of two nodes, none is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import pgpool, units
from .cluster import Node, Service
from .errors import ClusterError
from .facts import ClusterFacts
from .node import Here, log
from .protocol import SilentRequest

TRIES = 3
"""So many without an answer make a host silent. Counted, not timed: this node's own programs may be held up, too."""
_ANSWER = 0.4
_BETWEEN = 0.1
_WELL = 0.25
"""Seconds between a try that was answered and the next."""
_LINGER = 30.0
"""Seconds for which a vigil goes on when nobody says any more that a recovery goes on: who would may have vanished."""
_DETACHES = 30.0
"""Seconds for which pgpool-II is asked to go on without a host; by then its health checks have seen to that, too."""
_SSH = 22


@dataclass(slots=True)
class Vigil:
    """One node's watch over the others. `here.silent` names those that it finds silent."""

    here: Here
    _until: float = 0.0
    _watching: bool = False
    _given_up: dict[str, float] = field(default_factory=dict)
    """When each was, by the monotonic clock."""
    _out: set[str] = field(default_factory=set)
    """Those of them that pgpool-II says it has given up, too."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tend(self, facts: ClusterFacts) -> None:
        """Watch, or go on watching, if a recovery is under way."""
        if any(found.promoting for found in facts.nodes.values()):
            self.begin()

    def begin(self) -> None:
        """Watch from now on."""
        with self._lock:
            self._until = time.monotonic() + _LINGER
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
                time.sleep(_BETWEEN)
                self.here.silent = silent(missed)
                for node in others:
                    self._judge(node)
        finally:
            over.set()
            self.here.silent = frozenset()

    def _goes_on(self) -> bool:
        """Also until all who were given up have been told to be back."""
        with self._lock:
            self._watching = time.monotonic() < self._until or bool(self._given_up)
            return self._watching

    def _listen(self, node: Node, missed: dict[str, int], over: threading.Event) -> None:
        """Count a host's missing answers since the last; one that never gave any, as behind a firewall, has none."""
        own = node.port if Service.POSTGRESQL in node.runs else pgpool.port(self.here.cluster)
        with contextlib.suppress(OSError):
            places = [_place(node, port) for port in (own, _SSH)]
            while not over.wait(_BETWEEN if missed.get(node.name) else _WELL):
                family, address = places[missed.get(node.name, 0) % len(places)]
                if answers(family, address):
                    missed[node.name] = 0
                elif node.name in missed:
                    missed[node.name] += 1

    def _judge(self, node: Node) -> None:
        here = self.here
        if node.name not in here.silent:
            if node.name in self._given_up:
                del self._given_up[node.name]
                self._out.discard(node.name)
                self._do(lambda: self._tell_watchdog(node, alive=True))
            return
        if node.name not in self._given_up:
            if not agreed(here.cluster.majority, node.name, self._others_say()):
                return
            self._given_up[node.name] = time.monotonic()
            log(f"{node.name} sends no packet any more, while a recovery goes on: it is given up")
            self._do(lambda: self._tell_watchdog(node, alive=False))
            self._do(lambda: units.hang_up(here.cluster, node))
            here.peers.drop(node.name, "it sends no packet any more")
            here.forget_looks()
        if time.monotonic() < self._given_up[node.name] + _DETACHES:
            self._detach(node)

    def _others_say(self) -> list[frozenset[str]]:
        heard = [node.name for node in self.here.cluster.nodes if node.name not in self.here.silent]
        answers = self.here.peers.ask_some(heard, SilentRequest(), seconds=_ANSWER).values()
        return [answer.silent for answer in answers]

    def _tell_watchdog(self, node: Node, *, alive: bool) -> None:
        if Service.PGPOOL in self.here.me.runs and node in self.here.cluster.pgpools:
            pgpool.tell_watchdog(self.here.cluster, node, alive=alive)

    def _detach(self, node: Node) -> None:
        """Have pgpool-II go on without the node, if this one's leads, and again until it says that it does.

        Nothing else tells: pcp_node_info asks the node itself and waits, and pgpool_status has only what this very
        pgpool-II decided, not what it learnt from a leader (4.3 to 4.7).
        Its quorum is not waited for: the nodes have agreed, and other pgpool-IIs take a second to join it.
        """
        runs = Service.PGPOOL in self.here.me.runs
        if runs and node.name not in self._out and pgpool.leads(self.here.cluster):
            try:
                pgpool.detach(self.here.cluster, node)
            except ClusterError as error:  # else refused for a moment, perhaps: pgpool-II's log has why
                if pgpool.DOWN_ALREADY in error.message:
                    self._out.add(node.name)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ClusterError as error:
            log(f"{error.message}; hint: {error.hint}")


def _place(node: Node, port: int) -> tuple[int, tuple[Any, ...]]:
    """Return family and address as socket wants them; no name server is asked, which may be on the silent host."""
    found = socket.getaddrinfo(node.address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    return found[0], found[4]


def silent(missed: dict[str, int]) -> frozenset[str]:
    """Return who gives no answer any more; `missed`: how many tries each one has left without, since it gave one."""
    return frozenset(name for name, tries in list(missed.items()) if tries >= TRIES)


def agreed(majority: int, name: str, others: list[frozenset[str]]) -> bool:
    """Tell whether a majority of nodes finds `name` silent: this one, and those of the `others` that say so."""
    return 1 + sum(name in found for found in others) >= majority


def answers(family: int, address: tuple[Any, ...]) -> bool:
    """Tell whether a host answers for a port at all: a refusal is an answer."""
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as asking:
        asking.settimeout(_ANSWER)
        try:
            asking.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:  # also one that `hang-up` has ended
            return False
        return True
