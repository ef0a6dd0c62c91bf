"""Define the protocol between nodes, and between a node's agent and its local programs: requests and their answers.

A request is sent as one JSON object. `do` is its verb, and the fields of its class are the other keys. A field that is
None is omitted. `lines.py` adds the keys of the connection: the number of a request, and `version`.

Nodes of two versions communicate during an upgrade, so the protocol only grows:
- A node ignores an unknown key. A new field has a default, for nodes that do not send it.
- A node refuses an unknown verb, and the requester must handle the refusal.
- Each line has the sender's VERSION. Version 1 did not send it yet, so a line without one is of version 1.

A new request needs a class here, a place in AnyRequest and in rights.py, and a case in answers.py. mypy and
test_rights.py report a missing one.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

from ..decision.facts import terms
from ..decision.facts.facts import Lsn, NodeFacts, Standing
from ..decision.facts.pause import Pause
from ..decision.facts.terms import KnownTerm, Term
from ..decision.reports.chronology import ClusterHistory
from ..decision.reports.events import Event
from ..decision.reports.report import Report
from ..decision.restart_plan import RestartStep
from ..ground.check import Check
from ..ground.errors import UsageError
from . import wire

VERSION = 2
"""2: lines name the version, and a value of another type than its field's is refused."""
A = TypeVar("A")
VERSIONS_DIFFER = "install the same version of pgpool2-cluster on every node"


def _place(value: object) -> tuple[int, int]:
    """Read the place of an excuse; raises ValueError for a value that no primary can have sent."""
    match value:
        case [int(term), int(serial)] if terms.plausible(term) and terms.plausible(serial):
            return term, serial
    raise ValueError(f"{reprlib.repr(value)} is not the position of an excuse")


def _serial(value: object) -> int:
    """Read the serial of an excuse; raises UsageError for a value that no primary can have sent."""
    if isinstance(value, int) and terms.plausible(value):
        return value
    raise UsageError("a primary's excuse has no number", hint=VERSIONS_DIFFER)


ExcusePlace = Annotated[tuple[int, int], _place]
"""The term and the serial of an excuse (excuse.py)."""
OF_AN_OLDER_PACKAGE = (-1, -1)
"""The place assumed for a node whose package is older than excuses: such a node never blocks a claim."""


# Answers


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a request that returns no data."""


@dataclass(frozen=True, slots=True)
class NoteAnswer:
    """The reason why the node waits or refuses an action, with a hint; "" if it does neither."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """The checks of one node, or of every reachable node."""

    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """The node's time in seconds since 1970, and the fingerprints of its cluster.key and its cluster.yml.

    `package`: version of pgpool2-cluster; "" from nodes that do not report it.
    """

    clock: float
    key: str = ""
    file: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True)
class WaitingAnswer:
    """The settings that wait for a restart of PostgreSQL, in one line; "" if there are none."""

    waiting: str


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """`parameters`: those that a restart of the node's server would change.

    `configured`: the values with which it would start, of the parameters that a standby must match (matching.py).
    `fault`: why it would not start, and `fix`: what to do about it; "" if no reason is known.
    """

    parameters: tuple[str, ...]
    configured: Mapping[str, int]
    fault: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class RestartPlanAnswer:
    """The restarts to request one after the other; none if no node needs one."""

    steps: tuple[RestartStep, ...]


@dataclass(frozen=True, slots=True)
class ConvergeAnswer:
    """The actions of one round of the agent and the reasons for waiting, one line each."""

    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TermAnswer:
    """`taken`: the node has recorded the term. `excuse`: the place of the latest excuse that it knows.

    `excused`: the names in that excuse.
    `cut`: as requested, it acknowledges nothing to a former primary any more. None if that was not requested, or the
    node's package is older.
    `timeline` and `position`: the end of a standby's WAL after that; None if unknown.
    """

    taken: bool = False
    excuse: ExcusePlace = OF_AN_OLDER_PACKAGE
    cut: bool | None = None
    timeline: int | None = None
    position: Lsn | None = None
    excused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExcuseAnswer:
    """`taken`: the node has recorded the excuse, and knows no later one."""

    taken: bool = False


@dataclass(frozen=True, slots=True)
class NotePauseAnswer:
    """`taken`: the node has recorded the pause or its end, and knows no later one."""

    taken: bool = False


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """The pause or its end that is in force. `changed`: this request began it. `missing`: nodes without a record."""

    pause: Pause
    changed: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryAnswer:
    """The events of one node. `shortened`: older ones that match are left out."""

    events: tuple[Event, ...] = ()
    shortened: bool = False


@dataclass(frozen=True, slots=True)
class FailoverAnswer:
    """The actions of the failover, one line each."""

    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MayStartAnswer:
    """`go`: the server may start. `why`: the reason if it may not."""

    go: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class SwitchoverAnswer:
    """The name of the new primary."""

    primary: str


@dataclass(frozen=True, slots=True)
class QueueAnswer:
    """The number of clients with an open transaction or a running statement, which do not wait yet."""

    busy: int = 0


@dataclass(frozen=True, slots=True)
class CancelActiveAnswer:
    """The number of cancelled statements."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class SilentAnswer:
    """The nodes that no longer send packets to the answering node."""

    silent: frozenset[str]


