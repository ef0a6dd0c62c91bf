"""The notes of the nodes in `status`: why a node waits, what fails on it, or why it is out of reach."""

from __future__ import annotations

from ..postgresql import locales
from ..transport import reach
from ..transport.protocol import NoteRequest
from .node import Here

_NOTE_SECONDS = 2.5


def of_all(here: Here) -> dict[str, str]:
    """Return the note of every node by its name; "" for a node that works without one."""
    answers = here.peers.ask_all(NoteRequest(), seconds=_NOTE_SECONDS)
    notes = {name: answer.note for name, answer in answers.items()}
    unreached = {
        name: f"{peer.problem}; hint: {reach.fix(peer.problem, name)}" if peer.problem else ""
        for name, peer in here.peers.peers.items() if name not in notes
    }  # fmt: skip
    return {**notes, **unreached, here.me.name: own(here)}


def own(here: Here) -> str:
    """Return this node's note with hints; "" if there is nothing to say."""
    copies = here.under_way.copies.said if here.record.copying else ""
    returns = here.under_way.returns.said
    texts = ("" if returns else copies, here.note.value, returns, here.chores.value, _locked_out(here))
    return "; ".join(text for text in texts if text)


def _locked_out(here: Here) -> str:
    """Return why a running PostgreSQL rejects every login, with a hint; "" if it does not refuse them."""
    database = here.database
    absent = locales.refused(database.refused) if database is not None else ""
    if database is None or not (absent or database.shut):
        return ""
    if not absent:
        hint = "see its log (pg_lsclusters shows the path); psql as postgres on this node shows the same error"
        return f"PostgreSQL rejects the agent's login: {database.shut}; hint: {hint}"
    reason = f"PostgreSQL rejects every login: this machine has no locale {absent}"
    return f"{reason}; hint: {locales.making([absent])}; systemctl restart {database.instance.unit}"
