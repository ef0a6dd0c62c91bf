"""The agent's socket: a peer that sends too much, too slowly or nothing does not block the answers to others."""

from __future__ import annotations

import contextlib
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.decision.facts.facts import NodeFacts
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError, ServerError
from pgpool_cluster.transport import channel, peers, wire
from pgpool_cluster.transport.channel import ask, notify, serving
from pgpool_cluster.transport.peers import Progress
from pgpool_cluster.transport.protocol import (
    ConvergeAnswer,
    ConvergeRequest,
    Done,
    HoldRequest,
    LookRequest,
    MayStartRequest,
    NoteAnswer,
    NoteRequest,
    RecoverRequest,
    TermAnswer,
    TermRequest,
    UserList,
    UsersRequest,
)

Json = dict[str, Any]


FACTS, DONE, NOTED = NodeFacts("pg1"), Done(), NoteAnswer("well")
LOOKED = {"done": wire.fields(FACTS)}


class Agent:
    """Answers at once, except to long requests, which wait until `goes_on` is set."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.much = 0
        """The length of the key in its facts."""

    def answer(self, request: object, progress: Progress, _: str = "") -> Any:
        progress("at work")
        match request:
            case LookRequest(fresh=True) | RecoverRequest(force=True) | HoldRequest(hold=True):
                self.goes_on.wait(10)
        match request:
            case LookRequest():
                return replace(FACTS, key="x" * self.much)
            case NoteRequest():
                return NOTED
            case TermRequest():
                return TermAnswer(taken=True, excuse=(0, 0))
            case UsersRequest():
                return UserList(1, {}, "m")
        return DONE


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    monkeypatch.setattr(channel, "_READ_SECONDS", 0.2)
    found = Agent()
    with serving(found.answer):
        yield found
        found.goes_on.set()


@contextlib.contextmanager
def connected() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(str(paths.AGENT))
        yield asking


def say(asking: socket.socket, *requests: Json) -> None:
    asking.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in requests))


def lines(asking: socket.socket) -> Iterator[Json]:
    with asking.makefile("r", encoding="utf-8") as stream:
        for text in stream:
            line = json.loads(text)
            if "progress" not in line:
                yield line


def test_ten_thousand_waiting_requests_use_few_threads_and_all_get_answers(agent: Agent) -> None:
    threads = threading.active_count()
    with connected() as asking:
        sending = threading.Thread(
            target=lambda: say(asking, *({"do": "look", "fresh": True, "id": number} for number in range(10_000)))
        )
        sending.start()
        answers = lines(asking)
        refused = [next(answers) for _ in range(10_000 - channel._MOST_REQUESTS_OF_NODE)]
        assert threading.active_count() < threads + channel._MOST_REQUESTS_OF_NODE + 5
        assert {one["error"] for one in refused} == {
            "pgpool2-cluster.service has too many requests in progress for 'look'"
        }
        assert all(one["hint"] for one in refused)
        assert ask(NoteRequest(), seconds=20) == NOTED
        agent.goes_on.set()
        done = [next(answers) for _ in range(channel._MOST_REQUESTS_OF_NODE)]
        assert all(one["done"] == LOOKED["done"] for one in done)
        assert {one["id"] for one in [*refused, *done]} == set(range(10_000))
        sending.join()


def test_long_requests_of_many_connections_leave_room_for_quick_ones(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(4):
            many = (
                {"do": "recover", "node": "pg2", "force": True, "id": one}
                for one in range(channel._MOST_REQUESTS_OF_NODE)
            )
            say(stack.enter_context(connected()), *many)
            assert ask(LookRequest(), seconds=20) == FACTS, number
        time.sleep(0.1)
        with pytest.raises(OperationError, match="too many requests in progress for 'recover'"):
            ask(RecoverRequest("pg2"), seconds=20)
        assert ask(LookRequest(), seconds=20) == FACTS
        agent.goes_on.set()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        with contextlib.suppress(OperationError):
            assert ask(RecoverRequest("pg2"), seconds=20) == DONE
            return
    pytest.fail("refused after all have ended")


def test_hanging_requests_for_facts_do_not_block_a_new_term(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            many = ({"do": "look", "fresh": True, "id": one} for one in range(channel._MOST_REQUESTS_OF_NODE))
            say(stack.enter_context(connected()), *many)
        last = stack.enter_context(connected())
        say(
            last,
            *({"do": "look", "fresh": True, "id": one} for one in range(2 * channel._MOST_REQUESTS_OF_NODE)),
            {"do": "note", "id": 99},
        )
        assert next(one for one in lines(last) if one["id"] == 99)["done"] == {"note": "well"}
        assert ask(TermRequest(2), seconds=20).taken
        with pytest.raises(OperationError, match="too many requests in progress for 'look'"):
            ask(LookRequest(), seconds=20)
        agent.goes_on.set()


@pytest.mark.parametrize("line", [b"\xff\n", b"[]\n", b"7\n", b"{\n", b"[" * 100_000 + b"\n"])
def test_a_malformed_request_gets_an_error_and_ends_its_connection(agent: Agent, line: bytes) -> None:
    with connected() as asking:
        asking.sendall(line)
        (told,) = lines(asking)
        assert told["error"] == "a line that is not a request"
        assert told["id"] is None
    assert ask(LookRequest(), seconds=20) == FACTS
    del agent


def test_an_endless_line_is_not_read_to_its_end(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LINE_BYTES", 100_000)
    with connected() as asking:
        with contextlib.suppress(OSError):
            for _ in range(100):
                asking.sendall(b"x" * 10_000)
        with contextlib.suppress(ConnectionError):
            (told,) = lines(asking)
            assert told["error"] == "a line of more than 100000 bytes"
    assert ask(LookRequest(), seconds=20) == FACTS
    del agent


def test_a_request_may_come_in_pieces(agent: Agent) -> None:
    with connected() as asking:
        for piece in (b'{"do": "lo', b'ok", "id": 3}\n{"do"', b': "note", "id": 4}\n'):
            asking.sendall(piece)
            time.sleep(0.05)
        asking.shutdown(socket.SHUT_WR)
        found = lines(asking)
        answers = {one["id"]: one["done"] for one in (next(found), next(found))}
    assert answers == {3: LOOKED["done"], 4: {"note": "well"}}
    del agent


def test_an_idle_connection_is_closed_but_not_one_that_waits_for_an_answer(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection outlives the other node, because sshd notices its end only much later."""
    monkeypatch.setattr(channel, "_IDLE_SECONDS", 0.3)
    with connected() as idle, connected() as waiting:
        say(waiting, {"do": "recover", "node": "pg2", "force": True, "id": 1})
        began = time.monotonic()
        assert idle.recv(1) == b""
        assert time.monotonic() - began < 1.5
        agent.goes_on.set()
        assert next(lines(waiting))["done"] == {}


