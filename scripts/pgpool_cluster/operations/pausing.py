"""Pause the decisions of all nodes, end the pause, and learn of either from other nodes."""

from __future__ import annotations

import time

from ..decision import standstill
from ..decision.facts.facts import ClusterFacts
from ..decision.facts.pause import LONGEST_REASON, Pause
from ..decision.reports.events import EventKind
from ..definition.cluster import Service
from ..ground import log, plain
from ..ground.errors import OperationError, UsageError
from ..node import recording
from ..node.node import LOOK_SECONDS, Here
from ..transport.protocol import VERSIONS_DIFFER, NotePauseRequest, PauseAnswer, PauseRequest


def learn(here: Here, facts: ClusterFacts) -> Pause:
    """Record the latest pause, or its end, that a database node in sight knows, and return it; raises ServerError."""
    latest = standstill.latest(here.cluster, here.me.name, facts)
    if latest.place > here.record.pause.place and here.note_pause(latest):
        log.info(standstill.described(latest) if latest.paused else f"the pause of the cluster ended, by {latest.by}")
    return here.record.pause


def change(here: Here, request: PauseRequest) -> PauseAnswer:
    """Have a majority of the nodes record a pause or its end; do nothing if that is the present state.

    Raises UsageError for an unfit reason, and OperationError on a witness, if a reachable node's package is older than
    pauses, or if no majority records it.
    """
    _refuse_text(request)
    if Service.POSTGRESQL not in here.me.runs:
        hint = "run the same command on a node that runs PostgreSQL"
        raise OperationError(f"{here.me.name} runs no PostgreSQL, so no other node follows its pause", hint=hint)
    here.forget_looks()
    facts = here.look_at_all(fresh=True)
    present = standstill.latest(here.cluster, here.me.name, facts)
    if present.paused == request.paused:
        learn(here, facts)
        return PauseAnswer(present, changed=False)
    if request.paused and (older := standstill.unaware(here.cluster, facts)):
        reason = f"{', '.join(older)} would not notice it, because the package there is older"
        raise OperationError(f"the cluster cannot be paused: {reason}", hint=VERSIONS_DIFFER)
    new = Pause(present.serial + 1, request.paused, time.time(), request.by, request.reason)
    kind = EventKind.PAUSE if new.paused else EventKind.END_PAUSE
    what = f"{'pause' if new.paused else 'resume'} the cluster"
    with recording.timed(here, kind, what, why=f"{new.by} requested it{f': {new.reason}' if new.reason else ''}"):
        missing = _spread(here, facts, new)
    return PauseAnswer(new, changed=True, missing=missing)


def _refuse_text(request: PauseRequest) -> None:
    for name, text in (("reason", request.reason), ("name of the user", request.by)):
        if len(text) > LONGEST_REASON or not plain.is_one_line(text):
            hint = f"give one line of at most {LONGEST_REASON} characters"
            raise UsageError(f"the {name} is too long, or has a line break or a control character", hint=hint)


def _spread(here: Here, facts: ClusterFacts, new: Pause) -> tuple[str, ...]:
    """Record `new` on this node and all others, and return the nodes that did not record it."""
    verb = "pause" if new.paused else "resume"
    if not facts.majority(here.cluster):
        hint = "start more nodes; without a majority, no term can begin, so no standby is promoted either"
        raise OperationError(f"too few nodes answer to {verb} the cluster", hint=hint)
    if not here.note_pause(new):
        raise OperationError("another administrator was faster", hint="pgpoolctl status")
    answers = here.peers.ask_all(NotePauseRequest(new, here.cluster.fingerprint), seconds=LOOK_SECONDS)
    noted = {here.me.name, *(name for name, answer in answers.items() if answer.taken)}
    missing = tuple(node.name for node in here.cluster.nodes if node.name not in noted)
    if len(noted) < here.cluster.majority:
        hint = f"pgpoolctl {verb}, once more nodes answer; until then, nodes that have recorded it follow it"
        raise OperationError(f"only {', '.join(sorted(noted))} recorded it", hint=hint)
    return missing
