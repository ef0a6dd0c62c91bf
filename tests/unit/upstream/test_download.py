"""Downloads against a real HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.serving import serving
from tests.unit.upstream.misbehaving_server import (
    CONTENT,
    HALF,
    MUCH,
    Answer,
    Server,
    a_bit_more_each_time,
    content,
    encoded_where_allowed,
    half,
    half_then_interrupting,
    half_then_stalling,
    half_without_a_length,
    ignoring_ranges,
    much_too_long,
    never_answering,
    redirect,
    status,
    whole,
    wrong_range,
)

from pgpool_deb.ground.errors import ExitStatus, MachineError
from pgpool_deb.upstream import download
from pgpool_deb.upstream.download import Availability, Patience, Probe, fetch, fetch_unpinned, probe

SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(connect=1, stall=0.6, tries=3, pause=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Server()) as server:
        yield server
        server.patience_over.set()


@dataclass
class Fetching:
    destination: Path
    lines: list[str] = field(default_factory=list)

    @property
    def part(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.part")

    def __call__(self, *addresses: str, size: int = len(CONTENT), sha256: str = SHA256) -> None:
        fetch(addresses, self.destination, sha256, size, self.lines.append, patience=QUICK)

    def fails(self, *addresses: str, **wanted: Any) -> MachineError:
        with pytest.raises(MachineError) as caught:
            self(*addresses, **wanted)
        assert not self.destination.exists()
        assert caught.value.exit_status is ExitStatus.ENVIRONMENT
        assert "\n" not in caught.value.message
        assert caught.value.hint
        return caught.value


@pytest.fixture
def fetching(tmp_path: Path) -> Fetching:
    return Fetching(tmp_path / "cache" / "file.tar.gz")


def unused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/file"


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([whole], id="good"),
        pytest.param([status(500), whole], id="500 then good"),
        pytest.param([status(503), status(429), whole], id="503, 429, then good"),
        pytest.param([half, whole], id="half-sent then the rest"),
        pytest.param([half_without_a_length, whole], id="half-sent without a length then the rest"),
        pytest.param([half, ignoring_ranges], id="half-sent, then a server that ignores Range"),
        pytest.param([half, wrong_range, whole], id="half-sent, then another range than asked for"),
        pytest.param([half, status(416), whole], id="half-sent, then no range"),
        pytest.param([half_then_stalling, whole], id="stalled then the rest"),
        pytest.param([never_answering, whole], id="no answer then good"),
        pytest.param([a_bit_more_each_time], id="cut off more often than there are tries, but going on"),
    ],
)
def test_a_temporary_fault_is_retried(server: Server, fetching: Fetching, answers: list[Answer]) -> None:
    fetching(server.at("/file", *answers))
    assert fetching.destination.read_bytes() == CONTENT
    assert not fetching.part.exists()


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([whole], id="good"),
        pytest.param([status(503), half, whole], id="503, half-sent, then good"),
        pytest.param([half_then_stalling, whole], id="stalled then good"),
    ],
)
def test_a_temporary_fault_of_an_unpinned_file_is_retried(
    server: Server, tmp_path: Path, answers: list[Answer]
) -> None:
    fetch_unpinned(server.at("/file", *answers), tmp_path / "file", patience=QUICK)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "reason"), [(status(404), "404 Not Found$"), (half, "ended in the middle of the file$")]
)
def test_a_lasting_fault_of_an_unpinned_file_is_an_error(
    server: Server, tmp_path: Path, answer: Answer, reason: str
) -> None:
    address = server.at("/file", answer)
    with pytest.raises(MachineError) as caught:
        fetch_unpinned(address, tmp_path / "file", patience=QUICK)
    assert re.search(f"^{re.escape(address)}: .*{reason}", caught.value.message)


def test_a_partial_body_is_continued_and_not_restarted(server: Server, fetching: Fetching) -> None:
    fetching(server.at("/file", half, whole))
    first, second = server.ranges
    assert first is None
    assert second
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= HALF


def test_a_redirect_is_followed(server: Server, fetching: Fetching) -> None:
    server.at("/there", whole)
    fetching(server.at("/here", redirect("/there")))
    assert fetching.destination.read_bytes() == CONTENT


def test_a_redirect_loop_ends(server: Server, fetching: Fetching) -> None:
    assert "too many redirects" in fetching.fails(server.at("/file", redirect("/file"))).message


def test_the_next_address_is_tried_if_the_first_fails(server: Server, fetching: Fetching) -> None:
    missing, good = server.at("/missing", status(404)), server.at("/file", whole)
    fetching(unused_address(), missing, good)
    assert fetching.destination.read_bytes() == CONTENT


def test_a_missing_file_is_requested_only_once(server: Server, fetching: Fetching) -> None:
    fetching.fails(server.at("/file", status(404)))
    assert len(server.ranges) == 1


def test_the_error_has_the_answer_of_every_address(server: Server, fetching: Fetching) -> None:
    refused, missing, broken = unused_address(), server.at("/a", status(404)), server.at("/b", status(500))
    silent = server.at("/c", never_answering)
    message = fetching.fails(refused, missing, broken, silent).message
    assert f"{refused}: connection refused" in message
    assert f"{missing}: 404 Not Found" in message
    assert f"{broken}: 500 Internal Server Error" in message
    assert f"{silent}: stopped sending" in message


def test_an_unsupported_address_is_reported(fetching: Fetching) -> None:
    assert "not an http, https or file address" in fetching.fails("gopher://host/file").message


@pytest.mark.parametrize("body", [b"<html>not here</html>", CONTENT[:-1] + b"x", CONTENT + b"x", b""])
def test_wrong_content_names_address_and_both_sums(server: Server, fetching: Fetching, body: bytes) -> None:
    address = server.at("/file", content(body))
    message = fetching.fails(address).message
    assert address in message
    assert hashlib.sha256(body).hexdigest() in message
    assert SHA256 in message
    assert not fetching.part.exists()


def test_wrong_content_leads_to_the_next_address(server: Server, fetching: Fetching) -> None:
    fetching(server.at("/bad", content(b"x" * len(CONTENT))), server.at("/file", whole))
    assert fetching.destination.read_bytes() == CONTENT


def test_an_endless_body_is_not_read_to_its_end(server: Server, fetching: Fetching) -> None:
    error = fetching.fails(server.at("/file", much_too_long))
    assert "more than" in error.message
    assert not fetching.part.exists()
    assert server.sent < MUCH // 2


def test_the_file_is_requested_without_content_encoding(server: Server, fetching: Fetching) -> None:
    fetching(server.at("/file", encoded_where_allowed))
    assert fetching.destination.read_bytes() == CONTENT


def test_a_part_of_an_earlier_run_is_continued(server: Server, fetching: Fetching) -> None:
    fetching.part.parent.mkdir()
    fetching.part.write_bytes(CONTENT[:HALF])
    fetching(server.at("/file", whole))
    assert server.ranges == [f"bytes={HALF}-"]
    assert fetching.destination.read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(fetching: Fetching) -> None:
    fetching.part.parent.mkdir()
    fetching.part.write_bytes(CONTENT)
    fetching(unused_address())
    assert fetching.destination.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"x" * HALF, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_damaged_part_is_dropped_and_the_whole_file_downloaded(
    server: Server, fetching: Fetching, part: bytes
) -> None:
    fetching.part.parent.mkdir()
    fetching.part.write_bytes(part)
    fetching(server.at("/file", whole))
    assert fetching.destination.read_bytes() == CONTENT


def test_a_verified_file_is_not_requested(fetching: Fetching) -> None:
    fetching.destination.parent.mkdir()
    fetching.destination.write_bytes(CONTENT)
    fetching(unused_address())
    assert fetching.lines == []


def test_a_damaged_file_is_downloaded_again(server: Server, fetching: Fetching) -> None:
    fetching.destination.parent.mkdir()
    fetching.destination.write_bytes(CONTENT[:-1] + b"x")
    fetching(server.at("/file", whole))
    assert fetching.destination.read_bytes() == CONTENT


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """Install Python's own handler, because a shell ignores SIGINT in background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_ctrl_c_leaves_the_part_and_the_next_run_continues(server: Server, fetching: Fetching) -> None:
    address = server.at("/file", half_then_interrupting, whole)
    server.part = fetching.part
    with pytest.raises(KeyboardInterrupt):
        fetching(address)
    assert not fetching.destination.exists()
    have = fetching.part.stat().st_size
    assert 0 < have <= HALF
    fetching(address)
    assert server.ranges == [None, f"bytes={have}-"]
    assert fetching.destination.read_bytes() == CONTENT


