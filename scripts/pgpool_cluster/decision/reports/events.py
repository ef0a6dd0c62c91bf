"""Define the events that a node records: every decision that changed something, and its reason. Pure.

Each kind of event has a MESSAGE_ID for the journal, which never changes. docs/reference/events.md lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ...definition.cluster import Cluster
from ...ground import plain
from ..actions import (
    Action,
    Attach,
    AwaitRecovery,
    Begin,
    Clone,
    CreateSlots,
    Detach,
    Dismiss,
    DropAddress,
    Fence,
    Follow,
    Found,
    GiveUpPlace,
    Lead,
    Promote,
    Rebuild,
    Redirect,
    Refuse,
    Rejoin,
    Resume,
    Serve,
    StandApart,
    Start,
    StartPgpool,
    Stop,
    StopPgpool,
    TakeAddress,
    Wait,
)
from ..facts.facts import BackendState, ClusterFacts, NodeFacts
from ..situation import leading_node

LONGEST_TEXT = 400
"""Limit in characters of each text of an event. At 12 bytes a character in JSON, an event has less than 32 kB."""
_LAST_SECOND = 32_503_680_000.0
"""The year 3000, in seconds since 1970."""


class EventKind(StrEnum):
    """The kinds of events. The first ones are the actions of actions.py."""

    FOUND = "found"
    CLONE = "clone"
    REJOIN = "rejoin"
    REBUILD = "rebuild"
    GIVE_UP_PLACE = "give-up-place"
    STAND_APART = "stand-apart"
    SERVE = "serve"
    BEGIN = "begin"
    DISMISS = "dismiss"
    START = "start"
    RESUME = "resume"
    STOP = "stop"
    FENCE = "fence"
    PROMOTE = "promote"
    LEAD = "lead"
    FOLLOW = "follow"
    CREATE_SLOTS = "create-slots"
    START_PGPOOL = "start-pgpool"
    STOP_PGPOOL = "stop-pgpool"
    ATTACH = "attach"
    DETACH = "detach"
    REDIRECT = "redirect"
    TAKE_ADDRESS = "take-address"
    DROP_ADDRESS = "drop-address"
    CLAIM = "claim-term"
    GIVEN_UP = "given-up"
    FAILOVER = "failover"
    FAILOVER_REFUSED = "failover-refused"
    NEEDS_ADMINISTRATOR = "needs-administrator"
    RECOVER = "recover"
    SWITCHOVER = "switchover"
    RESTART = "restart"
    ACCEPT_LOSS = "accept-loss"
    HOLD = "hold"
    RELEASE = "release"
    PAUSE = "pause"
    END_PAUSE = "end-pause"


MESSAGE_IDS: Mapping[EventKind, str] = {
    EventKind.FOUND: "95a1ab5512a14821befda848ceecab79",
    EventKind.CLONE: "81653ac72522477da0350e3b8481a457",
    EventKind.REJOIN: "b03a4a1758114aee99e715c6bbd410cb",
    EventKind.REBUILD: "42cd9bc1f2bf485298be5a8a2d7fc62a",
    EventKind.GIVE_UP_PLACE: "0fc256032a4c43afab30c6bea74f83ed",
    EventKind.STAND_APART: "bf6b3aade12a4ba2b6cd132b7a540314",
    EventKind.SERVE: "6cbffb97e3ff48cf8d9665821acb7d2f",
    EventKind.BEGIN: "e4df2bbbeed0467f9efad25f5efedf66",
    EventKind.DISMISS: "5d72ed38d39e4821b303267f7bd7e9cd",
    EventKind.START: "abdd8e58635f4f8380fc7ef7afa82447",
    EventKind.RESUME: "afd5fea1009d4cdf9731fb865404892b",
    EventKind.STOP: "e8232556deaf49d5a4391f9e96c208b5",
    EventKind.FENCE: "b129657067724677b2209009486e6c72",
    EventKind.PROMOTE: "5f571aea91874b73be4c4b8e65b3bd0d",
    EventKind.LEAD: "678fcbc67f4a46469cb568a8c7c35ba2",
    EventKind.FOLLOW: "a509bfa035704ecc9810055b6dd0a2f5",
    EventKind.CREATE_SLOTS: "10a3fd1bddae4ff5baf5ac373239d42f",
    EventKind.START_PGPOOL: "e13a686507f44eda9bdd36010cf38ed4",
    EventKind.STOP_PGPOOL: "b37d41535ab84b85a193f679ad69e764",
    EventKind.ATTACH: "2c4d935403294dea9272e424d21ba7e3",
    EventKind.DETACH: "717cb3c780a84a41865ee344746ee074",
    EventKind.REDIRECT: "a09e14c2544746d3a4ace5235190f259",
    EventKind.TAKE_ADDRESS: "9cadc97869d64df482cc718f2f71a679",
    EventKind.DROP_ADDRESS: "94e085306e454cdfbb724c10d52ed056",
    EventKind.CLAIM: "d61286c47cbe43669f85f20c679be690",
    EventKind.GIVEN_UP: "2b44ed67a0fe43ccae8fac4c6103ce28",
    EventKind.FAILOVER: "2989d926d2834e3aa7e36ac484257c7e",
    EventKind.FAILOVER_REFUSED: "1c1fc4b9cd334034be9ce7e7b2ebd914",
    EventKind.NEEDS_ADMINISTRATOR: "9e691ea1942c43c58b76e25d9e845a6e",
    EventKind.RECOVER: "e7daa4c45ba043549c57eb83212c3945",
    EventKind.SWITCHOVER: "f7551b5f81534d4e9cb31aa535653cd5",
    EventKind.RESTART: "b95f5d5a631a43819ed5fa3d024f793f",
    EventKind.ACCEPT_LOSS: "dfcb1fca55c6458ebd2fbfdd5561affe",
    EventKind.HOLD: "d2fb93f351a346f4ad509fa7150e24af",
    EventKind.RELEASE: "71256638948e40438f99da69d2bcab5e",
    EventKind.PAUSE: "f1556a84bf9d4f1facb44aa8b3225816",
    EventKind.END_PAUSE: "b4aff5173eed4b238686780f39331ac1",
}
"""The MESSAGE_ID of each kind in the journal (sd-id128)."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a node did or decided.

    `time`: when it ended, in seconds since 1970 by the clock of `node`, which recorded it. `kind`: an EventKind, or one
    that only a newer version has. `term`: the latest term that the node knew. `seconds`: how long it took. `failed`:
    why it failed, "" if it succeeded. `seen`: the state of the nodes when it began. No text is longer than
    LONGEST_TEXT, or has a line break.
    """

    time: float
    node: str
    kind: str
    what: str
    seen: str = ""
    why: str = ""
    term: int = 0
    seconds: float = 0.0
    failed: str = ""

    @property
    def message_id(self) -> str:
        """The MESSAGE_ID of its kind, "" for a kind of a newer version."""
        return next((found for kind, found in MESSAGE_IDS.items() if kind == self.kind), "")

    @property
    def credible(self) -> bool:
        """Whether its time can be shown."""
        return 0 <= self.time < _LAST_SECOND

    def bounded(self) -> Event:
        """Return the event with each text as one line of at most LONGEST_TEXT printable characters."""
        texts = {name: _bounded(getattr(self, name)) for name in ("node", "kind", "what", "seen", "why", "failed")}
        return dataclasses.replace(self, **texts)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        """The event as one sentence."""
        outcome = f"failed after {self.seconds:.1f} s: {self.failed}" if self.failed else ""
        outcome = outcome or (f"done in {self.seconds:.1f} s" if self.seconds else "")
        head = f"{self.what}: {outcome}" if outcome else self.what
        return f"{head}, because {self.why}" if self.why else head

    @property
    def journal_fields(self) -> dict[str, str]:
        """The fields of its entry in the journal besides MESSAGE and PRIORITY."""
        found = {
            "NODE": self.node, "EVENT": self.kind, "WHAT": self.what, "SEEN": self.seen, "WHY": self.why,
            "TERM": str(self.term), "SECONDS": f"{self.seconds:.3f}", "FAILED": self.failed,
        }  # fmt: skip
        named = {f"PGPOOL_CLUSTER_{name}": value for name, value in found.items() if value}
        return {"MESSAGE_ID": self.message_id, **named} if self.message_id else named


def _bounded(text: str) -> str:
    line = " ".join(str(plain.shown(text)).split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def kind_of(action: Action) -> EventKind:
    """Return the kind of the event that records an action."""
    return _KINDS[type(action)][0]


def reason(action: Action) -> str:
    """Return why `decide` returns an action: its own reason, or the rule that leads to it."""
    match action:
        case Stop() | Fence() | StopPgpool() | Detach() | DropAddress() | Wait() | AwaitRecovery() | Refuse():
            return action.reason
        case _:
            return _KINDS[type(action)][1]


_KINDS: Mapping[type[Action], tuple[EventKind, str]] = {
    Found: (EventKind.FOUND, "it is the first database node, and no node in sight belongs to a cluster"),
    Clone: (EventKind.CLONE, "it has no complete copy of the cluster's data"),
    Rejoin: (EventKind.REJOIN, "another node is the primary"),
    Rebuild: (EventKind.REBUILD, "it does not have every write"),
    GiveUpPlace: (EventKind.GIVE_UP_PLACE, "it crashed, and other nodes may have later writes"),
    StandApart: (EventKind.STAND_APART, "its pgpool-II serves without the other nodes, and no majority answers"),
    Serve: (EventKind.SERVE, "no node in service runs, and it has the best claim"),
    Begin: (EventKind.BEGIN, "nodes that may believe to be in service are missing"),
    Dismiss: (EventKind.DISMISS, "pgpool-II serves without it"),
    Start: (EventKind.START, "it was down, and may start with its own data"),
    Resume: (EventKind.RESUME, "it was the primary, and no other node has taken its place"),
    Stop: (EventKind.STOP, ""),
    Fence: (EventKind.FENCE, ""),
    Promote: (EventKind.PROMOTE, "no primary is in sight, and it has received the most WAL"),
    Lead: (EventKind.LEAD, "it is the primary, and a later term than its own is known"),
    Follow: (EventKind.FOLLOW, "that node is the primary"),
    CreateSlots: (EventKind.CREATE_SLOTS, "standbys need them"),
    StartPgpool: (EventKind.START_PGPOOL, "a primary is in sight, and pgpool-II does not answer"),
    StopPgpool: (EventKind.STOP_PGPOOL, ""),
    Attach: (EventKind.ATTACH, "its state is correct, and pgpool-II sends it no clients"),
    Detach: (EventKind.DETACH, ""),
    Redirect: (EventKind.REDIRECT, "that node is the primary"),
    TakeAddress: (EventKind.TAKE_ADDRESS, "its pgpool-II serves the virtual address, and no other node has it"),
    DropAddress: (EventKind.DROP_ADDRESS, ""),
    Wait: (EventKind.NEEDS_ADMINISTRATOR, ""),
    AwaitRecovery: (EventKind.NEEDS_ADMINISTRATOR, ""),
    Refuse: (EventKind.NEEDS_ADMINISTRATOR, ""),
}


def seen(cluster: Cluster, facts: ClusterFacts) -> str:
    """Return the state of every node in one line, as the node that decided saw it; "" without any facts."""
    if not facts.nodes:
        return ""
    states = [
        f"{node.name} {_state(facts.of(node.name), database=node in cluster.databases)}" for node in cluster.nodes
    ]
    leader = leading_node(cluster, facts)
    pgpool = facts.of(leader).pgpool if leader else None
    if not cluster.uses_watchdog:
        return "; ".join(states)
    if pgpool is None:
        return f"{'; '.join(states)}; no pgpool-II leads"
    down = [name for name, state in pgpool.backends.items() if state is not BackendState.UP]
    return f"{'; '.join(states)}; pgpool-II of {leader} leads{f', and has detached {_all(down)}' if down else ''}"


def _all(names: list[str]) -> str:
    return ", ".join(names)


def _state(found: NodeFacts, *, database: bool) -> str:
    if not found.reachable:
        return "is unreachable"
    if not database:
        return "answers"
    if not found.up:
        return f"has PostgreSQL {found.postgresql}"
    position = f" at {found.position}" if found.position is not None else ""
    if found.in_recovery:
        return f"is a standby of {found.follows or 'no node'}{position}{'' if found.streaming else ', not streaming'}"
    return f"accepts writes{position}, led term {found.led}"
