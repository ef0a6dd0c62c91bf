"""Requests use the proxies and certificates of the environment, else those of apt."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import requests
from tests.authority import company
from tests.serving import serving

from pgpool_deb.ground import web


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


class Server(ThreadingHTTPServer):
    """Answers every request with `status`, as a server and as a proxy."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.asked: list[str] = []
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *args: Any) -> None:
        """Ignore it: these tests have clients that reject the certificate."""


@pytest.fixture
def proxy() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture
def direct() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the whole configuration of apt."""
    path = tmp_path / "apt.conf"
    path.touch()
    monkeypatch.setenv("APT_CONFIG", str(path))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return path


def status_of(address: str) -> int:
    with web.get(address, timeout=5) as answer:
        return answer.status_code


def test_apts_proxy_is_used_if_the_environment_has_none(
    conf: Path, proxy: Server, direct: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf.write_text(f'Acquire::http::Proxy "{proxy.uri}";')
    assert status_of("http://mirror.invalid/pool/x") == 200
    assert proxy.asked == ["http://mirror.invalid/pool/x"]
    monkeypatch.setenv("http_proxy", direct.uri)
    assert status_of("http://mirror.invalid/pool/y") == 200
    assert direct.asked == ["http://mirror.invalid/pool/y"]


def test_a_proxy_that_serves_only_packages_is_bypassed(conf: Path, proxy: Server, direct: Server) -> None:
    conf.write_text(f'Acquire::http::Proxy "{proxy.uri}";')
    proxy.status = 403
    assert status_of(f"{direct.uri}/x") == 200
    assert (len(proxy.asked), direct.asked) == (1, ["/x"])


def test_a_request_fails_if_the_proxy_refuses_and_no_other_way_works(conf: Path, proxy: Server) -> None:
    conf.write_text(f'Acquire::http::Proxy "{proxy.uri}";')
    proxy.status = 404
    assert status_of("http://mirror.invalid/x") == 404


def test_a_proxy_that_is_down_is_bypassed(conf: Path, direct: Server) -> None:
    conf.write_text('Acquire::http::Proxy "http://127.0.0.1:9";')
    assert status_of(f"{direct.uri}/x") == 200


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return company(tmp_path / "company.pem")


def test_a_certificate_authority_that_only_apt_knows_suffices(conf: Path, direct: Server, authority: Path) -> None:
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    direct.socket = context.wrap_socket(direct.socket, server_side=True)
    address = f"{direct.uri.replace('http', 'https')}/x"
    with pytest.raises(requests.exceptions.SSLError):
        status_of(address)
    conf.write_text(f'Acquire::https::CaInfo "{authority}";')
    assert status_of(address) == 200
