"""A node's events in memory: repetitions, the size of an answer, and a disk that is slow or full."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pgpool_cluster.decision.reports.events import Event
from pgpool_cluster.ground import log
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine.history_file import HistoryFile
from pgpool_cluster.node import history
from pgpool_cluster.node.history import History
from pgpool_cluster.transport import peers, wire

ATTACH = Event(1000.0, "pg2", "attach", "attach pg2", term=2)
DETACH = replace(ATTACH, kind="detach", what="detach pg2: it lags")
REFUSED = replace(ATTACH, failed="pg2 rejects every login, for 3 s")
PAUSE = replace(ATTACH, kind="pause", what="pause the cluster")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [1000.0]
    monkeypatch.setattr("pgpool_cluster.node.history.time.monotonic", lambda: moment[0])
    return moment


def kinds(found: History) -> list[str]:
    return [event.what for event in found.recent(100)[0]]


def test_a_retried_action_is_one_event(now: list[float]) -> None:
    found = History()
    for _ in range(100):
        found.add(ATTACH)
        now[0] += 10
    assert kinds(found) == [ATTACH.what]
    now[0] += 60
    found.add(ATTACH)
    assert len(kinds(found)) == 2


def test_a_retry_with_another_outcome_is_an_event(now: list[float]) -> None:
    found = History()
    for event in (REFUSED, replace(REFUSED, failed="pg2 rejects every login, for 9 s"), ATTACH, ATTACH):
        found.add(event)
    assert [event.failed for event in found.recent(9)[0]] == [REFUSED.failed, ""]


def test_two_actions_that_alternate_are_one_event_each(now: list[float]) -> None:
    found = History()
    for term in range(50):
        found.add(replace(ATTACH, kind="claim-term", what=f"claim term {term}"))
        found.add(replace(REFUSED, kind="resume", what=f"resume pg2 term {term}"))
    assert len(kinds(found)) == 2


def test_an_attachment_after_a_detachment_is_an_event(now: list[float]) -> None:
    found = History()
    for event in (ATTACH, DETACH, ATTACH, DETACH):
        found.add(event)
    assert kinds(found) == [ATTACH.what, DETACH.what] * 2


def test_an_action_after_a_rest_and_one_of_an_administrator_are_events(now: list[float]) -> None:
    found = History()
    for event in (ATTACH, PAUSE, PAUSE):
        found.add(event)
    found.rest()
    found.add(ATTACH)
    assert kinds(found) == [ATTACH.what, PAUSE.what, PAUSE.what, ATTACH.what]


def test_the_last_events_since_a_time_are_sent() -> None:
    found = History()
    events = [replace(PAUSE, time=float(number)) for number in range(10)]
    for event in events:
        found.add(event)
    assert found.recent(3) == (tuple(events[-3:]), True)
    assert found.recent(100, since=8.0) == (tuple(events[8:]), False)
    assert found.recent(0) == ((), True)


def test_an_answer_stays_below_the_limit_of_a_line_and_memory_is_bounded() -> None:
    found = History()
    long = replace(PAUSE, what="𝛀" * 400, seen="𝛀" * 400, why="𝛀" * 400, failed="𝛀" * 400)
    for number in range(history._MOST_EVENTS + 50):
        found.add(replace(long, time=float(number)))
    events, shortened = found.recent(10**9)
    assert shortened
    assert events[-1].time == history._MOST_EVENTS + 49
    assert len(json.dumps([wire.fields(event) for event in events])) < peers.SHORT_LINE_BYTES / 2 + 100_000
    assert len(found._events) == history._MOST_EVENTS


def test_events_of_an_earlier_run_are_known(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / "history.jsonl")
    first = History(file)
    for event in (ATTACH, DETACH):
        first.add(event)
    first.close()
    assert History(file).recent(9)[0] == (ATTACH, DETACH)


def test_a_slow_disk_delays_no_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(HistoryFile, "append", lambda *_: free.wait(30))
    monkeypatch.setattr(history, "_CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(history, "_MOST_UNWRITTEN", 3)
    warned: list[str] = []
    monkeypatch.setattr(log, "warning", warned.append)
    found = History(HistoryFile(tmp_path / "history.jsonl"))
    for _ in range(20):
        found.add(PAUSE)
    found.close()
    assert len(found.recent(99)[0]) == 20
    assert "the disk is too slow" in warned[0]
    free.set()


def test_without_a_thread_no_caller_fails_and_the_next_event_writes_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    warned: list[str] = []
    monkeypatch.setattr(log, "warning", warned.append)
    file = HistoryFile(tmp_path / "history.jsonl")
    found = History(file)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        found.add(ATTACH)
    assert "can't start new thread" in warned[0]
    found.add(DETACH)
    found.close()
    assert file.load() == [ATTACH, DETACH]


def test_a_full_disk_is_reported_once_until_it_has_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    full = [True]

    def append(_: HistoryFile, __: Event) -> None:
        if full[0]:
            raise ServerError("history.jsonl cannot be written: No space left on device", hint="df")

    monkeypatch.setattr(log, "warning", warned.append)
    monkeypatch.setattr(HistoryFile, "append", append)
    for state in (True, False, True):
        full[0] = state
        found = History(HistoryFile(tmp_path / "history.jsonl"))
        for _ in range(3):
            found.add(PAUSE)
        found.close()
    assert warned == ["history.jsonl cannot be written: No space left on device; hint: df"] * 2
    assert len(found.recent(9)[0]) == 3


def test_a_file_that_cannot_be_read_does_not_stop_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(log, "warning", warned.append)
    (tmp_path / "history.jsonl").mkdir()
    found = History(HistoryFile(tmp_path / "history.jsonl"))
    found.add(ATTACH)
    found.close()
    assert found.recent(9)[0] == (ATTACH,)
    assert len(warned) == 2
