"""An HTTP server on this machine that misbehaves on request, with one function for each answer."""

from __future__ import annotations

import gzip
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONTENT = random.Random(1).randbytes(200_000)
MUCH = 100_000_000
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        answers = self.server.answers[self.path]
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def start(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Keep the tests' output clean."""


Answer = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.ranges: list[str | None] = []
        self.sent = 0
        self.part: Path | None = None
        self.patience_over = threading.Event()

    def at(self, path: str, *answers: Answer) -> str:
        """Give each request for `path` the next answer, and repeat the last one; return the address."""
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *args: Any) -> None:
        """Ignore it: these tests have clients that hang up."""


def whole(handler: Handler) -> None:
    """Answer as a good server does, ranges included."""
    requested = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if not requested:
        handler.start(200, len(CONTENT))
        handler.wfile.write(CONTENT)
        return
    first, last = int(requested[1]), min(int(requested[2] or len(CONTENT)), len(CONTENT) - 1)
    handler.start(206, last + 1 - first, Content_Range=f"bytes {first}-{last}/{len(CONTENT)}")
    handler.wfile.write(CONTENT[first : last + 1])


def ignoring_ranges(handler: Handler) -> None:
    handler.start(200, len(CONTENT))
    handler.wfile.write(CONTENT)


def half(handler: Handler) -> None:
    handler.start(200, len(CONTENT))
    handler.wfile.write(CONTENT[:HALF])


def half_without_a_length(handler: Handler) -> None:
    handler.start(200, None)
    handler.wfile.write(CONTENT[:HALF])


def half_then_stalling(handler: Handler) -> None:
    half(handler)
    handler.server.patience_over.wait(10)


def half_then_interrupting(handler: Handler) -> None:
    """Press Ctrl-C once the client has received the data and waits for more."""
    half(handler)
    main, part = threading.main_thread().ident, handler.server.part
    assert main
    assert part
    for _ in range(1000):
        if part.exists() and part.stat().st_size > HALF - 20_000:
            break
        time.sleep(0.001)
    signal.pthread_kill(main, signal.SIGINT)
    handler.server.patience_over.wait(10)


def a_bit_more_each_time(handler: Handler) -> None:
    requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    first = int(requested[1]) if requested else 0
    total = len(CONTENT)
    handler.start(206 if requested else 200, total - first, Content_Range=f"bytes {first}-{total - 1}/{total}")
    handler.wfile.write(CONTENT[first : first + 40_000])


def never_answering(handler: Handler) -> None:
    handler.server.patience_over.wait(10)


def wrong_range(handler: Handler) -> None:
    handler.start(206, 10, Content_Range=f"bytes 0-9/{len(CONTENT)}")
    handler.wfile.write(CONTENT[:10])


def much_too_long(handler: Handler) -> None:
    handler.start(200, MUCH)
    for _ in range(MUCH // 1_000_000):
        handler.wfile.write(bytes(1_000_000))
        handler.server.sent += 1_000_000


def encoded_where_allowed(handler: Handler) -> None:
    allowed = "gzip" in handler.headers.get("Accept-Encoding", "")
    body = gzip.compress(CONTENT) if allowed else CONTENT
    handler.start(200, len(body), **({"Content_Encoding": "gzip"} if allowed else {}))
    handler.wfile.write(body)


def status(code: int) -> Answer:
    return lambda handler: handler.start(code, 0)


def content(body: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.start(200, len(body))
        handler.wfile.write(body)

    return answer


def redirect(path: str) -> Answer:
    return lambda handler: handler.start(302, 0, Location=path)