@dataclass(frozen=True, slots=True)
class UserList:
    """All users as of change number `serial`. users.py validates the entries."""

    serial: int
    entries: Mapping[str, str] = field(repr=False)
    mark: str


# Requests between nodes


@dataclass(frozen=True, slots=True)
class Request(Generic[A]):
    """A request whose answer is an `A`. "You" in the docstrings of its subclasses is the receiving node."""

    do: ClassVar[str]
    """The verb of the request."""


@dataclass(frozen=True, slots=True)
class LookRequest(Request[NodeFacts]):
    """Return your facts, at most a moment old. `fresh`: collect new ones."""

    do = "look"
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class NoteRequest(Request[NoteAnswer]):
    """Return your note. The answer comes from memory, so this also tests whether a node is reachable."""

    do = "note"


@dataclass(frozen=True, slots=True)
class CheckRequest(Request[CheckAnswer]):
    """Run your checks. `all`: request those of all other nodes, too."""

    do = "check"
    all: bool = False


@dataclass(frozen=True, slots=True)
class ClockRequest(Request[ClockAnswer]):
    """Return your time and the fingerprints of your cluster.key and cluster.yml."""

    do = "clock"


@dataclass(frozen=True, slots=True)
class TermRequest(Request[TermAnswer]):
    """Record a new term.

    `file`: fingerprint of the requester's cluster.yml. A node with another one records nothing. `serves`: you are in
    service in this term. `restart`: as in NodeFacts (facts.py); 0 for none. `cut`: before you answer, end what you
    acknowledge to a former primary: a standby stops to receive from it, a primary is killed. `loss`: in this term, an
    administrator accepts the loss of commits that only other nodes have. `pause`: serial of the latest pause that the
    requester knows. A node that knows a later one, which has not ended, records nothing.
    """

    do = "term"
    term: Term
    file: str = ""
    serves: bool = False
    restart: KnownTerm = 0
    cut: bool = False
    loss: bool = False
    pause: KnownTerm = 0


@dataclass(frozen=True, slots=True)
class ExcuseRequest(Request[ExcuseAnswer]):
    """Record a primary's excuse (excuse.py). `file` is as in TermRequest."""

    do = "excuse"
    term: Term
    serial: Annotated[int, _serial]
    names: tuple[str, ...]
    file: str


@dataclass(frozen=True, slots=True)
class PromoteRequest(Request[Done]):
    """Become the primary of `term`.

    `excuse`: the place of the excuse that the decision rests on; None for an administrator's decision. If the requester
    runs no PostgreSQL, the receiver decides by its own facts.
    """

    do = "promote"
    term: Term
    excuse: ExcusePlace | None = None


@dataclass(frozen=True, slots=True)
class FollowRequest(Request[Done]):
    """Stream from `primary` from now on, unless you know a later term than `term`; 0 disables this check."""

    do = "follow"
    primary: str
    term: KnownTerm = 0


@dataclass(frozen=True, slots=True)
class GoOnRequest(Request[Done]):
    """Begin a term without `node`, or without all nodes that are not in service, if your own facts require it."""

    do = "go-on"
    node: str | None = None


@dataclass(frozen=True, slots=True)
class RecoverRequest(Request[Done]):
    """Rebuild `node`. `force`: even if it needs no recovery. `attach`: answer when pgpool-II has attached it."""

    do = "recover"
    node: str
    force: bool = False
    attach: bool = True


@dataclass(frozen=True, slots=True)
class SwitchoverRequest(Request[SwitchoverAnswer]):
    """Make `node`, or the most advanced standby, the primary.

    `accept_loss`: let the data of `node` count although a node that does not answer may have more. `drain`: seconds
    that open transactions get to end.
    """

    do = "switchover"
    node: str | None = None
    accept_loss: bool = False
    drain: float = 5.0


@dataclass(frozen=True, slots=True)
class QueueRequest(Request[QueueAnswer]):
    """Let new clients and new statements of your pgpool-II wait, for at most `seconds` from the first such request.

    You limit the time yourself, too (client_queue.py).
    """

    do = "queue"
    seconds: float


