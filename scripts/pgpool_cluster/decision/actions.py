"""Define the actions that `decide` returns. `node` is the node that an action changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Found:
    """Make the node, with its present data, the first member: create roles and extensions, and begin term 1.

    The agent writes with synchronous_commit = local, as it always does, because there are no standbys yet.
    """

    node: str


@dataclass(frozen=True, slots=True)
class Clone:
    """Replace the node's data with a copy of `source`. No other action deletes a node's data."""

    node: str
    source: str


@dataclass(frozen=True, slots=True)
class Rejoin:
    """Make a former primary a standby of `source`: with pg_rewind if that suffices, otherwise with a clone."""

    node: str
    source: str


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Rebuild the node with pgpool-II's online recovery in two stages, in a mode where every node is a primary."""

    node: str


@dataclass(frozen=True, slots=True)
class GiveUpPlace:
    """Record that the node no longer has every write. It is then rebuilt, and no other node waits for its start."""

    node: str


@dataclass(frozen=True, slots=True)
class StandApart:
    """Record that clients may have written to the node alone, because too few nodes answered to begin a term."""

    node: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Start the node's crashed PostgreSQL as the only one in service. The other nodes are rebuilt from it."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a term with the nodes in service, except `without`, before a pgpool-II serves without the missing nodes.

    `node` sends the term to the others. A missing node was not dismissed. It is rebuilt when it is reachable again.
    """

    node: str
    term: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Send a new term to all other nodes in service. `node` is out of service in it: pgpool-II serves without it."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start the node's PostgreSQL, and keep its data and role."""

    node: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Claim `term` from more than half of all nodes, then start the node's PostgreSQL as the primary again."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the node's PostgreSQL immediately, because it accepts writes that would be lost."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fence:
    """Kill the node's PostgreSQL at once, because another node may have been promoted without it."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Claim `term` from more than half of all nodes, then promote the standby.

    `excuse`: the place of the excuse that the decision rests on. The promotion fails if a node knows a later excuse.
    None disables this check.
    """

    node: str
    term: int
    excuse: tuple[int, int] | None = (0, 0)


@dataclass(frozen=True, slots=True)
class Lead:
    """Record on every reachable node that this node, already a primary, leads in `term`."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class Follow:
    """Point the standby at `primary`, the primary of `term`, with a reload, without a restart.

    If the standby knows a later term by then, it does not follow. 0 disables this check.
    """

    node: str
    primary: str
    term: int = 0


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
class StopPgpool:
    """Stop pgpool-II on the node. StartPgpool starts it again."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach the node to pgpool-II."""

    node: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Detach the node from pgpool-II. `certain`: the reason does not depend on which node is the primary."""

    node: str
    reason: str
    certain: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """Have the pgpool-II of this node send writes to `primary`; that ends the sessions of its clients."""

    node: str
    primary: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Report that no action is possible on the node now. The agent decides again in its next round."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class AwaitRecovery:
    """Report that the node stays out of use until an administrator runs `pgpoolctl recover NODE`.

    `source_in_sight`: the source of that recovery is reachable. If it is not, it must become reachable first, or an
    administrator must accept the node's own data. `returns`: once the source is reachable, no command is necessary.
    """

    node: str
    reason: str
    source_in_sight: bool = True
    returns: bool = False

    @property
    def hint(self) -> str:
        """The command that recovers the node."""
        command = f"pgpoolctl recover {self.node}"
        if self.source_in_sight:
            return command
        command = "the node rejoins by itself" if self.returns else command
        return (
            f"{command}, when the node promoted in its place is back; if that node is lost for good, "
            f"pgpoolctl switchover --accept-loss {self.node}"
        )


@dataclass(frozen=True, slots=True)
class Refuse:
    """Report that the node takes no further action, because only an administrator can decide."""

    node: str
    reason: str
    hint: str


Deed = (
    Found | Clone | Rejoin | Rebuild | GiveUpPlace | StandApart | Serve | Begin | Dismiss | Start | Resume | Stop
    | Fence | Promote | Lead | Follow | CreateSlots | StartPgpool | StopPgpool | Attach | Detach | Redirect
)  # fmt: skip
"""The actions that change something (act.py)."""
Action = Deed | Wait | AwaitRecovery | Refuse


def said(action: Action) -> str:  # noqa: C901, PLR0911, PLR0912 - one case an action
    """Return the text of an action for the journal and for `pgpoolctl status`, with its reason and its hint.

    The text does not use the names of the classes, so it stays the same when a class is renamed.
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
        case Fence():
            return f"fence {action.node}: {action.reason}"
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
        case StopPgpool():
            return f"stop pgpool {action.node}: {action.reason}"
        case Attach():
            return f"attach {action.node}"
        case Detach():
            return f"detach {action.node}: {action.reason}"
        case Redirect():
            return f"redirect pgpool of {action.node} primary {action.primary}"
        case Wait():
            return f"waits: {action.reason}"
        case AwaitRecovery():
            waiting = "waits" if action.returns else "waits for an administrator"
            return f"{waiting}: {action.reason}; hint: {action.hint}"
        case Refuse():
            return f"stops here: {action.reason}; hint: {action.hint}"
        case _:
            assert_never(action)
