"""`./invoke update` reports news from upstream and Debian, and which of them does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.serving import serving
from tests.unit.upstream.repositories import Repository

from pgpool_deb.automation import watch
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.upstream.pins import Pins


@pytest.fixture
def upstream(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Make a repository with upstream's tags."""
    tags = ("V4_3_5", "V4_6_1", "V4_6_6", "V4_5_9", "V4_7_2", "V4_10_0", "V4_11_0_RC1", "V4_6_7_RPM", "other")
    repository.commit("4.10.0", *tags)
    monkeypatch.setattr(watch, "UPSTREAM", str(repository.root))
    return repository


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve a page that names four CVEs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<a>CVE-2026-9999</a> <a>CVE-2026-10001</a> <a>CVE-2018-1058</a> CVE-2025-46801 ")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Ignore the message."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setattr(watch, "DEBIAN", f"http://127.0.0.1:{server.server_address[1]}/pgpool2")
    with serving(server):
        yield


def told(pins: Pins) -> tuple[ExitStatus, list[str]]:
    lines: list[str] = []
    return watch.run(pins, lines.append), lines


@pytest.mark.usefixtures("upstream", "tracker")
def test_news_is_reported(pins: Pins) -> None:
    status, lines = told(pins)
    assert status is ExitStatus.GOOD
    assert [line.partition(" is ")[0] for line in lines] == ["pgpool-II 4.6.6", "CVE-2025-46801", "CVE-2026-10001"]
    assert lines[0].endswith("./invoke update --pgpool 4.6.6")


def test_a_branch_without_a_pin_counts_if_it_is_newer() -> None:
    pinned = {(4, 6, 1), (4, 7, 2)}
    assert watch.newer({(4, 5, 9), (4, 8, 0), (4, 8, 1), (4, 7, 2), (4, 6, 0)}, pinned) == [(4, 8, 1)]


def test_a_silent_upstream_or_tracker_is_reported(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "UPSTREAM", "/no-such-repository")
    monkeypatch.setattr(watch, "DEBIAN", "http://127.0.0.1:9/pgpool2")
    status, lines = told(pins)
    assert status is ExitStatus.ENVIRONMENT
    assert lines[0].startswith("warning: upstream's tags cannot be read (/no-such-repository): ")
    assert lines[1].startswith("warning: Debian's security tracker cannot be read (http://127.0.0.1:9/pgpool2): ")
    assert len(lines) == 2
