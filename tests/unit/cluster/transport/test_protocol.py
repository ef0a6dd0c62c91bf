"""Requests and answers survive the transfer between nodes of any version. Malformed ones are refused in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.cluster.decision.facts.test_facts import ANY_FACTS, JUNK

from pgpool_cluster.decision.facts import terms
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts
from pgpool_cluster.decision.facts.pause import Pause
from pgpool_cluster.ground import plain
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.errors import ClusterError, ExitStatus, OperationError, ServerError, UsageError
from pgpool_cluster.transport import lines, protocol
from pgpool_cluster.transport.lines import Asked, Line, OddAnswerError, RemoteError
from pgpool_cluster.transport.protocol import (
    VERSION,
    AttachRequest,
    CancelActiveRequest,
    CheckAnswer,
    CheckRequest,
    ClockAnswer,
    ClockRequest,
    ConvergeRequest,
    CopyRequest,
    DetachRequest,
    Done,
    ExcuseRequest,
    FailoverRequest,
    FirstStageRequest,
    FollowRequest,
    GoOnRequest,
    HistoryAnswer,
    HistoryRequest,
    HoldRequest,
    LookRequest,
    MayStartAnswer,
    MayStartRequest,
    NoteAnswer,
    NotePauseRequest,
    NoteRequest,
    PcpRecoveryRequest,
    PromoteRequest,
    RecoverRequest,
    Request,
    RoleRequest,
    SecondStageRequest,
    SilentRequest,
    StandingRequest,
    StartRequest,
    StatusRequest,
    SwitchoverRequest,
    TakeBackRequest,
    TakeUpRequest,
    TermAnswer,
    TermRequest,
    UserList,
    UserRequest,
    UsersRequest,
    WaitingRequest,
    WatchRequest,
    WhyRequest,
)

KINDS: list[type[Request[Any]]] = list(protocol.REQUESTS.values())
OF_THE_CONNECTION = {"do", "id", "from", "version", "done", "error", "hint", "status", "progress"}
TEXTS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]).filter(str.isprintable), max_size=8)
SOME = settings(max_examples=8)
"""Few examples for each kind of request, because there are many kinds."""


def values(kind: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one return a kind
    """Return a strategy for values of a field's type."""
    parts = get_args(kind)
    match get_origin(kind) or kind:
        case found if found is Annotated:
            return st.tuples(TERMS, TERMS) if get_origin(parts[0]) is tuple else TERMS
        case found if found in (Union, UnionType):
            return st.one_of(*map(values, parts))
        case found if found in (tuple, frozenset):
            return st.lists(values(parts[0]), max_size=3).map(found)
        case found if found is Mapping:
            return st.dictionaries(TEXTS, values(parts[1]), max_size=3)
        case found if found is Check:
            return CHECKS
        case found if found is Lsn:
            return st.integers(0, 2**64 - 1).map(Lsn)
        case found if found is Pause:
            return PAUSES
        case found if dataclasses.is_dataclass(found):
            return built(found)
        case found if issubclass(found, Enum):
            return st.sampled_from(list(found))
    return {str: TEXTS, bool: st.booleans(), int: st.integers(), float: st.floats(-1e9, 1e9), type(None): st.none()}[
        kind
    ]


