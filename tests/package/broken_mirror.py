"""The machine's own mirror behind a relay that fails on request or speaks TLS."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.close_connection = True
        breaks = next((act for pattern, act in self.server.faults.items() if re.search(pattern, self.path)), None)
        (breaks or whole)(self)

    def fetched(self, *passed_on: str) -> requests.Response:
        forwarded = {name: self.headers[name] for name in passed_on if name in self.headers}
        return requests.get(
            self.server.upstream + self.path, headers=forwarded | {"Accept-Encoding": "identity"}, timeout=60
        )

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


def whole(handler: Handler) -> None:
    """Pass on the real mirror's answer."""
    _pass_on(handler, handler.fetched("Range", "If-Range", "If-Modified-Since"), 1.0)


def half(handler: Handler) -> None:
    """Send only the first half, even if a client requests the rest."""
    _pass_on(handler, handler.fetched(), 0.5)


def _pass_on(handler: Handler, answer: requests.Response, part: float) -> None:
    handler.send_response(answer.status_code)
    for name in ("Content-Length", "Content-Range", "Last-Modified", "Content-Type"):
        if name in answer.headers:
            handler.send_header(name, answer.headers[name])
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(answer.content[: int(len(answer.content) * part)])


def missing(handler: Handler) -> None:
    handler.send_error(404)


def hang(handler: Handler) -> None:
    handler.server.closing.wait(60)


class Mirror(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, authority: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.authority = upstream, authority
        self.faults: dict[str, Callable[[Handler], None]] = {}
        self.closing = threading.Event()
        self.uri = f"http://127.0.0.1:{self.server_port}"
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.uri = self.uri.replace("http", "https", 1)

    def shutdown_request(self, request: Any) -> None:
        """Close TLS properly; apt considers any other end a partial answer."""
        if isinstance(request, ssl.SSLSocket):
            with suppress(OSError):
                request.unwrap()
        super().shutdown_request(request)

    def handle_error(self, *args: Any) -> None:
        """Ignore it: these tests have clients that hang up."""
