"""The protocol between nodes, and between a node's agent and the programs on it: a request and its answer per verb.

On the wire a request is one JSON object: `do` is its verb, the fields of its class are the other keys. A field that is
None is left out. `lines.py` adds what belongs to the connection: the number of a request, and `version`.

Nodes of two versions talk to each other during an upgrade, so the protocol only grows:
- A key that a node does not know is ignored; a new field has a default, for the nodes that do not send it.
- A verb that a node does not know is refused, and the asker has to bear that.
- Each line names the sender's VERSION. Version 1 did not name it yet, so a line without one is of version 1.

A new request needs a class here, in AnyRequest too, a place in rights.py and a case in answers.py: mypy and
test_rights.py find what is missing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

from . import terms, wire
from .check import Check
from .errors import UsageError
from .facts import NodeFacts, Standing
from .report import Report
from .terms import KnownTerm, Term

VERSION = 2
"""2: lines name the version, and a value of another type than its field's is refused."""
A = TypeVar("A")
VERSIONS_DIFFER = "the nodes have different versions"


def _place(value: object) -> tuple[int, int]:
    """Read the place of an excuse; raises ValueError for what no primary can have told."""
    match value:
        case [int(term), int(serial)] if terms.plausible(term) and terms.plausible(serial):
            return term, serial
    raise ValueError(f"{reprlib.repr(value)} is no place of an excuse")


def _serial(value: object) -> int:
    """Read the serial of an excuse; raises UsageError for what no primary can have told."""
    if isinstance(value, int) and terms.plausible(value):
        return value
    raise UsageError("a primary's excuse has no number", hint=VERSIONS_DIFFER)


Place = Annotated[tuple[int, int], _place]
"""The term and the serial of an excuse (excuse.py)."""
OF_AN_OLDER_PACKAGE = (-1, -1)
"""The place that counts for a node whose package is older than excuses: it cannot hold one against a claim."""


# Answers


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a request that has nothing else to tell."""


@dataclass(frozen=True, slots=True)
class NoteAnswer:
    """What the node waits for or refuses to do, with a hint; "" for nothing."""

    note: str = ""


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """The checks of one node, or of every node in sight."""

    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class ClockAnswer:
    """The node's time in seconds since 1970, and the fingerprints of its cluster.key and its cluster.yml."""

    clock: float
    key: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class WaitingAnswer:
    """What waits for a restart of PostgreSQL, in one line; "" for nothing."""

    waiting: str


@dataclass(frozen=True, slots=True)
class ConvergeAnswer:
    """What one round of the agent did or waits for, a line each."""

    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TermAnswer:
    """`taken`: the node has noted the term. `excuse`: the place of the latest excuse that it knows."""

    taken: bool = False
    excuse: Place = OF_AN_OLDER_PACKAGE


@dataclass(frozen=True, slots=True)
class ExcuseAnswer:
    """`taken`: the node has noted the excuse, and knows none later."""

    taken: bool = False


@dataclass(frozen=True, slots=True)
class FailoverAnswer:
    """What there was to do, a line for each action."""

    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MayStartAnswer:
    """`go`: the server may start; `why` says why not."""

    go: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class SwitchoverAnswer:
    """The node that is the primary now."""

    primary: str


@dataclass(frozen=True, slots=True)
class CancelActiveAnswer:
    """How many statements were cancelled."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class SilentAnswer:
    """The nodes that send the answering node no packet any more."""

    silent: frozenset[str]


@dataclass(frozen=True, slots=True)
class UserList:
    """All users as of change number `serial`; whether they can be users is for users.py to tell."""

    serial: int
    entries: Mapping[str, str] = field(repr=False)
    mark: str


# Requests between nodes


@dataclass(frozen=True, slots=True)
class Request(Generic[A]):
    """A request whose answer is an `A`."""

    do: ClassVar[str]
    """Its verb."""


@dataclass(frozen=True, slots=True)
class LookRequest(Request[NodeFacts]):
    """Tell your facts: at most a moment old, or `fresh`."""

    do = "look"
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class NoteRequest(Request[NoteAnswer]):
    """Tell your note. Answered from memory, so it also shows that a node is in reach."""

    do = "note"


@dataclass(frozen=True, slots=True)
class CheckRequest(Request[CheckAnswer]):
    """Run your checks; `all`: have all other nodes run theirs, too."""

    do = "check"
    all: bool = False


@dataclass(frozen=True, slots=True)
class ClockRequest(Request[ClockAnswer]):
    """Tell your time, and which cluster.key and cluster.yml you have."""

    do = "clock"


@dataclass(frozen=True, slots=True)
class TermRequest(Request[TermAnswer]):
    """Note a new term.

    `file`: fingerprint of the asker's cluster.yml; a node with another one notes nothing. `serves`: you are in service
    in this term. `restart`: from which term on a node comes back without being asked, 0 for none (facts.py).
    """

    do = "term"
    term: Term
    file: str = ""
    serves: bool = False
    restart: KnownTerm = 0


@dataclass(frozen=True, slots=True)
class ExcuseRequest(Request[ExcuseAnswer]):
    """Note a primary's excuse (excuse.py). `file` is as in TermRequest."""

    do = "excuse"
    term: Term
    serial: Annotated[int, _serial]
    names: tuple[str, ...]
    file: str