def test_a_failed_download_keeps_its_part(server: Server, fetching: Fetching) -> None:
    fetching.fails(server.at("/file", half, status(500)))
    assert CONTENT.startswith(fetching.part.read_bytes())
    assert fetching.part.stat().st_size > 0


def test_two_runs_at_once_download_once(server: Server, fetching: Fetching) -> None:
    address = server.at("/file", whole)
    threads = [threading.Thread(target=fetching, args=(address,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.ranges) == 1
    assert fetching.destination.read_bytes() == CONTENT


def test_a_full_disk_names_the_file_system_and_the_need(server: Server, fetching: Fetching) -> None:
    fetching.part.parent.mkdir()
    fetching.part.symlink_to("/dev/full")  # every write there fails with ENOSPC
    message = fetching.fails(server.at("/file", whole)).message
    assert re.search(rf"file system (/\S*) is full: .* needs {len(CONTENT)} more bytes", message)


def test_a_full_disk_is_reported_before_any_request(server: Server, fetching: Fetching) -> None:
    message = fetching.fails(server.at("/file", whole), size=1 << 60).message
    assert str(1 << 60) in message
    assert server.ranges == []


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fetching = Fetching(tmp_path / "file" / "below")
    with pytest.raises(MachineError, match="cannot be written"):
        fetching(unused_address())


def test_a_local_mirror_works(tmp_path: Path, fetching: Fetching) -> None:
    (tmp_path / "a mirror").mkdir()
    (tmp_path / "a mirror" / "file").write_bytes(CONTENT)
    fetching(f"file:{tmp_path}/nothing", f"file://{tmp_path}/a%20mirror/file")
    assert fetching.destination.read_bytes() == CONTENT
    assert "No such file" in Fetching(tmp_path / "other").fails(f"file:{tmp_path}/nothing").message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (whole, Probe(Availability.THERE)),
        (ignoring_ranges, Probe(Availability.THERE)),
        (status(404), Probe(Availability.ABSENT, "404 Not Found")),
        (status(403), Probe(Availability.ABSENT, "403 Forbidden")),
        (content(b"<html>no such file</html>"), Probe(Availability.ABSENT, "another file, of 25 bytes")),
        (status(500), Probe(Availability.SILENT, "500 Internal Server Error")),
        (never_answering, Probe(Availability.SILENT, "stopped sending")),
    ],
)
def test_a_probe_distinguishes_absent_from_silent(server: Server, answer: Answer, expected: Probe) -> None:
    assert probe(server.at("/file", answer), len(CONTENT), QUICK) == expected


def test_a_probe_without_a_server_is_silent() -> None:
    assert probe(unused_address(), 1, QUICK) == Probe(Availability.SILENT, "connection refused")


def test_a_probe_names_a_proxy_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", unused_address().rpartition("/")[0])
    monkeypatch.delenv("no_proxy", raising=False)
    answer = probe("http://mirror.invalid/file", 1, QUICK)
    assert answer.availability is Availability.SILENT
    assert "proxy" in answer.reason


def test_a_probe_of_a_local_mirror(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    absent = Probe(Availability.ABSENT, "no such file of that size")
    assert probe(f"file:{tmp_path}/file", len(CONTENT), QUICK) == Probe(Availability.THERE)
    assert probe(f"file:{tmp_path}/file", 1, QUICK) == absent
    assert probe(f"file:{tmp_path}/none", 1, QUICK) == absent


def test_a_verified_file_has_the_right_size_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not download.is_verified(path, SHA256, len(CONTENT))
    path.write_bytes(CONTENT)
    assert download.is_verified(path, SHA256, len(CONTENT))
    assert not download.is_verified(path, SHA256, len(CONTENT) - 1)
    os.truncate(path, HALF)
    assert not download.is_verified(path, SHA256, len(CONTENT))
