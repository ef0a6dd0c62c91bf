"""Two hosts on a link, as network namespaces of this machine. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[5] / "scripts"
IMPORTS = """
import ipaddress, json, socket, time
from pgpool_cluster.machine.network import carried_address
from pgpool_cluster.machine.network.carried_address import Placement
def at(text, alone=True):
    return Placement(ipaddress.ip_interface(text), "eth0", alone)
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A host; `pid`: a process in its network namespace."""

    pid: int

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *words]

    def run(self, line: str) -> str:
        """Run a command of words without quoting, and return its output."""
        return subprocess.run(self.command(*line.split()), check=True, capture_output=True, text=True).stdout

    def python(self, code: str) -> str:
        """Run code with IMPORTS in a new interpreter, and return its output."""
        with self.starting(code) as process:
            output, _ = process.communicate(timeout=30)
            assert process.returncode == 0, output
            return output.strip()

    @contextlib.contextmanager
    def starting(self, code: str) -> Iterator[subprocess.Popen[str]]:
        """Run code while the block runs."""
        command = self.command(sys.executable, "-c", IMPORTS + code)
        environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield process
            finally:
                process.kill()


@contextlib.contextmanager
def link() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts whose eth0 are the ends of a cable: 10.0.0.1 and fd00::1, 10.0.0.2 and fd00::2."""
    if os.getuid() != 0 or subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and a kernel that permits network namespaces")
    with _namespace() as one, _namespace() as other:
        one.run(f"ip link add eth0 type veth peer name eth0 netns {other.pid}")
        for number, host in enumerate((one, other), 1):
            host.run("ip link set lo up")
            host.run("ip link set eth0 up")
            host.run(f"ip address add 10.0.0.{number}/24 dev eth0")
            host.run(f"ip address add fd00::{number}/64 dev eth0 nodad")
        yield one, other


@contextlib.contextmanager
def _namespace() -> Iterator[Namespace]:
    command = ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # now it is in its namespace
            yield Namespace(process.pid)
        finally:
            process.kill()