@dataclass(frozen=True, slots=True)
class PromoteRequest(Request[Done]):
    """Become the primary of `term`.

    `excuse`: the place of the excuse that the decision rests on; None for an administrator's decision. Where a node
    without PostgreSQL asks, the asked node decides by its own facts.
    """

    do = "promote"
    term: Term
    excuse: Place | None = None


@dataclass(frozen=True, slots=True)
class FollowRequest(Request[Done]):
    """Receive from `primary` from now on."""

    do = "follow"
    primary: str


@dataclass(frozen=True, slots=True)
class GoOnRequest(Request[Done]):
    """Begin a term without `node`, or without all nodes that are not in service, if your facts say so."""

    do = "go-on"
    node: str | None = None


@dataclass(frozen=True, slots=True)
class RecoverRequest(Request[Done]):
    """Rebuild `node`; `force`: also if it needs none; `attach`: answer when pgpool-II has attached it."""

    do = "recover"
    node: str
    force: bool = False
    attach: bool = True


@dataclass(frozen=True, slots=True)
class SwitchoverRequest(Request[SwitchoverAnswer]):
    """Make `node`, or the most advanced standby, the primary.

    `accept_loss`: let the data of `node` count although a node that does not answer may have more.
    """

    do = "switchover"
    node: str | None = None
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class StartRequest(Request[Done]):
    """Have the server of the node with this name or address run (pgpool_remote_start)."""

    do = "start"
    host: str


@dataclass(frozen=True, slots=True)
class AttachRequest(Request[Done]):
    """Have pgpool-II send clients to `node`.

    `recovering`: it is a part of something longer, which waits for its effect itself.
    """

    do = "attach"
    node: str
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class DetachRequest(Request[Done]):
    """Have pgpool-II keep clients off `node`. `recovering` is as in AttachRequest; the primary may go then, too."""

    do = "detach"
    node: str
    recovering: bool = False


@dataclass(frozen=True, slots=True)
class TakeBackRequest(Request[Done]):
    """Have your pgpool-II attach `node`, which says itself that it streams; answer when it has."""

    do = "take-back"
    node: str


@dataclass(frozen=True, slots=True)
class HoldRequest(Request[Done]):
    """Remember whether an administrator keeps clients off you."""

    do = "hold"
    hold: bool


@dataclass(frozen=True, slots=True)
class RoleRequest(Request[Done]):
    """Give a database role another password, or with None keep it from logging in; for your own server only."""

    do = "role"
    name: str
    verifier: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UserRequest(Request[Done]):
    """Create or change a user on the primary and in every node's list; without `verifier` and `entry` remove it.

    `verifier`: for PostgreSQL (SCRAM). `entry`: for pool_passwd, encrypted with the pool key that has this `mark`.
    """

    do = "user"
    name: str
    verifier: str | None = field(default=None, repr=False)
    entry: str | None = field(default=None, repr=False)
    mark: str = ""


@dataclass(frozen=True, slots=True)
class UsersRequest(Request[UserList]):
    """Tell your list of users, after you have taken over `new` where that is later."""

    do = "users"
    new: UserList | None = None


# Requests of a recovery in two stages


@dataclass(frozen=True, slots=True)
class WatchRequest(Request[Done]):
    """Begin a vigil (vigil.py): a recovery is about to begin."""

    do = "watch"


@dataclass(frozen=True, slots=True)
class PcpRecoveryRequest(Request[Done]):
    """Have your pgpool-II recover `node`."""

    do = "pcp-recovery"
    node: str


@dataclass(frozen=True, slots=True)
class CopyRequest(Request[Done]):
    """First stage: replace your data by a copy of `source`'s."""

    do = "copy"
    source: str


