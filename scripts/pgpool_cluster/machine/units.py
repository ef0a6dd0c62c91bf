"""Query systemd for the state of units, and start and stop them through root's control socket."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..definition.cluster import Cluster, Node
from ..ground import log, paths, plain, programs
from ..ground.errors import ClusterError, OperationError, ServerError
from ..ground.programs import ProgramError
from ..ground.waiting import poll

_ALLOWED = re.compile(
    r"(start|stop|restart|reload) (postgresql@[0-9]{2}-[a-z0-9_-]+\.service|pgpool2\.service)"
    r"|hang-up [0-9a-f.:]{3,45}( [1-9][0-9]{0,4})+|apply|firewall|address (take|drop)"
)
_SHORT_SECONDS = 10.0
"""Time limit for a query of systemd, of dpkg, or of the journal."""
_SYSTEMCTL_SECONDS = 120.0
_CONTROL_SECONDS = 300.0
"""Time limit for a request to the control socket."""
_UPGRADE_SECONDS = 300.0
"""How long dpkg may keep a unit stopped before it counts as stopped permanently."""
_HALF_WAY = ("half-configured", "half-installed", "unpacked")
"""States of a package from before its prerm until after its postinst (dpkg-query(1))."""
_CATCHES_SECONDS = 5.0
"""How long a main process may take to install its SIGHUP handler; pgpool-II takes tenths of a second."""
_CATCHES_PAUSE_SECONDS = 0.05
_DPKG_TRIES = 3
_DPKG_PAUSE_SECONDS = 0.05
_LOGGED_LINES = 40
"""How many lines of a failed command's output go to the journal."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """ActiveState and Result from systemctl(1) show; `was_active`: it has been active since boot."""

    active: str
    result: str
    was_active: bool
    seconds: float = 0.0
    """Time since its state last changed."""
    queued: bool = False
    """systemd has a job for it; a unit that restarts is inactive for a moment."""
    main: int = 0
    """Process id of its main process; 0 if there is none."""

    @property
    def moving(self) -> bool:
        """Whether it is starting, stopping or reloading."""
        return self.queued or self.active in ("activating", "deactivating", "reloading")

    def restarts_with(self, package: str) -> bool:
        """Return whether an upgrade of its package has stopped it within 5 minutes, so that dpkg will restart it.

        postgresql-N's prerm stops the server and its postinst starts it; in between, dpkg unpacks all packages of the
        run. An interrupted upgrade leaves the package half-way indefinitely, hence the limit.
        """
        stopped = self.active in ("inactive", "failed") and self.was_active
        return stopped and self.seconds < _UPGRADE_SECONDS and being_upgraded(package)


def state(unit: str) -> UnitState:
    """Return the state of `unit`; an unknown unit is inactive. Raises ServerError without systemd."""
    names = "ActiveState,Result,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic,Job,MainPID"
    try:
        command = ["systemctl", "show", "--property", names, "--", unit]
        answer = programs.run(command, seconds=_SHORT_SECONDS)
    except ProgramError as error:
        hint = "systemctl status shows its state"
        raise ServerError(f"systemd does not answer: {error.reason}", hint=hint) from error
    values = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    return UnitState(
        values.get("ActiveState", "inactive"),
        values.get("Result", "success"),
        int(values.get("ActiveEnterTimestampMonotonic") or 0) > 0,
        time.monotonic() - int(values.get("StateChangeTimestampMonotonic") or 0) / 1e6,
        int(values.get("Job") or 0) > 0,
        int(values.get("MainPID") or 0),
    )


def being_upgraded(package: str) -> bool:
    """Return whether dpkg has begun to upgrade a package and has not configured it yet; False during a removal.

    dpkg records the state before prerm and after postinst. Any user can read it, whereas only root can see who holds
    dpkg's locks.
    """
    command = ["dpkg-query", "--show", "--showformat", "${db:Status-Want} ${db:Status-Status}\n", package]
    for _ in range(_DPKG_TRIES):
        try:
            answer = programs.attempt(command, seconds=_SHORT_SECONDS)
        except ProgramError:
            return False
        if answer.returncode <= 1:
            words = (line.split() for line in answer.stdout.splitlines())
            return any(want in ("install", "hold") and status in _HALF_WAY for want, status in words)
        time.sleep(_DPKG_PAUSE_SECONDS)  # dpkg was merging its journal (/var/lib/dpkg/updates) at that moment
    return False


