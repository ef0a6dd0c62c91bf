"""What can be done about a cluster: the output of `decide`. `node` is the one that it is done to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Found:
    """Make the node, with the data that it has, the first member: roles, extension, term 1.

    Like all that the cluster itself writes, with synchronous_commit = local: the standbys are yet to come.
    """

    node: str


@dataclass(frozen=True, slots=True)
class Clone:
    """Replace the node's data by a copy of `source`'s. The only action that loses data of a node."""

    node: str
    source: str


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Bring a former primary back as a standby of `source`: by pg_rewind where that is enough, else by a clone."""

    node: str
    source: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Bring the node back by pgpool-II's online recovery in two stages, where every node is a primary."""

    node: str


@dataclass(frozen=True, slots=True)
class GiveUpPlace:
    """Remember that the node no longer has every write, so that it is rebuilt and nothing waits for its start."""

    node: str


@dataclass(frozen=True, slots=True)
class StandApart:
    """Remember that clients may have written to the node alone, while few nodes answered and no term could be told."""

    node: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Start the node's PostgreSQL, which crashed, as the only one in service: the others are rebuilt from it."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a term with the nodes in service but `without`, before any pgpool-II serves without those that are away.

    `node` is the one that tells it to the others. What is away was not dismissed: it is rebuilt when it is back.
    """

    node: str
    term: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Tell all other nodes in service a new term, in which the node is not: pgpool-II goes on without it."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start the node's PostgreSQL as it is."""

    node: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Tell `term` to more than half of all nodes, then start the node's PostgreSQL as the primary that it was."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the node's PostgreSQL at once, since it takes writes that would be lost."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Tell `term` to more than half of all nodes, then make the standby the primary.

    `excuse`: the place of the one that this was decided by; where a later one is known, it is to be decided anew.
    None: whatever the nodes know.
    """

    node: str
    term: int
    excuse: tuple[int, int] | None = (0, 0)


@dataclass(frozen=True, slots=True)
class Lead:
    """Write down on every node in reach that the node, a primary already, is the one of `term`."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Let the standby receive from `primary`: by reload, without a restart."""

    node: str
    primary: str


@dataclass(frozen=True, slots=True)
class CreateSlots:
    """Create physical replication slots on the node."""

    node: str
    slots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StartPgpool:
    """Start pgpool-II on the node."""

    node: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Tell pgpool-II that the node is up."""

    node: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Tell pgpool-II that the node is down."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done on the node now; look again later."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class AwaitRecovery:
    """The node stays out until an administrator says `pgpoolctl recover NODE`.

    `source_in_sight`: there is a node to recover it from. Where there is none, that one has to come back first, or the
    node's own data has to count.
    """

    node: str
    reason: str
    source_in_sight: bool = True

    @property
    def hint(self) -> str:
        """The command that mends it."""
        command = f"pgpoolctl recover {self.node}"
        if self.source_in_sight:
            return command
        return (
            f"{command}, when the node that took its place is back; if that is gone for good, "
            f"pgpoolctl switchover --accept-loss {self.node}"
        )


@dataclass(frozen=True, slots=True)
class Refuse:
    """The node stops here: only an administrator can know what is right."""

    node: str
    reason: str
    hint: str


Deed = (
    Found | Clone | Rejoin | Rebuild | GiveUpPlace | StandApart | Serve | Begin | Dismiss | Start | Resume | Stop
    | Promote | Lead | Follow | CreateSlots | StartPgpool | Attach | Detach
)  # fmt: skip
"""The actions that change something (act.py)."""
Action = Deed | Wait | AwaitRecovery | Refuse


def said(action: Action) -> str:  # noqa: C901, PLR0911, PLR0912 - one case an action
    """Return an action in words, for the journal and for `pgpoolctl status`, with its reason and its hint.

    The words are spelt out: they stay the same when a class is renamed.
    """
    match action:
        case Found():
            return f"found {action.node}"
        case Clone():
            return f"clone {action.node} source {action.source}"
        case Rejoin():
            return f"rejoin {action.node} source {action.source}"
        case Rebuild():
            return f"rebuild {action.node}"
        case GiveUpPlace():
            return f"give up place {action.node}"
        case StandApart():
            return f"stand apart {action.node}"
        case Serve():
            return f"serve {action.node} term {action.term}"
        case Begin():
            return f"begin {action.node} term {action.term}"
        case Dismiss():
            return f"dismiss {action.node} term {action.term}"
        case Start():
            return f"start {action.node}"
        case Resume():
            return f"resume {action.node} term {action.term}"
        case Stop():
            return f"stop {action.node}: {action.reason}"
        case Promote():
            return f"promote {action.node} term {action.term}"
        case Lead():
            return f"lead {action.node} term {action.term}"
        case Follow():
            return f"follow {action.node} primary {action.primary}"
        case CreateSlots():
            return f"create slots {action.node}"
        case StartPgpool():
            return f"start pgpool {action.node}"
        case Attach():
            return f"attach {action.node}"
        case Detach():
            return f"detach {action.node}: {action.reason}"
        case Wait():
            return f"waits: {action.reason}"
        case AwaitRecovery():
            return f"waits for an administrator: {action.reason}; hint: {action.hint}"
        case Refuse():
            return f"stops here: {action.reason}; hint: {action.hint}"
        case _:
            assert_never(action)