@dataclass(frozen=True, slots=True)
class EndQueueRequest(Request[Done]):
    """Let the clients of your pgpool-II go on. With `primary`, your pgpool-II first sends writes to that node."""

    do = "end-queue"
    primary: str = ""


@dataclass(frozen=True, slots=True)
class PendingRequest(Request[PendingAnswer]):
    """Return what a restart of your server would change."""

    do = "pending"


@dataclass(frozen=True, slots=True)
class RestartRequest(Request[Done]):
    """Restart a server as `step` says, and answer when its node serves again. You refuse while the cluster is not well.

    A request for another node is forwarded.
    """

    do = "restart"
    step: RestartStep


@dataclass(frozen=True, slots=True)
class StartRequest(Request[Done]):
    """Start the server of the node with this name or address if it is down (pgpool_remote_start)."""

    do = "start"
    host: str


@dataclass(frozen=True, slots=True)
class AttachRequest(Request[Done]):
    """Attach `node` to pgpool-II, which then sends clients to it.

    `recovering`: this is a step of a longer operation, which waits for the effect itself.
    """

    do = "attach"
    node: str
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class DetachRequest(Request[Done]):
    """Detach `node` from pgpool-II. `recovering` is as in AttachRequest, and also permits detaching the primary."""

    do = "detach"
    node: str
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class TakeBackRequest(Request[Done]):
    """Attach `node` to your pgpool-II, and answer when it is attached. `node` sends this itself once it streams."""

    do = "take-back"
    node: str


@dataclass(frozen=True, slots=True)
class LetGoRequest(Request[Done]):
    """Detach `node` from your pgpool-II, which may have done so already."""

    do = "let-go"
    node: str


@dataclass(frozen=True, slots=True)
class HoldRequest(Request[Done]):
    """Record whether an administrator keeps clients off you."""

    do = "hold"
    hold: bool


@dataclass(frozen=True, slots=True)
class NotePauseRequest(Request[NotePauseAnswer]):
    """Record a pause of the cluster, or its end. `file` is as in TermRequest."""

    do = "note-pause"
    pause: Pause
    file: str


@dataclass(frozen=True, slots=True)
class HistoryRequest(Request[HistoryAnswer]):
    """Return your last `most` events since a time, in seconds since 1970. The answer comes from memory."""

    do = "history"
    most: int
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class RoleRequest(Request[Done]):
    """Change the password of a database role on your own server only; None forbids the role to log in."""

    do = "role"
    name: str
    verifier: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UserRequest(Request[Done]):
    """Create or change a user on the primary and in every node's list; without `verifier` and `entry`, remove it.

    `verifier`: SCRAM verifier for PostgreSQL. `entry`: entry for pool_passwd, encrypted with the pool key that has this
    `mark`.
    """

    do = "user"
    name: str
    verifier: str | None = field(default=None, repr=False)
    entry: str | None = field(default=None, repr=False)
    mark: str = ""


@dataclass(frozen=True, slots=True)
class UsersRequest(Request[UserList]):
    """Store `new` if it is later than your list of users, then return your list."""

    do = "users"
    new: UserList | None = None


# Requests of a recovery in two stages


@dataclass(frozen=True, slots=True)
class WatchRequest(Request[Done]):
    """Begin a vigil (vigil.py), because a recovery is about to begin."""

    do = "watch"


@dataclass(frozen=True, slots=True)
class PcpRecoveryRequest(Request[Done]):
    """Recover `node` with your pgpool-II."""

    do = "pcp-recovery"
    node: str


@dataclass(frozen=True, slots=True)
class CopyRequest(Request[Done]):
    """Run the first stage: replace your data with a copy of the data of `source`."""

    do = "copy"
    source: str


@dataclass(frozen=True, slots=True)
class TakeUpRequest(Request[Done]):
    """Run the second stage: replay the WAL of `source` up to `position`, an LSN, and serve in `term`."""

    do = "take-up"
    source: str
    position: str
    term: Term


@dataclass(frozen=True, slots=True)
class WhyRequest(Request[Done]):
    """Record that your recovery has failed for this reason."""

    do = "why"
    why: str


@dataclass(frozen=True, slots=True)
class CancelActiveRequest(Request[CancelActiveAnswer]):
    """Cancel clients' statements, but a writing one only if it began in the last `since` seconds."""

    do = "cancel-active"
    since: float


@dataclass(frozen=True, slots=True)
class StandingRequest(Request[Standing]):
    """Return the state of your pgpool-II in the watchdog."""

    do = "standing"


@dataclass(frozen=True, slots=True)
class SilentRequest(Request[SilentAnswer]):
    """Return the nodes that no longer send packets to you."""

    do = "silent"


