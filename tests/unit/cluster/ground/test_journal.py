"""Structured entries of the journal: their encoding, and what happens without a journal."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgpool_cluster.ground import journal, log, paths
from pgpool_cluster.ground.log import Priority


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in place of the journal's."""
    monkeypatch.setattr(paths, "JOURNAL", tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(paths.JOURNAL))
        listening.settimeout(10)
        yield listening


def test_a_field_is_a_line() -> None:
    assert journal.encode({"MESSAGE": "a = b", "PRIORITY": "6"}) == b"MESSAGE=a = b\nPRIORITY=6\n"


def test_a_value_with_a_line_break_adds_no_field() -> None:
    assert journal.encode({"WHY": "x\nPRIORITY=0"}) == b"WHY\n\x0c\0\0\0\0\0\0\0x\nPRIORITY=0\n"


def test_text_that_is_not_unicode_is_sent_nevertheless() -> None:
    assert journal.encode({"WHY": "\ud800"}) == b"WHY=?\n"


@pytest.mark.parametrize("name", ["", "lower", "_PID", "A=B", "A\nB", "A" * 65])
def test_a_name_that_the_journal_would_drop_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="name of a field"):
        journal.encode({name: "x"})


def test_an_entry_is_one_datagram(received: socket.socket) -> None:
    assert journal.send({"MESSAGE": "one", "MESSAGE_ID": "a" * 32})
    assert received.recv(1000) == b"MESSAGE=one\nMESSAGE_ID=" + b"a" * 32 + b"\n"


def test_a_journal_that_is_absent_or_does_not_read_is_not_waited_for(received: socket.socket) -> None:
    sent = 0
    while journal.send({"MESSAGE": "x" * 1000}) and sent < 100_000:
        sent += 1
    assert 0 < sent < 100_000
    received.close()
    assert not journal.send({"MESSAGE": "one"})
    paths.JOURNAL.unlink()
    assert not journal.send({"MESSAGE": "one"})


def connect_output(patch: pytest.MonkeyPatch) -> None:
    """Let standard output be the stream that systemd has connected to the journal."""
    found = os.fstat(1)
    patch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")


def test_an_entry_of_a_unit_has_its_text_priority_and_fields(
    received: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    connect_output(monkeypatch)
    log.entry(Priority.WARNING, "promote pg2: failed", {"PGPOOL_CLUSTER_NODE": "pg2"})
    text = b"MESSAGE=promote pg2: failed\nPRIORITY=4\nSYSLOG_IDENTIFIER=pgpoolctl\nPGPOOL_CLUSTER_NODE=pg2\n"
    assert received.recv(1000) == text
    assert capfd.readouterr().out == ""


def test_without_a_journal_the_text_is_a_line(
    received: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log.entry(Priority.INFO, "attach pg2", {"PGPOOL_CLUSTER_NODE": "pg2"})
    received.setblocking(False)
    with pytest.raises(BlockingIOError):
        received.recv(1000)
    connect_output(monkeypatch)
    paths.JOURNAL.unlink()
    log.entry(Priority.INFO, "detach pg2", {})
    assert capfd.readouterr().out == "attach pg2\n<6>detach pg2\n"
