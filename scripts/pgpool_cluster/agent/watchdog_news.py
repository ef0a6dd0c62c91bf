"""Report nodes that count as dead to this node's watchdog, which would notice them only after its own deadline."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ..decision.facts.facts import ClusterFacts
from ..decision.situation import silent
from ..definition.cluster import Node, Service
from ..ground import log
from ..ground.errors import ClusterError
from ..machine import pgpool
from ..node.node import Here


@dataclass(slots=True)
class WatchdogNews:
    """Reports dead nodes to this node's watchdog, each once. The agent's loop uses it."""

    here: Here
    _dead: frozenset[str] = frozenset()

    def tend(self, facts: ClusterFacts) -> None:
        """Report the nodes that have become silent for more than half of all nodes, or are no longer."""
        here = self.here
        if not here.cluster.uses_watchdog or Service.PGPOOL not in here.me.runs:
            return
        others = [node for node in here.cluster.pgpools if node != here.me]
        dead = frozenset(node.name for node in others if silent(here.cluster, facts, node.name))
        changed = [node for node in others if (node.name in dead) is not (node.name in self._dead)]
        self._dead = dead
        for node in changed:
            threading.Thread(target=self._tell, args=(node, node.name not in dead), daemon=True).start()

    def _tell(self, node: Node, alive: bool) -> None:
        try:
            pgpool.tell_watchdog(self.here.cluster, node, alive=alive)
        except ClusterError as error:
            state = "alive" if alive else "dead"
            log.warning(f"cannot report to the watchdog that {node.name} is {state}: {error.message}")
