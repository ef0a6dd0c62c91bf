"""Requests share one connection to another node. A program on PATH replaces ssh."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.ground.errors import ClusterError, ExitStatus, OperationError, ServerError
from pgpool_cluster.transport import peers
from pgpool_cluster.transport.lines import Line, RemoteError
from pgpool_cluster.transport.peers import Peer
from pgpool_cluster.transport.protocol import (
    CheckAnswer,
    CheckRequest,
    ConvergeAnswer,
    ConvergeRequest,
    CopyRequest,
    Done,
    FollowRequest,
    HoldRequest,
    NoteAnswer,
    NoteRequest,
    RecoverRequest,
    Request,
    TermRequest,
    UserList,
    UsersRequest,
    WatchRequest,
)

SSH = """#!/usr/bin/python3
import json, os, sys, threading, time
open(os.environ["STARTS"], "a").write("x")
if os.path.exists(os.environ["STARTS"] + ".down"):
    sys.exit("ssh: connect to host pg2 port 22: No route to host")
def answer(line):
    request = json.loads(line)
    number, do = request["id"], request["do"]
    def say(**found):
        sys.stdout.write(json.dumps({"id": number, **found}) + chr(10))
        sys.stdout.flush()
    if do == "watch":
        sys.stderr.write("Connection to pg2 closed by remote host." + chr(10))
        os._exit(255)
    if do == "copy":
        for step in range(8):
            time.sleep(float(request["source"]))
            say(progress=str(step))
    if do == "follow":
        say(error="no", hint="never", status=2)
    elif do != "hold":
        say(done={"note": "did " + do})
for line in sys.stdin:
    threading.Thread(target=answer, args=(line,)).start()
"""
LONG = CopyRequest("0.1")
"""It reports progress eight times; the argument has the seconds before each report."""
NOTE, NOTED = NoteRequest(), NoteAnswer("did note")
REFUSED, DEADLY, IGNORED = FollowRequest("pg1"), WatchRequest(), HoldRequest(hold=True)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that grows by one byte with each connection. While `starts.down` exists, connections fail."""
    program = tmp_path / "ssh"
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    return tmp_path / "starts"


@pytest.fixture
def peer(starts: Path) -> Iterator[Peer]:
    one = Peer("pg2")
    yield one
    one.close()


def test_a_short_request_does_not_wait_for_a_long_one_on_the_same_connection(peer: Peer, starts: Path) -> None:
    told: list[str] = []
    with ThreadPoolExecutor() as workers:
        long = workers.submit(peer.ask, LONG, seconds=5, progress=told.append)
        time.sleep(0.3)
        began = time.monotonic()
        assert peer.ask(NOTE, seconds=5) == NOTED
        assert time.monotonic() - began < 0.3
        assert not long.done()
        assert long.result() == Done()
    assert told == [str(step) for step in range(8)]
    assert starts.read_text() == "x"


def test_a_request_without_an_answer_ends_no_other(peer: Peer, starts: Path) -> None:
    with ThreadPoolExecutor() as workers:
        long = workers.submit(peer.ask, LONG, seconds=5, progress=print)
        time.sleep(0.2)
        with pytest.raises(ServerError, match="no answer for 0 s"):
            peer.ask(IGNORED, seconds=0.2)
        assert long.result() == Done()
    assert peer.ask(NOTE, seconds=5, patient=True) == NOTED
    assert starts.read_text() == "xx"


def test_the_time_limit_applies_to_the_time_between_two_lines(peer: Peer) -> None:
    assert peer.ask(CopyRequest("0.2"), seconds=0.8, progress=print) == Done()


def test_a_node_that_sends_endless_progress_is_awaited_no_longer_than_a_silent_one(peer: Peer, starts: Path) -> None:
    """Some requests, such as one for facts, have no progress; endless progress would occupy their threads."""
    play(starts, """read line; while :; do echo '{"progress": "soon", "id": 0}'; sleep 0.05; done""")
    began = time.monotonic()
    with pytest.raises(ServerError, match="no answer for 1 s"):
        peer.ask(NOTE, seconds=0.6)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("said", ["{}", "[[[[7]]]]", "7"])
def test_progress_of_another_type_than_text_ends_the_connection(peer: Peer, starts: Path, said: str) -> None:
    play(starts, f"""read line; echo '{{"progress": {said}, "id": 0}}'; exec sleep 5""")
    with pytest.raises(ServerError, match="it sent an invalid answer"):
        peer.ask(NOTE, seconds=4, progress=print)


def test_an_answer_of_deeply_nested_lists_is_refused() -> None:
    deep: object = "x"
    for _ in range(5000):
        deep = [deep]
    line = Line(1, None, None, 1, {"done": {"note": deep}})
    with pytest.raises(RemoteError, match="nested too deeply"):
        line.answer(NOTE, "pg2")


def test_when_a_connection_ends_all_its_requests_fail_with_the_reason(peer: Peer) -> None:
    with ThreadPoolExecutor() as workers:
        long = workers.submit(peer.ask, CopyRequest("5"), seconds=60)
        time.sleep(0.3)
        began = time.monotonic()
        with pytest.raises(ServerError, match="closed by remote host"):
            peer.ask(DEADLY, seconds=5)
        with pytest.raises(ServerError, match="closed by remote host"):
            long.result()
        assert time.monotonic() - began < 2


def test_a_refusal_has_the_other_nodes_message_and_keeps_the_connection(peer: Peer, starts: Path) -> None:
    with pytest.raises(RemoteError) as refusal:
        peer.ask(REFUSED, seconds=5)
    assert (refusal.value.message, refusal.value.hint, int(refusal.value.exit_status)) == ("no", "never", 2)
    assert isinstance(refusal.value, OperationError)
    assert peer.ask(NOTE, seconds=5) == NOTED
    assert starts.read_text() == "x"


