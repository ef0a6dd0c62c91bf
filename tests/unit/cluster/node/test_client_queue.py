"""Clients of a pgpool-II wait while its processes are stopped, and no process stays stopped, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.cluster import small_pgpool

from pgpool_cluster.ground import paths
from pgpool_cluster.machine import pool_children, process_watch
from pgpool_cluster.machine.pool_children import Doing
from pgpool_cluster.node import client_queue
from pgpool_cluster.node.client_queue import IDLE_SECONDS, ClientQueue

CHILDREN = 4


def soon(query: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until the query is true; fail if that takes too long."""
    deadline = time.monotonic() + seconds
    while not query():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@dataclass
class Pool:
    """A running pgpool-II of small_pgpool.py, and the connections of its clients."""

    process: subprocess.Popen[bytes]
    port: int
    clients: list[socket.socket] = field(default_factory=list)

    @property
    def children(self) -> list[int]:
        return process_watch.children(self.process.pid)

    @property
    def stopped(self) -> list[int]:
        return [pid for pid in self.children if process_watch.is_frozen(pid)]

    def client(self, activity: str = "") -> socket.socket:
        """Connect a client; with `activity`, its process does that when this method returns."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        self.clients.append(found)
        if activity:
            assert say(found, activity).endswith(activity)
        return found

    def close(self) -> None:
        for one in self.clients:
            one.close()
        every = [*process_watch.children(self.process.pid), self.process.pid]
        for pid in every:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def say(client: socket.socket, activity: str) -> str:
    client.sendall(activity.encode())
    return client.recv(100).decode()


def answers(client: socket.socket, seconds: float) -> bool:
    """Return whether the client has its answer within so many seconds."""
    client.settimeout(seconds)
    try:
        return bool(client.recv(100))
    except TimeoutError:
        return False
    finally:
        client.settimeout(5)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, small_pgpool.__file__, str(port), str(CHILDREN), "-" * 100]
    found = Pool(subprocess.Popen(words, env={"PATH": "/usr/bin", "PYTHONPATH": "."}), port)
    monkeypatch.setattr(paths, "POOL_PID", tmp_path / "pgpool.pid")
    paths.POOL_PID.write_text(f"{found.process.pid}\0")
    # Tests in other processes have pools of their own, which must not continue here.
    monkeypatch.setattr(pool_children, "_numbers", lambda: found.children)
    waits = "pgpool: wait for connection request"
    soon(lambda: [pool_children.title(pid) for pid in found.children] == [waits] * CHILDREN)
    yield found
    found.close()


@pytest.fixture
def queue() -> Iterator[ClientQueue]:
    found = ClientQueue()
    yield found
    found.end()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("pgpool: wait for connection request", Doing.WAITING),
        ("pgpool: wait for accept lock", Doing.WAITING),
        ("pgpool: accept connection", Doing.BUSY),
        ("pgpool: app bench 10.0.0.1(41234) idle", Doing.IDLE),
        ("pgpool: app bench [local] idle", Doing.IDLE),
        ("pgpool: a user bench fd00::1(5) idle", Doing.IDLE),
        ("pgpool: app bench 10.0.0.1(41234) idle in transaction", Doing.BUSY),
        ("pgpool: app bench 10.0.0.1(41234) INSERT", Doing.BUSY),
        ("pgpool: ", Doing.OTHER),
        ("pgpool: worker process", Doing.OTHER),
        ("pgpool: PCP: wait for connection request", Doing.OTHER),
        ("pgpool: PCP: processing set configuration parameter request", Doing.OTHER),
        ("pgpool: health check process(1)", Doing.OTHER),
        ("pgpool: PgpoolLogger", Doing.OTHER),
        ("/usr/sbin/pgpool", Doing.OTHER),
        ("", Doing.OTHER),
    ],
)
def test_the_title_says_what_a_process_does(title: str, expected: Doing) -> None:
    assert pool_children.doing(title) is expected


def test_clients_by_tcp_are_told_apart_from_local_ones() -> None:
    titles = ["pgpool: app bench 10.0.0.1(41234) idle", "pgpool: app bench [local] BEGIN", "pgpool: accept connection"]
    assert [pool_children.by_tcp(title) for title in titles] == [True, False, True]


def test_a_new_client_waits_and_is_served_after_the_queue(pool: Pool, queue: ClientQueue) -> None:
    soon(lambda: queue.begin(10, pool.port) == 0)
    assert len(pool.stopped) == CHILDREN
    client = pool.client()
    client.sendall(b"idle")
    assert not answers(client, 0.2)
    queue.end()
    assert pool.stopped == []
    assert answers(client, 2)


def test_a_transaction_goes_on_and_its_process_stops_once_it_has_ended(pool: Pool, queue: ClientQueue) -> None:
    busy = pool.client("idle in transaction")
    soon(lambda: queue.begin(10, pool.port) == 1)
    assert say(busy, "UPDATE") == "1 UPDATE"
    soon(lambda: queue.begin(10, pool.port) == 1)
    assert say(busy, "idle") == "1 idle"
    soon(lambda: queue.begin(10, pool.port) == 0)
    busy.sendall(b"BEGIN")
    assert not answers(busy, 0.2), "a new statement outside a transaction waits"
    queue.end()
    assert answers(busy, 2)


def test_a_client_that_has_just_logged_in_sends_its_statement(pool: Pool, queue: ClientQueue) -> None:
    """It would lose its connection: this is the moment in which a client that reconnects is most often seen."""
    long_idle = pool.client("idle")
    threading.Timer(IDLE_SECONDS / 2, lambda: pool.client("idle")).start()
    assert queue.begin(10, pool.port) == 1
    soon(lambda: len(pool.clients) == 2)
    fresh = pool.clients[1]
    assert say(fresh, "INSERT") == "1 INSERT"
    fresh.close()
    soon(lambda: queue.begin(10, pool.port) == 0)
    long_idle.sendall(b"BEGIN")
    assert not answers(long_idle, 0.2)


def test_a_client_that_pauses_only_briefly_is_stopped_in_the_end(pool: Pool, queue: ClientQueue) -> None:
    client, over = pool.client("BEGIN"), threading.Event()

    def go_on() -> None:
        with contextlib.suppress(TimeoutError):
            while not over.is_set():
                say(client, "idle")
                time.sleep(0.02)
                say(client, "BEGIN")

    client.settimeout(1)
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        queue.begin(10, pool.port)
        soon(lambda: queue.begin(10, pool.port) == 0)
    finally:
        over.set()
        thread.join()


def test_a_process_whose_client_disconnects_is_stopped_before_it_accepts_the_next(
    pool: Pool, queue: ClientQueue
) -> None:
    busy = [pool.client("idle in transaction") for _ in range(CHILDREN)]
    soon(lambda: queue.begin(10, pool.port) == CHILDREN)
    for one in busy:
        one.close()
    soon(lambda: len(pool.stopped) == CHILDREN)


def test_replaced_processes_serve_the_clients_that_wait_and_the_old_ones_end(pool: Pool, queue: ClientQueue) -> None:
    soon(lambda: queue.begin(10, pool.port) == 0)
    old = pool.stopped
    client = pool.client()
    client.sendall(b"idle")
    with queue.redirecting():
        pool.process.send_signal(signal.SIGUSR1)
    assert client.recv(100) == b"2 idle"
    soon(lambda: not any(map(process_watch.is_left, old)))
    assert pool.stopped == []


def test_one_thread_at_a_time_has_the_processes_replaced(pool: Pool, queue: ClientQueue) -> None:
    """A second replacement would end the sessions of clients that the first one has served."""
    soon(lambda: queue.begin(10, pool.port) == 0)
    inside: list[str] = []

    def redirect(name: str) -> None:
        with queue.redirecting():
            inside.append(f"{name} begins")
            time.sleep(0.1)
            if name == "first":
                pool.process.send_signal(signal.SIGUSR1)
            inside.append(f"{name} ends")

    first = threading.Thread(target=redirect, args=("first",))
    first.start()
    soon(lambda: inside)
    redirect("second")
    first.join()
    assert inside == ["first begins", "first ends", "second begins", "second ends"]
    assert pool.stopped == []


def test_clients_count_as_busy_until_the_first_round_is_over(
    pool: Pool, queue: ClientQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_queue, "_FIRST_SECONDS", 0.01)
    real = pool_children.children

    def slow(parent: int) -> list[int]:
        time.sleep(0.3)
        return real(parent)

    monkeypatch.setattr(pool_children, "children", slow)
    assert queue.begin(10, pool.port) > 0
    soon(lambda: queue.begin(10, pool.port) == 0)


def test_a_redirection_that_fails_leaves_the_clients_waiting(pool: Pool, queue: ClientQueue) -> None:
    soon(lambda: queue.begin(10, pool.port) == 0)
    with pytest.raises(OSError, match="pcp"), queue.redirecting():
        raise OSError("pcp")
    client = pool.client()
    client.sendall(b"idle")
    assert not answers(client, 0.2)
    queue.end()
    assert client.recv(100) == b"1 idle"


def test_pgpool_can_end_processes_that_are_stopped(pool: Pool, queue: ClientQueue) -> None:
    """Otherwise, a stop of the unit would wait for its time limit."""
    soon(lambda: queue.begin(10, pool.port) == 0)
    pool.process.send_signal(signal.SIGUSR2)
    soon(lambda: pool.children == [])


def test_every_queue_ends_at_its_deadline(pool: Pool, queue: ClientQueue) -> None:
    queue.begin(0.6, pool.port)
    soon(lambda: pool.stopped, 0.6)
    queue.begin(60, pool.port)  # asked again, it keeps its deadline
    soon(lambda: not pool.stopped, 1.0)


def test_no_request_makes_clients_wait_for_longer_than_the_limit(
    pool: Pool, queue: ClientQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_queue, "LONGEST_SECONDS", 0.6)
    queue.begin(1e9, pool.port)
    soon(lambda: pool.stopped, 0.6)
    soon(lambda: not pool.stopped, 1.0)


def test_a_queue_that_is_abandoned_ends(pool: Pool, queue: ClientQueue) -> None:
    """As in the handler of SIGTERM."""
    soon(lambda: queue.begin(10, pool.port) == 0)
    queue.abandon()
    soon(lambda: not pool.stopped, 1.0)
    soon(lambda: queue.begin(10, pool.port) == 0)  # another queue can begin
    assert len(pool.stopped) == CHILDREN


def test_an_error_of_the_thread_ends_the_queue(pool: Pool, queue: ClientQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    soon(lambda: queue.begin(10, pool.port) == 0)

    def fail(_: int) -> list[int]:
        raise OSError("/proc")

    monkeypatch.setattr(pool_children, "children", fail)
    soon(lambda: not pool.stopped, 1.0)


def test_processes_that_a_killed_agent_left_stopped_continue(pool: Pool) -> None:
    for pid in pool.children[:2]:
        os.kill(pid, signal.SIGSTOP)
    soon(lambda: len(pool.stopped) == 2)
    assert len(pool_children.release()) == 2
    soon(lambda: not pool.stopped)


def test_without_pgpool_there_is_no_queue(queue: ClientQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "POOL_PID", tmp_path / "pgpool.pid")
    assert queue.begin(10, 9999) == 0
    with queue.redirecting():
        pass


def test_a_process_that_accepts_a_client_as_it_is_stopped_serves_it(
    pool: Pool, queue: ClientQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its title still says that it waits: the number of accepted connections shows it."""
    client = pool.client()
    soon(lambda: pool_children.accepted(pool.port) == 1)
    real = pool_children.title

    def title(pid: int) -> str:
        found = real(pid)
        return "pgpool: wait for connection request" if "accept" in found else found

    monkeypatch.setattr(pool_children, "title", title)
    soon(lambda: queue.begin(10, pool.port) == 0)
    client.sendall(b"idle")
    assert answers(client, 2)
