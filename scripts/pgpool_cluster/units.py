"""systemd's view of a unit, and the socket through which the postgres user starts and stops two kinds of them."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import log, paths, plain
from .cluster import Cluster, Node
from .errors import ClusterError, OperationError, ServerError

_ALLOWED = re.compile(
    r"(start|stop|restart|reload) (postgresql@[0-9]{2}-[a-z0-9_-]+\.service|pgpool2\.service)"
    r"|hang-up [0-9a-f.:]{3,45}( [1-9][0-9]{0,4})+|apply|firewall"
)
_SECONDS = 300.0
_UPGRADE_SECONDS = 300.0
"""How long a unit that dpkg has stopped may stay so before it counts as stopped for good."""
_HALF_WAY = ("half-configured", "half-installed", "unpacked")
"""States of a package from before its prerm until after its postinst (dpkg-query(1))."""
_CATCHES_SECONDS = 5.0
"""How long a main process may take from its start until it catches SIGHUP: pgpool-II takes tenths of a second."""
_TRIES = 3
_TOLD = 40
"""Lines of what failed that the journal gets."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """ActiveState and Result of systemctl(1) show; `was_active`: since the machine started."""

    active: str
    result: str
    was_active: bool
    seconds: float = 0.0
    """Since it has been what it is."""
    queued: bool = False
    """systemd is going to start or stop it: in a restart it is inactive for a moment."""
    main: int = 0
    """Process id of its main process; 0 while there is none."""

    @property
    def moving(self) -> bool:
        """Whether it is on its way up or down."""
        return self.queued or self.active in ("activating", "deactivating", "reloading")

    def restarts_with(self, package: str) -> bool:
        """Tell whether an upgrade of its package has stopped it, so that dpkg starts it again; good for 5 minutes.

        postgresql-N's prerm stops the server and its postinst starts it, with the unpacking of all packages of the
        run in between. An upgrade that was broken off leaves the package half-way for good, hence the limit.
        """
        stopped = self.active in ("inactive", "failed") and self.was_active
        return stopped and self.seconds < _UPGRADE_SECONDS and being_upgraded(package)


def state(unit: str) -> UnitState:
    """Return what systemd says about `unit`; one it does not know is inactive. Raises ServerError without systemd."""
    names = "ActiveState,Result,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic,Job,MainPID"
    try:
        command = ["systemctl", "show", "--property", names, "--", unit]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"systemd does not answer: {error}", hint="systemctl status shows what it does") from error
    values = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
    return UnitState(
        values.get("ActiveState", "inactive"),
        values.get("Result", "success"),
        int(values.get("ActiveEnterTimestampMonotonic") or 0) > 0,
        time.monotonic() - int(values.get("StateChangeTimestampMonotonic") or 0) / 1e6,
        int(values.get("Job") or 0) > 0,
        int(values.get("MainPID") or 0),
    )


def being_upgraded(package: str) -> bool:
    """Tell whether dpkg has begun to upgrade a package and has not configured it yet; False for one it removes.

    dpkg writes the state down before it runs prerm and after postinst. Any user may read it, while dpkg's locks tell
    only root who holds them.
    """
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Want} ${db:Status-Status}\n", package]
    for _ in range(_TRIES):
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.SubprocessError):
            return False
        if answer.returncode <= 1:
            words = (line.split() for line in answer.stdout.splitlines())
            return any(wanted in ("install", "hold") and is_now in _HALF_WAY for wanted, is_now in words)
        time.sleep(0.05)  # dpkg was just merging its journal (/var/lib/dpkg/updates) while it was read
    return False


def booted() -> bool:
    """Tell whether systemd runs this system (sd_booted(3)): not in a chroot, or where an image is made."""
    return Path("/run/systemd/system").is_dir()


def ask(*words: str) -> None:
    """Ask systemd for something that is no condition of what follows; what it says against it is shown.

    Where it does not run there is nobody to ask, and nothing that would have to know.
    """
    if not booted():
        return
    try:
        answer = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, timeout=120)
        said = answer.stderr.strip() if answer.returncode != 0 else ""
    except subprocess.TimeoutExpired as error:
        said = str(error)
    if said:
        log.warning(f"systemctl {' '.join(words)}: {said}")


def reload(unit: str) -> None:
    """Have a unit read its configuration again, also one that is still starting and has read it already.

    Its main process gets no SIGHUP before it catches that signal: it would end, and systemd takes that for a clean end.
    A unit of Type=simple, as Debian's own pgpool2.service, is active before that. systemd reloads no unit that is on
    its way up: its main process is told directly. One that there is not yet reads what is laid down when it starts.
    """
    end = time.monotonic() + _CATCHES_SECONDS
    while time.monotonic() < end:
        now = state(unit)
        if now.main == 0 or not (now.moving or now.active == "active"):
            return
        if _catches(now.main, signal.SIGHUP):
            if now.active == "active":
                ask("reload", unit)
                return
            if now.active == "activating":
                ask("kill", "--signal=HUP", "--kill-whom=main", unit)
                return
        time.sleep(0.05)
    log.warning(f"{unit} has not read its configuration again: it takes no SIGHUP; hint: systemctl reload {unit}")


def _catches(process: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal, without which SIGHUP would end it (proc(5), SigCgt)."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def last_words(unit: str) -> str:
    """Return what a unit's present or latest run died of; "" for nothing, or if the journal is not for this user."""
    show = ["systemctl", "show", "--property=InvocationID", "--value", "--", unit]
    journal = ["journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "--lines=100"]
    try:
        run = subprocess.run(show, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
        command = [*journal, f"_SYSTEMD_INVOCATION_ID={run}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = answer.stdout.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        found = re.search(r"\b(?:FATAL|PANIC):\s+(.*)", lines[number])
        if found:
            detail = re.search(r"\bDETAIL:\s+(.*)", lines[number + 1]) if number + 1 < len(lines) else None
            return f"{found[1]}: {detail[1]}" if detail else found[1]
    return ""


def control(verb: str, unit: str = "") -> None:
    """Have a unit started, stopped, restarted or reloaded, or configuration applied; raises OperationError.

    `firewall`: have the rules loaded that are gone (firewall.py).
    """
    words = f"{verb} {unit}".strip()
    hint = "systemctl status pgpool2-cluster-control.socket shows whether it listens"
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_SECONDS)
            asking.connect(str(paths.CONTROL))
            asking.sendall(words.encode() + b"\n")
            asking.shutdown(socket.SHUT_WR)
            with asking.makefile("r", encoding="utf-8", errors="replace") as stream:
                answer = stream.read().strip()
    except OSError as error:
        raise ServerError(f"{words}: {error.strerror or error}", hint=hint) from error
    if answer != "done":
        said = answer.splitlines() or ["no answer"]
        reason = "; ".join(said[-2:] if said[-1].startswith("hint: ") else said[-1:])
        raise OperationError(f"{words}: {reason}", hint=f"journalctl -u {unit or paths.UNIT} has the rest")


def hang_up(cluster: Cluster, node: Node) -> None:
    """End this host's connections with another node's PostgreSQL and pgpool-II, both ways; raises ClusterError.

    Who waits for a host that is gone would wait until TCP gives up. Nothing but the cluster's own ports is touched.
    """
    control("hang-up", " ".join([node.address, *map(str, cluster.ports)]))


def _hang_up(address: str, *ports: str) -> list[str]:
    """Return the ss(8) command: an IPv6 address needs brackets; `dport` is the other host's port, `sport` ours."""
    host = f"[{address}]" if ":" in address else address
    either = " or ".join(f"dport = :{port} or sport = :{port}" for port in ports)
    return ["ss", "--kill", "--tcp", f"dst {host} and ( {either} )"]


def _refusal(request: str) -> str:
    """Return why root does not do it, "" if it does: what is ended is what root's own cluster.yml names."""
    if not _ALLOWED.fullmatch(request):
        return (
            "refused: only postgresql@V-NAME and pgpool2 are started, stopped, restarted and reloaded here, and "
            "connections with a node's address and ports ended"
        )
    verb, *words = request.split(" ")
    if verb in ("start", "stop", "restart", "reload") and words != [paths.PGPOOL_UNIT]:
        from .memory import Applied  # noqa: PLC0415 - root's own word on which server is the cluster's

        ours = Applied.load().units
        return "" if words[0] in ours else f"refused: pgpoolctl apply has laid nothing down for {words[0]}"
    if verb != "hang-up":
        return ""
    from . import server  # noqa: PLC0415 - starting a unit needs no cluster.yml

    try:
        cluster, me = server.this_node()
    except ClusterError as error:
        return f"refused: {error.message}"
    address, *ports = words
    found = plain.address(address)
    if found is None or str(found) not in [node.address for node in cluster.nodes if node != me]:
        return f"refused: no other node has the address {address}"
    others = [port for port in ports if int(port) not in cluster.ports]
    return f"refused: {others[0]} is no port of the cluster" if others else ""


def _command(request: str) -> list[str]:
    verb, _, rest = request.partition(" ")
    if verb == "apply":
        return ["/usr/bin/pgpoolctl", "apply"]
    if verb == "hang-up":
        return _hang_up(*rest.split(" "))
    if rest == paths.PGPOOL_UNIT:
        # It is up when the watchdog has a leader, which may take others that are not up yet. An administrator who is
        # stopping it goes first.
        return ["systemctl", "--no-block", "--job-mode=fail", verb, rest]
    # pg_ctlcluster looks for its server every two seconds; whoever starts it here asks the server itself.
    return ["systemctl", *(["--no-block"] if verb == "start" else []), verb, rest]


def serve_control(request: str) -> str:
    """Do what the postgres user asks for, as root, and return `done` or what systemctl said."""
    refused = _refusal(request)
    if refused:
        log.warning(f"{refused}; asked for was {request!a}", stream=sys.stderr)
        return refused
    if request == "firewall":
        from . import firewall  # noqa: PLC0415 - starting a unit needs no rules

        return firewall.keep()
    words = _command(request)
    try:
        answer = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                                stdin=subprocess.DEVNULL, timeout=_SECONDS)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if answer.returncode == 0:
        return "done"
    said = answer.stdout.strip() or f"exit status {answer.returncode}"
    log.warning("\n".join([f"{request} failed", *said.splitlines()[-_TOLD:]]), stream=sys.stderr)
    return said
