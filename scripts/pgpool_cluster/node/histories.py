"""Collect the events of all nodes."""

from __future__ import annotations

from ..decision.reports import chronology
from ..decision.reports.chronology import ClusterHistory
from ..ground.errors import ClusterError
from ..transport.protocol import HistoryAnswer, HistoryRequest
from .node import Here

_SECONDS = 2.5


def of_cluster(here: Here, most: int, since: float = 0.0) -> ClusterHistory:
    """Return the last `most` events of all nodes since a time, and why the events of a node are missing."""
    names = list(here.peers.peers)
    outcomes = here.peers.outcomes(names, HistoryRequest(most, since), seconds=_SECONDS)
    answers = {name: found for name, found in outcomes.items() if isinstance(found, HistoryAnswer)}
    own, shortened = here.history.recent(most, since)
    answers[here.me.name] = HistoryAnswer(own, shortened)
    unreached = {name: _why(outcomes.get(name)) for name in names if name not in answers}
    events = chronology.merged({name: answer.events for name, answer in answers.items()}, most)
    # With `most` events of a node, no older one of that node can be among the last `most` of the cluster.
    short = [name for name, one in answers.items() if one.shortened and (since or len(one.events) < most)]
    return ClusterHistory(events, unreached, tuple(short))


def _why(found: object) -> str:
    if not isinstance(found, ClusterError):
        return f"no answer for {_SECONDS:g} s"
    older = "; its package is older than histories" if "unknown request" in found.message else ""
    return f"{found.message}{older}"