@dataclass(frozen=True, slots=True)
class TakeUpRequest(Request[Done]):
    """Second stage: replay what `source` has up to `position`, an LSN, and serve in `term`."""

    do = "take-up"
    source: str
    position: str
    term: Term


@dataclass(frozen=True, slots=True)
class WhyRequest(Request[Done]):
    """Your recovery has failed for this reason."""

    do = "why"
    why: str


@dataclass(frozen=True, slots=True)
class CancelActiveRequest(Request[CancelActiveAnswer]):
    """Cancel clients' statements; one that writes only if it began in the last `since` seconds."""

    do = "cancel-active"
    since: float


@dataclass(frozen=True, slots=True)
class StandingRequest(Request[Standing]):
    """Tell your pgpool-II's place in the watchdog."""

    do = "standing"


@dataclass(frozen=True, slots=True)
class SilentRequest(Request[SilentAnswer]):
    """Tell which nodes send you no packet any more."""

    do = "silent"


# Requests of programs on the node itself


@dataclass(frozen=True, slots=True)
class StatusRequest(Request[Report]):
    """Report on the whole cluster."""

    do = "status"


@dataclass(frozen=True, slots=True)
class WaitingRequest(Request[WaitingAnswer]):
    """Tell what waits for a restart of PostgreSQL."""

    do = "waiting"


@dataclass(frozen=True, slots=True)
class ConvergeRequest(Request[ConvergeAnswer]):
    """Look, decide and act once."""

    do = "converge"


@dataclass(frozen=True, slots=True)
class FailoverRequest(Request[FailoverAnswer]):
    """pgpool-II has given up the backend with the number `failed`."""

    do = "failover"
    failed: int


@dataclass(frozen=True, slots=True)
class MayStartRequest(Request[MayStartAnswer]):
    """Tell whether the unit postgresql@`instance`.service may start its server."""

    do = "may-start"
    instance: str


@dataclass(frozen=True, slots=True)
class FirstStageRequest(Request[Done]):
    """recovery_1st_stage_command for the backend with this number."""

    do = "first-stage"
    backend: int


@dataclass(frozen=True, slots=True)
class SecondStageRequest(Request[Done]):
    """recovery_2nd_stage_command for the backend with this number."""

    do = "second-stage"
    backend: int


AnyRequest = (
    LookRequest | NoteRequest | CheckRequest | ClockRequest | TermRequest | ExcuseRequest | PromoteRequest
    | FollowRequest | GoOnRequest | RecoverRequest | SwitchoverRequest | StartRequest | AttachRequest | DetachRequest
    | TakeBackRequest | HoldRequest | RoleRequest | UserRequest | UsersRequest
    | WatchRequest | PcpRecoveryRequest | CopyRequest | TakeUpRequest | WhyRequest | CancelActiveRequest
    | StandingRequest | SilentRequest
    | StatusRequest | WaitingRequest | ConvergeRequest | FailoverRequest | MayStartRequest | FirstStageRequest
    | SecondStageRequest
)  # fmt: skip
"""Every request that an agent answers."""
REQUESTS: Mapping[str, type[Request[Any]]] = {kind.do: kind for kind in get_args(AnyRequest)}
"""Each by its verb."""


def encode(request: Request[Any]) -> dict[str, object]:
    """Return the JSON object of a request."""
    found = {name: value for name, value in wire.fields(request).items() if value is not None}
    return {"do": request.do, **found}


def decode(values: Mapping[str, object]) -> Request[Any]:
    """Return the request that `encode` described; raises UsageError for anything else."""
    verb = values.get("do")
    kind = REQUESTS.get(verb) if isinstance(verb, str) else None
    if kind is None:
        raise UsageError(f"nobody knows how to {reprlib.repr(verb)}", hint=VERSIONS_DIFFER)
    try:
        return wire.read(kind, values, kind.do)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a request to {kind.do!r} that cannot be read: {error}", hint=VERSIONS_DIFFER) from error


def encode_answer(answer: object) -> dict[str, object]:
    """Return the JSON object of an answer."""
    return wire.fields(answer)


def decode_answer(request: Request[A], values: object) -> A:
    """Return the answer to `request` that `encode_answer` described; raises ValueError for anything else."""
    try:
        return wire.read(answer_of(type(request)), values, f"the answer to {request.do!r}")
    except UsageError as error:
        raise ValueError(error.message) from error


def answer_of(kind: type[Request[A]]) -> type[A]:
    """Return the `A` of a subclass of Request[A]."""
    (base,) = kind.__orig_bases__  # type: ignore[attr-defined]
    found: type[A] = get_args(base)[0]
    return found