def built(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for instances of a dataclass with any values in its fields."""
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


TERMS = st.integers(1, 10_000)
PAUSES = st.builds(Pause, TERMS, st.booleans(), st.floats(0, 1e9), TEXTS, TEXTS)
FAILED = st.builds(Check, TEXTS, TEXTS, st.just(False), TEXTS, TEXTS)
PASSED = st.builds(Check, TEXTS, TEXTS, st.just(True))
CHECKS = FAILED | PASSED | st.builds(Check, TEXTS, TEXTS, st.just(True), TEXTS.filter(bool), TEXTS, st.just(True))


def answers(kind: type[Request[Any]]) -> st.SearchStrategy[Any]:
    found = protocol.answer_of(kind)
    return ANY_FACTS if found is NodeFacts else built(found)


def sent(request: Request[Any], number: int | None = 3) -> dict[str, Any]:
    found = json.loads(lines.request(request, number))
    assert isinstance(found, dict)
    return found


def came(values: Mapping[str, object]) -> Request[Any]:
    return Asked.parse(json.dumps(values).encode()).request()


def answered(request: Request[Any], done: object, **more: object) -> Any:
    return Line.parse(json.dumps({"done": done, "id": 1, **more}).encode()).answer(request, "pg2")


def test_every_request_is_in_the_union_that_mypy_checks_and_has_its_own_verb() -> None:
    classes = {
        kind for _, kind in inspect.getmembers(protocol, inspect.isclass)
        if issubclass(kind, Request) and kind is not Request
    }  # fmt: skip
    assert classes == set(get_args(protocol.AnyRequest)) == set(KINDS)
    assert len({kind.do for kind in classes}) == len(classes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.do)
def test_no_field_has_the_name_of_a_key_of_the_connection(kind: type[Request[Any]]) -> None:
    assert not OF_THE_CONNECTION & {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.do)
@SOME
@given(data=st.data(), number=st.none() | st.integers())
def test_any_request_survives_the_transfer_between_two_nodes(
    kind: type[Request[Any]], data: st.DataObject, number: int | None
) -> None:
    request = data.draw(built(kind))
    line = lines.request(request, number)
    assert line.count(b"\n") == 1
    asked = Asked.parse(line)
    assert (asked.verb, asked.number, asked.request()) == (kind.do, number, request)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.do)
@SOME
@given(data=st.data())
def test_any_answer_survives_the_transfer_back(kind: type[Request[Any]], data: st.DataObject) -> None:
    request, answer = data.draw(built(kind)), data.draw(answers(kind))
    line = Line.parse(lines.done(answer, 7))
    assert (line.number, line.progress, line.error, line.version) == (7, None, None, VERSION)
    assert line.answer(request, "pg2") == answer


# Refusals


@pytest.mark.parametrize("kind", [kind for kind in KINDS if dataclasses.fields(kind)], ids=lambda kind: kind.do)
@SOME
@given(data=st.data(), junk=JUNK)
def test_a_value_of_another_type_is_refused_or_means_the_same(
    kind: type[Request[Any]], data: st.DataObject, junk: object
) -> None:
    whole = sent(data.draw(built(kind)))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(kind)]))
    found: Request[Any] | None = None
    with contextlib.suppress(UsageError):
        found = came({**whole, name: junk})
    assert found is None or sent(found).get(name) == plain.shown(junk)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.do)
@SOME
@given(data=st.data(), junk=JUNK)
def test_an_answer_of_another_type_is_refused_with_the_name_of_the_node(
    kind: type[Request[Any]], data: st.DataObject, junk: object
) -> None:
    request, done = data.draw(built(kind)), protocol.encode_answer(data.draw(answers(kind)))
    odd: object = junk if not done else {**done, data.draw(st.sampled_from(sorted(done))): junk}
    with contextlib.suppress(OddAnswerError):
        assert isinstance(answered(request, odd), protocol.answer_of(kind))


def test_an_odd_answer_is_reported_in_one_line_with_the_node_and_a_hint() -> None:
    with pytest.raises(OddAnswerError) as refusal:
        answered(TermRequest(2), {"taken": ["x" * 100_000]})
    assert refusal.value.message.startswith(
        "pg2 (protocol version 1) sent an invalid answer to 'term': taken cannot be"
    )
    assert len(refusal.value.message) < 200
    assert "on pg2" in refusal.value.hint


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.do)
@SOME
@given(data=st.data())
def test_a_request_without_one_of_its_fields_is_refused(kind: type[Request[Any]], data: st.DataObject) -> None:
    """Fields with a default may be missing, because a node of an older version does not send them."""
    whole = sent(data.draw(built(kind)))
    for field in dataclasses.fields(kind):
        rest = {name: value for name, value in whole.items() if name != field.name}
        if field.default is not dataclasses.MISSING:
            assert getattr(came(rest), field.name) == field.default
        else:
            with pytest.raises(UsageError, match=f"invalid request '{kind.do}': .*'{field.name}'"):
                came(rest)


@pytest.mark.parametrize("verb", [None, 7, "", "Look", "looks", ["look"], {"do": "look"}, "x" * 100_000])
def test_an_unknown_request_is_refused(verb: object) -> None:
    with pytest.raises(UsageError, match="unknown request") as refusal:
        came({"do": verb})
    assert refusal.value.hint == "install the same version of pgpool2-cluster on every node"
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize("version", [0, -1, "2", 1.0, True, None, [1]])
def test_an_invalid_version_is_refused(version: object) -> None:
    with pytest.raises(UsageError, match="request 'note' has no valid version"):
        came({"do": "note", "version": version})
    with pytest.raises(ValueError, match="an answer without a valid version"):
        Line.parse(json.dumps({"done": {}, "version": version}).encode())


@given(st.binary(max_size=60) | JUNK.map(lambda junk: json.dumps(junk).encode()))
def test_any_line_raises_only_the_expected_errors(text: bytes) -> None:
    for parse in (Asked.parse, Line.parse):
        try:
            found: Any = parse(text)
        except (ValueError, RecursionError):
            continue
        try:
            _ = found.request() if isinstance(found, Asked) else found.answer(LookRequest(), "pg2")
        except ClusterError:
            continue


@pytest.mark.parametrize("name", ["progress", "error", "hint"])
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}])
def test_a_line_with_another_type_in_place_of_text_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a text"):
        Line.parse(json.dumps({"id": 1, name: value}).encode())


PAUSING = NotePauseRequest(Pause(1, True, 7.0, "root@pg1", ""), "f")


@pytest.mark.parametrize(
    ("request_", "name", "value"),
    [
        (TermRequest(2), "term", 10**12), (TermRequest(2), "restart", -1), (TermRequest(2), "restart", 10**12),
        (PromoteRequest(2, (1, 0)), "excuse", [1]), (PromoteRequest(2, (1, 0)), "excuse", [10**12, 0]),
        (PromoteRequest(2, (1, 0)), "excuse", [-1, -1]), (PromoteRequest(2, (1, 0)), "excuse", [True, 0]),
        (ExcuseRequest(1, 1, (), ""), "serial", -1), (ExcuseRequest(1, 1, (), ""), "serial", True),
        (TermRequest(2), "pause", -1), (TermRequest(2), "pause", 10**12), (PAUSING, "pause", {"serial": 10**12}),
        (PAUSING, "pause", {"serial": 1, "reason": "x" * 201}), (PAUSING, "pause", None),
        (TakeUpRequest("pg1", "0/0", 2), "term", 0), (CancelActiveRequest(1.0), "since", float("nan")),
        (CancelActiveRequest(1.0), "since", float("inf")), (CancelActiveRequest(1.0), "since", 10**400),
    ],
)  # fmt: skip
def test_a_number_beyond_its_bound_is_refused(request_: Request[Any], name: str, value: object) -> None:
    with pytest.raises(UsageError):
        came({**sent(request_), name: value})


def test_a_term_of_this_moment_is_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgpool_cluster.decision.facts.terms.time.time", lambda: 1_800_000_000.0)
    assert came(sent(TermRequest(terms.highest()))) == TermRequest(terms.highest())


# Requests and answers of other versions

OF_VERSION_1: list[tuple[dict[str, object], Request[Any]]] = [
    ({"do": "look", "fresh": True}, LookRequest(fresh=True)),
    ({"do": "note"}, NoteRequest()),
    ({"do": "check"}, CheckRequest()),
    ({"do": "check", "all": True}, CheckRequest(all=True)),
    ({"do": "clock"}, ClockRequest()),
    ({"do": "term", "term": 2}, TermRequest(2)),
    ({"do": "term", "term": 2, "file": "f", "serves": True, "restart": 1}, TermRequest(2, "f", True, 1)),
    ({"do": "excuse", "term": 1, "serial": 2, "names": ["pg3"], "file": "f"}, ExcuseRequest(1, 2, ("pg3",), "f")),
    ({"do": "promote", "term": 2, "excuse": [1, 2]}, PromoteRequest(2, (1, 2))),
    ({"do": "promote", "term": 2, "excuse": None}, PromoteRequest(2)),
    ({"do": "follow", "primary": "pg1"}, FollowRequest("pg1")),
    ({"do": "go-on", "node": None}, GoOnRequest()),
    ({"do": "go-on", "node": "pg1"}, GoOnRequest("pg1")),
    ({"do": "recover", "node": "pg2", "force": True}, RecoverRequest("pg2", force=True)),
    ({"do": "recover", "node": "pg2", "attach": False}, RecoverRequest("pg2", attach=False)),
    ({"do": "switchover", "node": None, "accept_loss": False}, SwitchoverRequest()),
    ({"do": "switchover", "node": "pg2", "accept_loss": True}, SwitchoverRequest("pg2", accept_loss=True)),
    ({"do": "start", "host": "10.0.0.2"}, StartRequest("10.0.0.2")),
    ({"do": "attach", "node": "pg2", "recovering": True}, AttachRequest("pg2", recovering=True)),
    ({"do": "detach", "node": "pg2"}, DetachRequest("pg2")),
    ({"do": "take-back", "node": "pg2"}, TakeBackRequest("pg2")),
    ({"do": "hold", "hold": True}, HoldRequest(hold=True)),
    ({"do": "role", "name": "app", "verifier": None}, RoleRequest("app")),
    ({"do": "user", "name": "app"}, UserRequest("app")),
    ({"do": "user", "name": "app", "verifier": "v", "entry": "e", "mark": "m"}, UserRequest("app", "v", "e", "m")),
    ({"do": "users"}, UsersRequest()),
    ({"do": "users", "new": {"serial": 1, "entries": {"a": "e"}, "mark": "m"}},
     UsersRequest(UserList(1, {"a": "e"}, "m"))),
    ({"do": "watch"}, WatchRequest()),
    ({"do": "pcp-recovery", "node": "pg2"}, PcpRecoveryRequest("pg2")),
    ({"do": "copy", "source": "pg1"}, CopyRequest("pg1")),
    ({"do": "take-up", "source": "pg1", "position": "0/3000060", "term": 2}, TakeUpRequest("pg1", "0/3000060", 2)),
    ({"do": "why", "why": "it broke"}, WhyRequest("it broke")),
    ({"do": "cancel-active", "since": 1e9}, CancelActiveRequest(1e9)),
    ({"do": "cancel-active", "since": 0}, CancelActiveRequest(0.0)),
    ({"do": "standing"}, StandingRequest()),
    ({"do": "silent"}, SilentRequest()),
    ({"do": "status"}, StatusRequest()),
    ({"do": "waiting"}, WaitingRequest()),
    ({"do": "converge"}, ConvergeRequest()),
    ({"do": "failover", "failed": 0}, FailoverRequest(0)),
    ({"do": "may-start", "instance": "17-main"}, MayStartRequest("17-main")),
    ({"do": "first-stage", "backend": 1}, FirstStageRequest(1)),
    ({"do": "second-stage", "backend": 1}, SecondStageRequest(1)),
]  # fmt: skip


LATER = {
    protocol.PendingRequest, protocol.RestartPlanRequest, protocol.RestartRequest,
    protocol.NotePauseRequest, protocol.HistoryRequest, protocol.PauseRequest, protocol.ClusterHistoryRequest,
    protocol.LetGoRequest, protocol.QueueRequest, protocol.EndQueueRequest,
}  # fmt: skip
"""The requests that version 1 refuses as unknown."""


@pytest.mark.parametrize(("values", "request_"), OF_VERSION_1, ids=str)
def test_a_request_of_version_1_is_read(values: dict[str, object], request_: Request[Any]) -> None:
    assert came({**values, "id": 1}) == request_


@pytest.mark.parametrize(("values", "request_"), OF_VERSION_1, ids=str)
def test_version_1_reads_the_same_in_a_request_of_this_version(
    values: dict[str, object], request_: Request[Any]
) -> None:
    """Version 1 reads the keys that it knows, treats a missing one as None, and ignores all others."""
    now = sent(request_, 1)
    assert (now.pop("id"), now.pop("version")) == (1, VERSION)
    for name, value in values.items():
        assert now.pop(name, None) == value
    defaults = {field.name: field.default for field in dataclasses.fields(request_)}
    assert all(value == defaults[name] for name, value in now.items())


def test_every_request_of_version_1_is_covered() -> None:
    assert {type(request) for _, request in OF_VERSION_1} == set(KINDS) - LATER


@pytest.mark.parametrize(
    ("request_", "done", "expected"),
    [
        (TermRequest(2), {"taken": True}, TermAnswer(taken=True)),
        (TermRequest(2), {"taken": True, "excuse": [1, 2]}, TermAnswer(taken=True, excuse=(1, 2))),
        (TermRequest(2), {"taken": False}, TermAnswer(taken=False)),
        (HistoryRequest(3), {}, HistoryAnswer()),
        (ClockRequest(), {"clock": 5}, ClockAnswer(5.0)),
        (NoteRequest(), {}, NoteAnswer()),
        (MayStartRequest("17-main"), {"go": True}, MayStartAnswer(go=True)),
        (HoldRequest(hold=True), {}, Done()),
        (HoldRequest(hold=True), {"of_tomorrow": [1]}, Done()),
        (CheckRequest(), {"checks": [{"node": "pg2", "check": "it runs", "ok": True}]},
         CheckAnswer((Check("pg2", "it runs", True),))),
    ],
)  # fmt: skip
def test_an_answer_of_an_older_version_is_read(request_: Request[Any], done: object, expected: object) -> None:
    assert answered(request_, done) == expected


@given(JUNK)
def test_additions_of_a_newer_version_are_ignored(junk: object) -> None:
    assert came({"do": "follow", "primary": "pg1", "of_tomorrow": junk, "version": 99}) == FollowRequest("pg1")
    assert answered(NoteRequest(), {"note": "x", "of_tomorrow": junk}, version=99) == NoteAnswer("x")


# Errors


@pytest.mark.parametrize("error", [UsageError("no\x1b[2J", hint="this"), OperationError("no\x1b[2J", hint="this"),
                                   ServerError("no\x1b[2J", hint="this")])  # fmt: skip
def test_a_refusal_has_the_same_lines_and_status_on_the_other_node(error: ClusterError) -> None:
    line = Line.parse(lines.refusal(error, 4))
    with pytest.raises(RemoteError) as refusal:
        line.answer(NoteRequest(), "pg2")
    assert (line.number, refusal.value.message, refusal.value.hint) == (4, "no?[2J", "this")
    assert refusal.value.exit_status == error.exit_status


def test_a_fault_of_the_agent_is_a_failure() -> None:
    with pytest.raises(RemoteError, match="it failed") as refusal:
        Line.parse(lines.fault("it failed", "its journal", 4)).answer(NoteRequest(), "pg2")
    assert refusal.value.exit_status is ExitStatus.FAILED


def test_progress_is_not_an_answer() -> None:
    line = Line.parse(lines.progress("half", 4))
    assert (line.number, line.progress) == (4, "half")


def test_no_repr_shows_data_that_would_help_to_guess_a_password() -> None:
    for request in (UserRequest("app", "verifier", "entry", "m"), RoleRequest("app", "verifier"),
                    UsersRequest(UserList(1, {"app": "entry"}, "m"))):  # fmt: skip
        assert "verifier'" not in repr(request)
        assert "entry" not in repr(request)
