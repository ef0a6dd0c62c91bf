"""Record what another node claims or announces, and answer whether this node has recorded it.

A claim, an excuse and a pause take effect once a majority has recorded them. A node with another cluster.yml would
count another majority, so this node records nothing from it.
"""

from __future__ import annotations

from dataclasses import replace

from ...decision.facts.excuse import Excuse
from ...node.node import Here
from ...transport.protocol import (
    ExcuseAnswer,
    ExcuseRequest,
    NotePauseAnswer,
    NotePauseRequest,
    TermAnswer,
    TermRequest,
)
from . import cutting


def note_term(here: Here, request: TermRequest) -> TermAnswer:
    """Record a new term and, if the request says so, that this node is in service in it.

    During a pause that the requester does not know of, this node records no term, so no majority records one. Before a
    promotion, this node first gives up what it acknowledges to a former primary.
    """
    excuse, pause = here.record.excuse, here.record.pause
    if request.file not in ("", here.cluster.fingerprint) or (pause.paused and request.pause < pause.serial):
        return TermAnswer(taken=False, excuse=excuse.place)
    changes = {"led": request.term, "restart": request.restart, "apart": False} if request.serves else {}
    loss = {"loss": request.term} if request.loss else {}
    with here.under_way.upstream:
        given_up = cutting.give_up(here) if request.cut and request.term > here.record.term else None
        taken = here.note_term(request.term, **changes, **loss)
    given_up = None if here.under_way.promoting else given_up  # its own claim may take effect now
    excuse, cut = here.record.excuse, given_up is not None if request.cut else None
    answer = TermAnswer(taken, excuse.place, cut=cut, excused=excuse.names)
    if given_up is None or not given_up.standby:
        return answer
    return replace(answer, timeline=given_up.timeline, position=given_up.position)


def note_excuse(here: Here, request: ExcuseRequest) -> ExcuseAnswer:
    """Record a primary's excuse of its standbys."""
    if request.file != here.cluster.fingerprint:
        return ExcuseAnswer(taken=False)
    return ExcuseAnswer(here.note_excuse(Excuse(request.term, request.serial, request.names)))


def note_pause(here: Here, request: NotePauseRequest) -> NotePauseAnswer:
    """Record a pause, or the end of one."""
    if request.file != here.cluster.fingerprint:
        return NotePauseAnswer(taken=False)
    return NotePauseAnswer(here.note_pause(request.pause))