def test_a_request_to_a_node_out_of_reach_fails_at_once_until_the_node_returns(peer: Peer, starts: Path) -> None:
    down = starts.with_name("starts.down")
    down.touch()
    with pytest.raises(ServerError, match="No route to host"):
        peer.ask(NOTE, seconds=5)
    began = time.monotonic()
    with pytest.raises(ServerError, match="No route to host"):
        peer.ask(NOTE, seconds=5)
    assert time.monotonic() - began < 0.1
    assert peer.problem
    threading.Timer(0.5, down.unlink).start()
    assert peer.ask(RecoverRequest("pg2"), seconds=5, patient=True) == Done()
    assert not peer.problem


def test_a_closed_peer_refuses_new_requests_and_finishes_earlier_ones(peer: Peer) -> None:
    with ThreadPoolExecutor() as workers:
        long = workers.submit(peer.ask, LONG, seconds=5, progress=print)
        time.sleep(0.3)
        peer.close()
        with pytest.raises(ClusterError):
            peer.ask(NOTE, seconds=5)
        assert long.result() == Done()


def test_a_connection_that_ends_at_any_moment_is_reported_as_such(starts: Path) -> None:
    """This includes the moment when its pipe is closed but the reader has not noticed yet."""
    starts.with_name("ssh").write_text("#!/bin/sh\nsleep 0.1 >/dev/null & sleep 0.05; echo gone >&2; exit 255\n")

    def ask(peer: Peer, moment: float) -> None:
        time.sleep(moment)
        with pytest.raises(ServerError, match="gone"):
            peer.ask(NOTE, seconds=5)

    with ThreadPoolExecutor(max_workers=40) as workers:
        for _ in range(10):
            peer = Peer("pg2")
            for asked in [workers.submit(ask, peer, number / 500) for number in range(40)]:
                asked.result()
            peer.close()


def play(starts: Path, script: str) -> None:
    """Make `script` replace ssh."""
    starts.with_name("ssh").write_text(f"#!/bin/sh\n{script}\n")


STRAY = """echo '{"error": "a line that is not a request", "id": null}'"""
DONE = """read line; echo '{"done": {"note": "did note"}, "id": 0}'"""


def test_an_answer_without_a_request_does_not_block_others(peer: Peer, starts: Path) -> None:
    play(starts, f"{STRAY}; {DONE}; sleep 5")
    assert peer.ask(NOTE, seconds=2) == NOTED


def test_an_error_about_the_whole_connection_is_the_reason_why_it_ended(peer: Peer, starts: Path) -> None:
    play(starts, f"read line; {STRAY}; echo closed >&2")
    began = time.monotonic()
    with pytest.raises(ServerError, match="a line that is not a request"):
        peer.ask(NOTE, seconds=5)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("line", ["no JSON", "[]", "null", "7", '{"id": 0'])
def test_a_malformed_answer_ends_the_connection_with_a_reason(peer: Peer, starts: Path, line: str) -> None:
    play(starts, f"read line; echo '{line}'; exec sleep 5")
    began = time.monotonic()
    with pytest.raises(ServerError, match="it sent an invalid answer"):
        peer.ask(NOTE, seconds=4)
    assert time.monotonic() - began < 1


def test_an_endless_line_is_not_read_to_its_end(peer: Peer, starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LINE_BYTES", 100_000)
    play(starts, "exec cat /dev/zero")
    with pytest.raises(ServerError, match="a line of more than 100000 bytes"):
        peer.ask(NOTE, seconds=4)


@pytest.mark.parametrize(
    ("request_", "taken"),
    [(UsersRequest(), True), (CheckRequest(), True), (NOTE, False), (TermRequest(2), False)],
)
def test_only_a_list_of_users_or_of_checks_may_be_long(
    peer: Peer, starts: Path, request_: Request[Any], taken: bool
) -> None:
    done = '"serial": 1, "entries": {}, "checks": [], "mark": "%02000000d"'
    play(starts, f"""read line; printf '{{"id": 0, "done": {{{done}}}}}\\n' 0; exec sleep 5""")
    if taken:
        assert isinstance(peer.ask(request_, seconds=4), UserList | CheckAnswer)
    else:
        with pytest.raises(ServerError, match="a line of more than 1048576 bytes"):
            peer.ask(request_, seconds=4)


def test_a_request_that_ssh_does_not_read_ends(peer: Peer, starts: Path) -> None:
    """It is longer than a pipe's buffer, and the other end has stopped reading."""
    play(starts, "exec sleep 5")
    long = UsersRequest(UserList(1, {}, "x" * 1_000_000))
    began = time.monotonic()
    with ThreadPoolExecutor() as workers:
        asked = [workers.submit(peer.ask, long, seconds=0.3) for _ in range(3)]
        for one in asked:
            with pytest.raises(ServerError):
                one.result()
    assert time.monotonic() - began < 1.5


def test_an_answer_cannot_control_a_terminal_and_has_a_known_status() -> None:
    refused = {"error": "\x1b]0;owned\x07no", "hint": "\x9b2Jnever", "status": "99", "id": 1}
    with pytest.raises(RemoteError) as refusal:
        Line.parse(json.dumps(refused).encode()).answer(NOTE, "pg2")
    assert (refusal.value.message, refusal.value.hint) == ("?]0;owned?no", "?2Jnever")
    assert refusal.value.exit_status is ExitStatus.FAILED
    line = Line.parse(b'{"done": {"said": ["\\u001b[2J", "a\\tb\\n"]}, "id": 1}')
    assert line.answer(ConvergeRequest(), "pg2") == ConvergeAnswer(("?[2J", "a\tb\n"))