def test_a_connection_whose_peer_does_not_read_is_closed(agent: Agent) -> None:
    agent.much = 5_000_000
    with connected() as asking:
        say(asking, {"do": "look", "id": 1}, {"do": "look", "id": 2})
        hung_up = select.poll()
        hung_up.register(asking, select.POLLRDHUP)
        assert hung_up.poll(20_000)
        agent.much = 0
        assert ask(LookRequest(), seconds=20) == FACTS
        read = 0
        while data := asking.recv(1 << 20):
            read += len(data)
        assert read < 5_000_000


def test_too_many_connections_are_refused_with_a_reason(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    del agent, monkeypatch
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected()) for _ in range(channel._MOST_CONNECTIONS)]
        say(held[-1], {"do": "look", "id": 1})
        assert next(lines(held[-1]))["done"] == LOOKED["done"]
        with pytest.raises(OperationError, match="too many connections"):
            ask(LookRequest(), seconds=20)


def test_no_message_can_control_a_terminal(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def answer(_: Agent, request: object, progress: Progress, __: str = "") -> Any:
        asked.append(request)
        progress("\x1b]0;owned\x07half")
        return ConvergeAnswer(("\x9b2J\ttab\nline",))

    monkeypatch.setattr(Agent, "answer", answer)
    agent.goes_on.set()
    told: list[str] = []
    monkeypatch.setattr(paths, "AGENT", paths.AGENT.with_name("agent2"))
    with serving(agent.answer):
        found = ask(ConvergeRequest(), seconds=1, progress=told.append)
        with pytest.raises(ServerError, match="sent an invalid answer"):
            ask(MayStartRequest("\x1b[2J"), seconds=1)
    assert told == ["?]0;owned?half"]
    assert found == ConvergeAnswer(("?2J\ttab\nline",))
    assert asked[-1] == MayStartRequest("?[2J")


@contextlib.contextmanager
def connected_from(peer: str) -> Iterator[socket.socket]:
    """Open a connection as `bridge` does for another node."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.bind(channel._FROM + f"{peer}/{secrets.token_hex(8)}".encode())
        asking.connect(str(paths.AGENT))
        yield asking


def test_a_node_cannot_exceed_its_share_with_more_connections(agent: Agent) -> None:
    """Otherwise an intruder on one node could block the requests of all others."""
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(connected_from("w")) for _ in range(channel._MOST_CONNECTIONS)]
        told = []
        for one in many:
            with contextlib.suppress(OSError):
                say(one, {"do": "note", "id": 1})
            told.append(next(lines(one)).get("error"))
        assert set(told) == {None, "too many connections to the agent are open"}
        assert told.count(None) == channel._MOST_CONNECTIONS_OF_NODE
        for one in [one for one, error in zip(many, told, strict=True) if error is None]:
            say(one, *({"do": "look", "fresh": True, "id": number} for number in range(channel._MOST_REQUESTS_OF_NODE)))
            say(one, *({"do": "hold", "hold": True, "id": number} for number in range(channel._MOST_REQUESTS_OF_NODE)))
        other = stack.enter_context(connected_from("pg2"))
        answers = lines(other)
        for request in ({"do": "look"}, {"do": "term", "term": 2}, {"do": "promote", "term": 2}):
            say(other, {**request, "id": 1})
            assert "done" in next(answers)
        assert ask(LookRequest(), seconds=20) == FACTS
        agent.goes_on.set()


@pytest.mark.parametrize(("peer", "read"), [("pg2", True), ("w", False), ("", True)])
def test_a_witness_may_not_send_long_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, read: bool
) -> None:
    monkeypatch.setattr(paths, "AGENT", tmp_path / "agent")
    with serving(Agent().answer, lambda peer: peer != "w"), connected_from(peer) if peer else connected() as asking:
        with contextlib.suppress(OSError):
            new = {"serial": 1, "entries": {}, "mark": "x" * 2 * peers.SHORT_LINE_BYTES}
            say(asking, {"do": "users", "new": new, "id": 1})
        said = ""
        with contextlib.suppress(ConnectionError):
            said = str(next(lines(asking)))
    assert ("'serial': 1" in said) is read


@contextlib.contextmanager
def playing(said: bytes, *, again: bool = False) -> Iterator[None]:
    """Run another program in the agent's place, which sends `said`; with `again`, every 0.05 s."""
    paths.AGENT.unlink()
    over = threading.Event()

    def play() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as there:
            there.sendall(said)
            while not over.wait(0.05):
                if again:
                    there.sendall(said)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(paths.AGENT))
        listening.listen()
        thread = threading.Thread(target=play, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("said", [b" ", b'{"progress": "soon"}\n'])
def test_root_does_not_wait_for_an_agent_that_sends_endlessly(agent: Agent, said: bytes) -> None:
    del agent
    began = time.monotonic()
    with playing(said, again=True), pytest.raises(ServerError, match="did not answer within"):
        ask(LookRequest(), seconds=0.5)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("said", [b"x" * 200_000, b"7\n", b"[" * 50_000 + b"\n", b"\xff\n", b"no JSON\n"])
def test_a_malformed_answer_is_an_error(agent: Agent, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    del agent
    monkeypatch.setattr(channel, "LINE_BYTES", 100_000)
    with playing(said), pytest.raises(ServerError, match="sent an invalid answer"):
        ask(LookRequest(), seconds=5)


def test_a_message_to_a_systemd_that_does_not_read_is_dropped_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fence must not wait for systemd."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        for _ in range(10_000):  # more than net.unix.max_dgram_qlen
            notify("WATCHDOG=1", wait=False)
        assert systemd.recv(100) == b"WATCHDOG=1"