# Requests of programs on the node itself


@dataclass(frozen=True, slots=True)
class StatusRequest(Request[Report]):
    """Report on the whole cluster."""

    do = "status"


@dataclass(frozen=True, slots=True)
class PauseRequest(Request[PauseAnswer]):
    """Pause the cluster, or end its pause, on every node. `by`: the user, as `root@pg1`."""

    do = "pause"
    paused: bool
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClusterHistoryRequest(Request[ClusterHistory]):
    """Return the last `most` events of all nodes since a time, in seconds since 1970."""

    do = "cluster-history"
    most: int
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class WaitingRequest(Request[WaitingAnswer]):
    """Return the settings that wait for a restart of PostgreSQL."""

    do = "waiting"


@dataclass(frozen=True, slots=True)
class RestartPlanRequest(Request[RestartPlanAnswer]):
    """Plan the restarts of `nodes`, or of all without any. `pending`: only of those that have parameters pending.

    `back`: the present primary is the primary again at the end.
    """

    do = "restart-plan"
    nodes: tuple[str, ...] = ()
    pending: bool = False
    back: bool = False


@dataclass(frozen=True, slots=True)
class ConvergeRequest(Request[ConvergeAnswer]):
    """Collect facts, decide and act once."""

    do = "converge"


@dataclass(frozen=True, slots=True)
class FailoverRequest(Request[FailoverAnswer]):
    """Handle the failure of the backend with the number `failed`, which pgpool-II has detached."""

    do = "failover"
    failed: int


@dataclass(frozen=True, slots=True)
class MayStartRequest(Request[MayStartAnswer]):
    """Decide whether the unit postgresql@`instance`.service may start its server."""

    do = "may-start"
    instance: str


@dataclass(frozen=True, slots=True)
class FirstStageRequest(Request[Done]):
    """Run recovery_1st_stage_command for the backend with this number."""

    do = "first-stage"
    backend: int


@dataclass(frozen=True, slots=True)
class SecondStageRequest(Request[Done]):
    """Run recovery_2nd_stage_command for the backend with this number."""

    do = "second-stage"
    backend: int


AnyRequest = (
    LookRequest | NoteRequest | CheckRequest | ClockRequest | TermRequest | ExcuseRequest | PromoteRequest
    | FollowRequest | GoOnRequest | RecoverRequest | SwitchoverRequest | QueueRequest | EndQueueRequest | StartRequest
    | AttachRequest | DetachRequest
    | TakeBackRequest | LetGoRequest | HoldRequest | NotePauseRequest | HistoryRequest | RoleRequest | UserRequest
    | UsersRequest | WatchRequest | PcpRecoveryRequest | CopyRequest | TakeUpRequest | WhyRequest | CancelActiveRequest
    | StandingRequest | SilentRequest | PendingRequest | RestartRequest
    | StatusRequest | PauseRequest | ClusterHistoryRequest
    | WaitingRequest | RestartPlanRequest | ConvergeRequest | FailoverRequest | MayStartRequest | FirstStageRequest
    | SecondStageRequest
)  # fmt: skip
"""Every request that an agent answers."""
REQUESTS: Mapping[str, type[Request[Any]]] = {kind.do: kind for kind in get_args(AnyRequest)}
"""The requests by verb."""


def encode(request: Request[Any]) -> dict[str, object]:
    """Return the JSON object of a request."""
    found = {name: value for name, value in wire.fields(request).items() if value is not None}
    return {"do": request.do, **found}


def decode(values: Mapping[str, object]) -> Request[Any]:
    """Return the request from an object that `encode` returned; raises UsageError for anything else."""
    verb = values.get("do")
    kind = REQUESTS.get(verb) if isinstance(verb, str) else None
    if kind is None:
        raise UsageError(f"unknown request {reprlib.repr(verb)}", hint=VERSIONS_DIFFER)
    try:
        return wire.read(kind, values, kind.do)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"invalid request {kind.do!r}: {error}", hint=VERSIONS_DIFFER) from error


def encode_answer(answer: object) -> dict[str, object]:
    """Return the JSON object of an answer."""
    return wire.fields(answer)


def decode_answer(request: Request[A], values: object) -> A:
    """Return the answer to `request` from an object of `encode_answer`; raises ValueError for anything else."""
    try:
        return wire.read(answer_of(type(request)), values, f"the answer to {request.do!r}")
    except UsageError as error:
        raise ValueError(error.message) from error


def answer_of(kind: type[Request[A]]) -> type[A]:
    """Return the type of the answer to requests of type `kind`."""
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    found: type[A] = get_args(base)[0]
    return found
