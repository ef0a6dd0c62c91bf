"""A program with pgpool-II's processes: it forks children in advance, and each accepts its clients and sets its title.

Run it as `python small_pgpool.py PORT CHILDREN` and padding for the titles. A client sends what its process is to do
from then on (`idle`, `BEGIN`, ...), and gets it back once the title says so. SIGUSR1: replace the children, as after
pcp_promote_node; SIGUSR2: end them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

GENERATION = 1


def set_title(text: str) -> None:
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(words[45]), int(words[46])
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(f"pgpool: {text}".encode().ljust(end - begin, b"\0"))


def serve(listening: socket.socket, generation: int) -> None:
    for number in (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):  # a shell's background job ignores SIGQUIT
        signal.signal(number, signal.SIG_DFL)
    while True:
        set_title("wait for connection request")
        client, address = listening.accept()
        set_title("accept connection")
        with client:
            while said := client.recv(100).decode():
                set_title(f"app bench {address[0]}({address[1]}) {said}")
                client.sendall(f"{generation} {said}".encode())


def main(port: int, count: int) -> None:
    Path("/proc/self/comm").write_text("pgpool")
    listening = socket.create_server(("127.0.0.1", port), backlog=64)
    generation = GENERATION
    children: list[int] = []

    def begin() -> None:
        for _ in range(count):
            pid = os.fork()
            if not pid:
                serve(listening, generation)
            children.append(pid)

    def end(*_: object) -> None:
        for pid in children:
            os.kill(pid, signal.SIGQUIT)
        children.clear()

    def replace(*_: object) -> None:
        nonlocal generation
        generation += 1
        end()
        begin()

    signal.signal(signal.SIGUSR1, replace)
    signal.signal(signal.SIGUSR2, end)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    begin()
    while True:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.005)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
