"""The agent's socket: requests in, answers out, one line of JSON each; and word to systemd."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from . import paths
from .errors import ClusterError, ServerError
from .peers import Progress, raised

SILENCE = 1800.0
"""Seconds that a stage of a recovery may take without a word."""
Json = dict[str, Any]
Answer = Callable[[Json, Progress], Json]


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[None]:
    """Answer requests on the socket, each in a thread of its own, for as long as the block runs."""
    paths.AGENT.unlink(missing_ok=True)

    class Connection(socketserver.StreamRequestHandler):
        def setup(self) -> None:
            super().setup()
            self.saying = threading.Lock()

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                for line in self.rfile:
                    threading.Thread(target=self.serve, args=(line,), daemon=True).start()

        def serve(self, line: bytes) -> None:
            number, found = None, Json()
            try:
                request = json.loads(line)
                number = request.pop("id", None)
                found = {"done": answer(request, lambda text: self.say(number, {"progress": text}))}
            except ClusterError as error:
                found = {"error": error.message, "hint": error.hint, "status": int(error.exit_status)}
            except Exception as error:
                print(traceback.format_exc(), flush=True)
                reason = f"{paths.UNIT} failed: {error!r}"
                found = {"error": reason, "hint": f"journalctl -u {paths.UNIT} has the rest"}
            self.say(number, found)

        def say(self, number: int | None, line: Json) -> None:
            with self.saying, contextlib.suppress(OSError, ValueError):  # who asked may have gone; the work goes on
                self.wfile.write(json.dumps({**line, "id": number}).encode() + b"\n")
                self.wfile.flush()

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 32

    before = os.umask(0o177)
    try:
        listening = Server(str(paths.AGENT), Connection)
    finally:
        os.umask(before)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
    try:
        yield
    finally:
        listening.shutdown()
        listening.server_close()
        paths.AGENT.unlink(missing_ok=True)


def ask(request: Json, *, seconds: float = 30.0, progress: Progress | None = None) -> Json:
    """Ask this node's agent and return its result; raises ClusterError. `seconds` bound the silence between lines."""
    hint = f"systemctl status {paths.UNIT} shows why; systemctl start {paths.UNIT}"
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(seconds)
            asking.connect(str(paths.AGENT))
            asking.sendall(json.dumps(request).encode() + b"\n")
            with asking.makefile("r", encoding="utf-8") as stream:
                for text in stream:
                    line = json.loads(text)
                    if "progress" not in line:
                        return raised(line)
                    if progress is not None:
                        progress(str(line["progress"]))
    except PermissionError as error:
        raise ServerError(f"{paths.AGENT}: {error.strerror}", hint="run it as root") from error
    except TimeoutError as error:
        raise ServerError(f"{paths.UNIT} does not answer for {seconds:.0f} s", hint=hint) from error
    except (OSError, ValueError) as error:
        raise ServerError(f"{paths.UNIT} is not running on this node", hint=hint) from error
    raise ServerError(f"{paths.UNIT} ended while it was asked", hint=hint)


def bridge() -> None:
    """Join standard input and output with the agent's socket: the program behind another node's ssh key."""
    with socket.socket(socket.AF_UNIX) as agent:
        try:
            agent.connect(str(paths.AGENT))
        except OSError as error:
            raise ServerError(f"{paths.UNIT} is not running there", hint=f"systemctl start {paths.UNIT}") from error

        def answers() -> None:
            with contextlib.suppress(OSError):
                while data := agent.recv(65536):
                    os.write(1, data)
            os._exit(0)

        threading.Thread(target=answers, daemon=True).start()
        while data := os.read(0, 65536):
            agent.sendall(data)


def notify(text: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it does not listen."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as saying:
            saying.connect(f"\0{place[1:]}" if place.startswith("@") else place)
            saying.sendall(text.encode())
