"""Watch the other nodes for signs of life, and publish the silent ones, in a thread that nothing else delays."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..copying import copy_source
from ..decision.liveness import silence
from ..decision.liveness.links import Link, LinkState
from ..decision.liveness.silence import Hanging, Probe
from ..definition.cluster import Node, Service
from ..ground import log
from ..node.node import Here
from ..postgresql import knock
from ..transport import pulse

_PAUSE_SECONDS = 0.1
_PROBE_SECONDS = 0.4
"""Time limit for a probe, and the least time between the beginnings of two probes of a node."""
_LOGIN_SECONDS = 2.0
"""The same for a log-in to a server that hangs."""
_END_SECONDS = 2.0
_FAULT_PAUSE_SECONDS = 1.0
_ROUND_SECONDS = 2.0
"""Longer than a round can take, which waits for nothing but the journal."""
_PART = "signs of life"


@dataclass(slots=True)
class _Probes:
    """The last finished probe of each server, and those that have begun."""

    ended: dict[str, Probe] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(slots=True)
class LifeSigns:
    """The signs of life of the other nodes. `wake` ends the pause of the agent's loop."""

    here: Here
    wake: Callable[[], None]
    knocks: Callable[[Node, float], bool] = knock.answers
    logins: Callable[[Node, float], bool] = copy_source.answers_login
    _probes: _Probes = field(default_factory=_Probes)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch in a thread while the block runs."""
        thread = threading.Thread(target=self._run, name="life signs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(_PAUSE_SECONDS):
            pulse.beat(_ROUND_SECONDS, _PART)  # the fence depends on this thread
            try:
                self.step()
            except Exception as error:  # the watch outlives any fault of a step
                log.error(f"the watch for signs of life failed: {type(error).__name__}: {error}")
                self._over.wait(_FAULT_PAUSE_SECONDS)
        pulse.end(_PART)

    def step(self) -> None:
        """Begin the probes that are due, and publish which nodes are silent now."""
        links, now = self.here.beats.links(), time.monotonic()
        nodes = {node.name: node for node in self.here.cluster.nodes if node.name in links}
        hanging = self.here.beats.hanging()
        for name, node in nodes.items():
            if Service.POSTGRESQL in node.runs and silence.needs_probe(links[name], now, hanging.get(name)):
                self._probe(node, now, hangs=links[name].state is LinkState.UP and name in hanging)
        self._publish(self._silent(nodes, links, hanging, now))

    def _silent(
        self, nodes: Mapping[str, Node], links: Mapping[str, Link], hanging: Mapping[str, Hanging], now: float
    ) -> frozenset[str]:
        with self._probes.lock:
            probes = dict(self._probes.ended)
        return frozenset(
            name
            for name, node in nodes.items()
            if silence.is_silent(
                links[name],
                probes.get(name),
                now,
                has_server=Service.POSTGRESQL in node.runs,
                hanging=hanging.get(name),
            )
        )

    def _publish(self, found: frozenset[str]) -> None:
        before = self.here.silent.value
        if found == before:
            return
        self.here.silent.publish(found)
        for name in found - before:
            log.warning(f"{name} shows no sign of life")
            if self.here.beats.links()[name].state is not LinkState.UP:
                self.here.peers.drop(name, "it shows no sign of life")
        for name in before - found:
            log.info(f"{name} shows signs of life again")
        self.here.forget_looks()
        self.wake()

    def _probe(self, node: Node, now: float, *, hangs: bool) -> None:
        """Probe a server in a thread, unless a probe is under way or has just begun."""
        pause = _LOGIN_SECONDS if hangs else _PROBE_SECONDS
        with self._probes.lock:
            if now - self._probes.began.get(node.name, float("-inf")) < pause:
                return
            self._probes.began[node.name] = now
        arguments = (node, now, self.logins if hangs else self.knocks, pause)
        threading.Thread(target=self._ask, args=arguments, name=f"probe of {node.name}", daemon=True).start()

    def _ask(self, node: Node, began: float, asks: Callable[[Node, float], bool], seconds: float) -> None:
        probe = Probe(began, asks(node, seconds))
        with self._probes.lock:
            last = self._probes.ended.get(node.name)
            if last is None or last.began < began:
                self._probes.ended[node.name] = probe
