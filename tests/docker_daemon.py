"""A private docker daemon: it shares no socket, data or container with another one, and leaves none behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from docker.errors import DockerException

from pgpool_deb.boxes import disk, machine
from pgpool_deb.boxes.docker_endpoint import connected
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import MachineError

_START_SECONDS = 60
_STOP_SECONDS = 30


@dataclass(slots=True)
class Daemon:
    """A dockerd whose files are all in `place`, a folder with a short path that overlay mounts can lie on.

    It has its own network namespace. Its containers have no network or an isolated one, independently of the machine's
    packet filter.
    """

    place: Path
    _process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def host(self) -> str:
        """The endpoint, as in DOCKER_HOST."""
        return f"unix://{self.place}/docker.sock"

    @property
    def log(self) -> Path:
        """The log of dockerd."""
        return self.place / "dockerd.log"

    def start(self) -> None:
        """Start the daemon and wait until it answers. Raises MachineError if it does not.

        The kernel sends it SIGTERM when the calling thread ends, for whatever reason.
        """
        words = ["dockerd", "--host", self.host, "--pidfile", f"{self.place}/dockerd.pid"]
        folders = ["--data-root", f"{self.place}/data", "--exec-root", f"{self.place}/run"]
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        # After a crash, the process ids in these files may belong to other processes or to zombies.
        for left in ("dockerd.pid", "run/containerd/containerd.pid"):
            (self.place / left).unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "unshare", "--net", *words, *folders, *network],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
                raise MachineError(f"dockerd does not start: {lines[-1] if lines else 'it printed nothing'}",
                                   hint=f"read {self.log}")  # fmt: skip
            time.sleep(0.1)

    def answers(self) -> bool:
        """Return whether the daemon answers."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(5)
                asking.connect(f"{self.place}/docker.sock")
                asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in asking.recv(64)
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the daemon, as in a crash. Its containers continue to run until it is started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Stop the daemon and its containers."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop the daemon and delete its folder."""
        self.stop()
        self._end_containers()
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        for target in reversed([line.split()[1] for line in mounts]):
            if Path(target).is_relative_to(self.place):
                subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.place)], check=True)

    def _end_containers(self) -> None:
        """Kill containers and shims left running by a crashed daemon, identified by the containers' ids."""
        ids = [found.name.encode() for found in (self.place / "data" / "containers").glob("*")]
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                known_by = (process / "cgroup").read_bytes() + (process / "cmdline").read_bytes()
                if any(name in known_by for name in ids):
                    os.kill(int(process.name), signal.SIGKILL)


def answers() -> bool:
    """Return whether an engine answers at the docker client's endpoint."""
    try:
        connected().close()
    except (OSError, DockerException):
        return False
    return True


@contextmanager
def running(*, install: bool) -> Iterator[Daemon]:
    """Run a daemon in a new folder during the block; install docker.io if it is missing.

    Raises MachineError if installation is forbidden or this user is not root.
    """
    if os.geteuid() != 0:
        raise MachineError("a docker daemon can only be started as root", hint="start one: sudo systemctl start docker")
    machine.require(machine.DOCKER, install=install, report=print)
    place = Path(tempfile.mkdtemp(prefix="pgpool-deb-test-", dir=_disk()))
    place.chmod(0o711)
    daemon = Daemon(place)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.remove()


def _disk() -> Path:
    """Return a folder that supports overlays, unlike a container's own disk, with a path short enough for sockets."""
    usual = Path("/var/lib")
    try:
        disk.check_overlays(usual)
    except MachineError:
        return Cache.open().path
    return usual
