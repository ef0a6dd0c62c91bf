"""A server under test: a container that boots systemd like a real machine."""

from __future__ import annotations

import base64
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container
from tests import docker_daemon
from tests.chroot import Answer

from pgpool_deb.boxes.docker_endpoint import connected
from pgpool_deb.ground.errors import MachineError

Result = TypeVar("Result")

FIRST_BOOT = "/srv/first-boot"
"""A script in an image that runs once on each host, before any service, and sets values unique to each server."""
BOOT = f"""
if [ -f {FIRST_BOOT} ]; then sh -eu {FIRST_BOOT}; rm {FIRST_BOOT}; fi
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec /sbin/init
"""
ONLY_IPV6 = "ip -4 address flush scope global\n"
"""Docker also assigns an IPv4 address to every host."""
LABEL = "pgpool-deb-test"
BOOT_SECONDS = 120.0
ANSWERS = "/dev/shm/answers"  # noqa: S108
ANSWERED = """
mkdir -p -m 700 "$1"; cd "$1"; name=$2; rm -f $3; shift 3
(cd /; exec "$@") >>"$name" 2>&1 && status=0 || status=$?
printf '\\n%s %s\\n' "$name" "$status" >>"$name"
cat "$name"; exit "$status"
"""
"""Runs a command and keeps a copy of its output, which ends with the name of the copy and the command's status.

An engine under load drops the last output of a command and reports success (moby issue 27289; it copies output for only
2 s after a command has ended).
"""
KILLED = 124
"""The status of a script that exceeded its time limit, as set by timeout(1)."""
JOURNAL = """
journal() { journalctl --no-pager -q -o short-precise -n "$@"; }
journal 60 -u pgpool2-cluster
echo '-- PostgreSQL:'
grep -hE 'PANIC|FATAL:  (terminating|could not)|terminated by|LOG:  (received|database system|all server|shutting)' \
    /var/log/postgresql/*.log | tail -n 20
echo '-- systemd and pgpool-II:'
journal 1500 -u pgpool2 -u 'postgresql@*' | grep -vE ' (child|psql) pid |: DETAIL: ' | tail -n 200
"""
"""The most useful commands come first, because the report of a test run may be truncated."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host. Its name, address and disk survive reboots and power cuts."""

    container: Container
    name: str
    address: str = "127.0.0.1"
    _read: deque[str] = field(default_factory=deque, compare=False, repr=False)
    """Names of copies of output that have been read. The next command removes them."""

    def __str__(self) -> str:
        return self.name

    def attempt(self, script: str, *, seconds: float = 300) -> Answer:
        """Run a shell script as root and return its answer. After `seconds`, it is killed with the status KILLED."""
        words = ["timeout", "--kill-after=5", f"{seconds:g}", "sh", "-euc", script]
        name = uuid4().hex
        status, output = self._execute(["sh", "-c", ANSWERED, "sh", ANSWERS, name, " ".join(self._copies()), *words])
        answer = complete(output, name) or self._once_more(name)
        assert answer or status != 0, f"{self}: the engine dropped the output of: {script}"
        self._read.append(name)
        return answer or Answer(status, output.strip())

    def _copies(self) -> Iterator[str]:
        with suppress(IndexError):
            while True:
                yield self._read.popleft()

    def _once_more(self, name: str) -> Answer | None:
        """Return the dropped output from the copy. None: the command or the host did not reach its end."""
        with suppress(DockerException):
            for _ in range(3):
                status, output = self._execute(["cat", f"{ANSWERS}/{name}"])
                if status != 0 or (answer := complete(output, name)):
                    return None if status != 0 else answer
        return None

    def _execute(self, words: list[str]) -> tuple[int, str]:
        environment = {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
        status, output = self.container.exec_run(words, environment=environment)
        assert status is not None
        assert isinstance(output, bytes)
        return status, output.decode("utf-8", "replace")

    def run(self, script: str, *, seconds: float = 300) -> str:
        """Run a shell script as root, which must succeed, and return its output."""
        answer = self.attempt(script, seconds=seconds)
        assert answer.status == 0, f"{self}: status {answer.status} of: {script}\n{answer.output}"
        return answer.output

    def until(self, script: str, seconds: float) -> str:
        """Run a script until it succeeds, for at most `seconds`, and return its output."""
        end = time.monotonic() + seconds
        while (answer := self.attempt(script)).status != 0 and time.monotonic() < end:
            time.sleep(0.2)
        assert answer.status == 0, f"{self}: not within {seconds} s: {script}\n{answer.output}"
        return answer.output

    def psql(self, sql: str, *, database: str = "postgres") -> str:
        """Run SQL as superuser on this host's own PostgreSQL, bypassing pgpool-II, and return the rows, unaligned."""
        psql = f"runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -p 5432 -d {database}"
        return self.run(f"{psql} <<'SQL'\n{sql}\nSQL")

    def put(self, path: str, content: str, *, mode: int = 0o644) -> None:
        """Write a file of root, of at most 90 kB."""
        coded = base64.b64encode(content.encode()).decode()
        self.run(f"install -m {mode:o} /dev/null {path}; echo {coded} | base64 -d >{path}")

    def signal(self, signal: str, processes: str, *, once: str = "true") -> None:
        """Signal all processes whose command line contains `processes`; fail if there is none.

        `once`: a command; the signal follows within hundredths of a second after its success.
        """
        others = f"[{processes[0]}]{processes[1:]}"  # a regular expression that does not match itself
        find = f"grep -al '{others}' /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3"
        wait = f"until {once}; do sleep 0.01; done >/dev/null 2>&1"
        self.run(f'{wait}; pids=$({find}); [ "$pids" ]; kill -{signal} $pids', seconds=60)

    def booted(self) -> None:
        """Wait until the host has booted. Raises MachineError if systemd does not run on this machine's engine."""
        end = time.monotonic() + BOOT_SECONDS
        state = "no answer"
        while time.monotonic() < end:
            with suppress(DockerException):  # init may have ended already
                state = self.attempt("systemctl is-system-running || :").output
            if state in ("running", "degraded"):
                return
            time.sleep(0.3)
        logs = self.container.logs(tail=3).decode(errors="replace").strip()
        raise MachineError(f"a host did not boot within {BOOT_SECONDS:.0f} s: {state} {logs}", hint="docs: how to test")

    def reboot(self) -> None:
        """Reboot the host cleanly."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Shut the host down cleanly."""
        self.container.stop(timeout=60)

    def kill(self) -> None:
        """Cut the power: connections fall silent without being closed."""
        self.cut()
        self.container.kill()

    def start(self) -> None:
        """Connect the host again, power it on, and wait until it has booted."""
        self.container.start()
        self.booted()

    def cut(self, *, hears: bool = False, speaks: bool = False) -> None:
        """Cut the host off. If it `hears`, it still receives packets; if it `speaks`, it still sends them."""
        chains = [*([] if hears else ["input"]), *([] if speaks else ["output"])]
        rules = "\n".join(
            f"chain {chain} {{ type filter hook {chain} priority -300; policy drop; {side} lo accept; }}"
            for chain in chains
            for side in ("iif" if chain == "input" else "oif",)
        )
        self.mend()
        self.run(f"nft -f - <<'NFT'\ntable inet cut {{\n{rules}\n}}\nNFT")

    def mend(self) -> None:
        """Connect the host again."""
        self.run("nft delete table inet cut 2>/dev/null || :")

    def journal(self) -> str:
        """Return the last log lines of the cluster, pgpool-II and PostgreSQL, or the reason why there are none."""
        try:
            failed = self.attempt("systemctl --failed --no-legend --plain", seconds=10).output
            return f"failed units: {failed or 'none'}\n{self.attempt(JOURNAL, seconds=20).output}"
        except DockerException as error:
            return f"no answer: {error}"


def complete(output: str, name: str) -> Answer | None:
    """Return the answer in the output of ANSWERED, or None if its end is missing."""
    text, end, rest = output.partition(f"\n{name} ")
    status, whole, _ = rest.partition("\n")
    return Answer(int(status), text.strip()) if end and whole else None


def together(act: Callable[[Host], Result], hosts: Iterable[Host]) -> tuple[Result, ...]:
    """Act on all hosts in parallel. Raises the exception of the first failed host after all have ended."""
    with ThreadPoolExecutor(max_workers=8) as workers:
        return tuple(workers.map(act, hosts))


def boot(
    engine: docker.DockerClient,
    image: str,
    name: str,
    *,
    network: str = "none",
    address: str = "",
    knows: Mapping[str, str] | None = None,
) -> Host:
    """Power on a new host without waiting for it. Without a network, it has only its loopback.

    A host with an IPv6 address has no IPv4 address. `knows`: host names with addresses, for its /etc/hosts.
    """
    six = ":" in address
    endpoint = engine.api.create_endpoint_config
    place = endpoint(ipv6_address=address) if six else endpoint(ipv4_address=address)
    connection = {network: place} if address else None
    container = engine.containers.create(
        image, ["sh", "-c", f"{ONLY_IPV6 if six else ''}{BOOT}"], detach=True, hostname=name, labels=[LABEL],
        network=network, networking_config=connection, extra_hosts=dict(knows or {}),
        sysctls={"net.ipv6.conf.all.disable_ipv6": "0"} if six else {},
        cgroupns="private", cap_add=["SYS_ADMIN", "NET_ADMIN"],
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        tmpfs={"/run": "exec", "/run/lock": "", "/tmp": "exec"}, environment={"container": "docker"},  # noqa: S108
        stop_signal="SIGRTMIN+3", shm_size="256m",
    )  # fmt: skip
    container.start()
    return Host(container, name, address or "127.0.0.1")


@contextmanager
def imported(engine: docker.DockerClient, name: str, file: Path) -> Iterator[str]:
    """Make an image from the tar of a root, yield its name, and delete it after the block."""
    tag = own(name)
    engine.api.import_image(src=str(file), repository=LABEL, tag=tag)
    try:
        yield f"{LABEL}:{tag}"
    finally:
        with suppress(ImageNotFound):
            engine.images.remove(f"{LABEL}:{tag}")


def own(name: str) -> str:
    """Return an image tag unique to this run, because another checkout may test on the same engine."""
    return f"{name}-{os.getpid()}"


@contextmanager
def booted(engine: docker.DockerClient, name: str, file: Path) -> Iterator[Host]:
    """Boot a host without a network from the tar of a root. The host and its image are deleted after the block."""
    with imported(engine, name, file) as image:
        host = boot(engine, image, name)
        try:
            host.booted()
            yield host
        finally:
            host.container.remove(force=True, v=True)


@contextmanager
def engine(*, install: bool) -> Iterator[docker.DockerClient]:
    """Yield a client of the Docker endpoint that answers, or else of a daemon that runs during the block.

    Raises MachineError if neither is available.
    """
    with ExitStack() as until_then:
        if docker_daemon.answers():
            client = connected()
        else:
            daemon = until_then.enter_context(docker_daemon.running(install=install))
            client = docker.DockerClient(base_url=daemon.host, timeout=600)
        until_then.callback(client.close)
        yield client