def booted() -> bool:
    """Return whether systemd is running this system (sd_booted(3)); it is not in a chroot or during an image build."""
    return Path("/run/systemd/system").is_dir()


def ask(*words: str) -> None:
    """Run a best-effort systemctl command; a failure is printed, not raised. Does nothing without systemd."""
    if not booted():
        return
    try:
        answer = programs.attempt(["systemctl", *words], seconds=_SYSTEMCTL_SECONDS)
        failure = answer.stderr.strip() if answer.returncode != 0 else ""
    except ProgramError as error:
        failure = error.reason
    if failure:
        log.warning(f"systemctl {' '.join(words)}: {failure}")


def reload(unit: str) -> None:
    """Reload a unit's configuration, even while the unit is starting and may have read the old configuration.

    Before the main process has a handler for SIGHUP, the signal would kill it, and systemd would treat that as a clean
    exit. A unit of Type=simple, such as Debian's own pgpool2.service, is active before then, so this function waits for
    the handler. systemd does not reload a unit that is starting; its main process gets the signal directly. A unit
    without a main process needs no reload, because it reads the files when it starts.
    """
    if not poll(lambda: _reloaded(unit), seconds=_CATCHES_SECONDS, pause=_CATCHES_PAUSE_SECONDS):
        log.warning(f"{unit} was not reloaded: it does not handle SIGHUP; hint: systemctl reload {unit}")


def _reloaded(unit: str) -> bool:
    """Reload a unit if it can be reloaded now; return whether that is done, or not necessary."""
    now = state(unit)
    if now.main == 0 or not (now.moving or now.active == "active"):
        return True
    if not _catches(now.main, signal.SIGHUP) or now.active not in ("active", "activating"):
        return False
    if now.active == "active":
        ask("reload", unit)
    else:
        ask("kill", "--signal=HUP", "--kill-whom=main", unit)
    return True


def _catches(process: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal, without which SIGHUP would kill it (SigCgt in proc(5))."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def last_words(unit: str) -> str:
    """Return the fatal error of a unit's current or latest run; "" if there is none, or the journal is unreadable."""
    show = ["systemctl", "show", "--property=InvocationID", "--value", "--", unit]
    journal = ["journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "--lines=100"]
    try:
        invocation = programs.attempt(show, seconds=_SHORT_SECONDS).stdout.strip()
        command = [*journal, f"_SYSTEMD_INVOCATION_ID={invocation}"]
        answer = programs.attempt(command, seconds=_SHORT_SECONDS)
    except ProgramError:
        return ""
    lines = answer.stdout.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        found = re.search(r"\b(?:FATAL|PANIC):\s+(.*)", lines[number])
        if found:
            detail = re.search(r"\bDETAIL:\s+(.*)", lines[number + 1]) if number + 1 < len(lines) else None
            return f"{found[1]}: {detail[1]}" if detail else found[1]
    return ""


def control(verb: str, unit: str = "", *, seconds: float = _CONTROL_SECONDS) -> None:
    """Ask root to start, stop, restart or reload a unit, or to apply the configuration; raises ClusterError.

    The verb `firewall` reloads a missing packet filter (firewall.py). `address take` and `address drop` put up and
    remove the virtual address (due_address.py). `seconds` limit the time that root may take.
    """
    words = f"{verb} {unit}".strip()
    hint = "systemctl status pgpool2-cluster-control.socket shows whether it is listening"
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(seconds)
            asking.connect(str(paths.CONTROL))
            asking.sendall(words.encode() + b"\n")
            asking.shutdown(socket.SHUT_WR)
            with asking.makefile("r", encoding="utf-8", errors="replace") as stream:
                answer = stream.read().strip()
    except OSError as error:
        raise ServerError(f"{words}: {error.strerror or error}", hint=hint) from error
    if answer != "done":
        lines = answer.splitlines() or ["no answer"]
        reason = "; ".join(lines[-2:] if lines[-1].startswith("hint: ") else lines[-1:])
        log_of = unit if unit.endswith(".service") else paths.UNIT
        raise OperationError(f"{words}: {reason}", hint=f"journalctl -u {log_of} shows more")


def hang_up(cluster: Cluster, node: Node) -> None:
    """Kill this host's TCP connections with another node's PostgreSQL and pgpool-II, in both directions.

    Otherwise, programs that wait for an unreachable host wait until TCP gives up. Connections on other ports than the
    cluster's are not affected. Raises ClusterError.
    """
    control("hang-up", " ".join([node.address, *map(str, cluster.ports)]))


def _hang_up(address: str, *ports: str) -> list[str]:
    """Return the ss(8) command. IPv6 addresses need brackets; `dport` is the other host's port, `sport` ours."""
    host = f"[{address}]" if ":" in address else address
    either = " or ".join(f"dport = :{port} or sport = :{port}" for port in ports)
    return ["ss", "--kill", "--tcp", f"dst {host} and ( {either} )"]


def _refusal(request: str) -> str:
    """Return why root refuses a request, "" if it does not; cluster.yml defines which connections may be killed."""
    if not _ALLOWED.fullmatch(request):
        return (
            "refused: this socket only starts, stops, restarts and reloads postgresql@V-NAME and pgpool2, kills "
            "connections with a node's address and ports, and moves the virtual address"
        )
    verb, *words = request.split(" ")
    if verb in ("start", "stop", "restart", "reload") and words != [paths.PGPOOL_UNIT]:
        from .memory import Applied  # noqa: PLC0415 - only root can change this list of the cluster's servers

        ours = Applied.load().units
        return "" if words[0] in ours else f"refused: pgpoolctl apply has written no configuration for {words[0]}"
    if verb != "hang-up":
        return ""
    from . import server  # noqa: PLC0415 - starting a unit does not need cluster.yml

    try:
        cluster, me = server.this_node()
    except ClusterError as error:
        return f"refused: {error.message}"
    address, *ports = words
    found = plain.address(address)
    if found is None or str(found) not in [node.address for node in cluster.nodes if node != me]:
        return f"refused: no other node has the address {address}"
    others = [port for port in ports if int(port) not in cluster.ports]
    return f"refused: {others[0]} is not a port of the cluster" if others else ""


def _command(request: str) -> list[str]:
    verb, _, rest = request.partition(" ")
    if verb == "apply":
        return [str(paths.PGPOOLCTL), "apply"]
    if verb == "hang-up":
        return _hang_up(*rest.split(" "))
    if rest == paths.PGPOOL_UNIT:
        # Do not wait: pgpool-II is up only when the watchdog has a leader, which may need nodes that are not up yet.
        # Mode fail: an administrator's stop takes precedence.
        return ["systemctl", "--no-block", "--job-mode=fail", verb, rest]
    # Do not wait for a start: pg_ctlcluster checks its server every two seconds, and the caller queries it directly.
    return ["systemctl", *(["--no-block"] if verb == "start" else []), verb, rest]


def _move_address(word: str) -> str:
    """Take or drop the virtual address. Return `done`, or why that failed, with a hint on a second line."""
    from . import held_address  # noqa: PLC0415 - starting a unit does not need it

    try:
        if word == "take" or not held_address.withdraw():
            from . import due_address  # noqa: PLC0415 - an address that root has put up is removed without it

            (due_address.take if word == "take" else due_address.drop_foreign)()
    except ClusterError as error:
        log.warning(f"address {word}: {error.message}", stream=sys.stderr)
        return f"{error.message}\nhint: {error.hint}"
    return "done"


def serve_control(request: str) -> str:
    """Carry out a request of the postgres user as root; return `done` or the output of systemctl."""
    refused = _refusal(request)
    if refused:
        log.warning(f"{refused}; the request was {request!a}", stream=sys.stderr)
        return refused
    verb, _, words = request.partition(" ")
    if request == "firewall":
        from .network import firewall  # noqa: PLC0415 - starting a unit does not need it

        return firewall.keep()
    if verb == "address":
        return _move_address(words)
    try:
        answer = programs.attempt(_command(request), seconds=_CONTROL_SECONDS)
    except ProgramError as error:
        return error.message
    if answer.returncode == 0:
        return "done"
    output = f"{answer.stdout}{answer.stderr}".strip() or f"exit status {answer.returncode}"
    log.warning("\n".join([f"{request} failed", *output.splitlines()[-_LOGGED_LINES:]]), stream=sys.stderr)
    return output
