"""Query and control this node's pgpool-II through its pcp commands.

pcp_node_info prints pgpool-II's own view and the actual state side by side, so the code reads columns by position. The
exit status of pcp commands is unreliable (pcp_recovery_node exits with 0 on failure), so the code reads their text.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..decision.facts.facts import BackendState, PgpoolFacts, Standing, WatchdogState
from ..definition.cluster import Cluster, Node
from ..definition.key import PCP_USER
from ..ground import files, paths, plain, ports, programs
from ..ground.errors import OperationError
from ..ground.programs import LateProgramError, ProgramError
from ..ground.waiting import poll
from . import units
from .server import interface_of

_COMMAND_SECONDS = 5.0
_CHANGE_SECONDS = 10.0
"""Time limit for a command that changes the state of a node."""
_REDIRECT_SECONDS = 2.0
_REDIRECTION_SECONDS = 1.0
"""Seconds after which pgpool-II has either carried out a redirection that it had accepted, or lost it."""
_REDIRECT_PAUSE_SECONDS = 0.02
_STANDING_SECONDS = 2.0
_ATTACH_PAUSE_SECONDS = 0.02
_ALL_NODES_SECONDS = 1.0
"""Time limit for `pcp_node_info -a`, which answers within hundredths of a second unless a host is silent."""
_SILENT_SECONDS = 0.3
"""Time limit for `pcp_node_info` of a node that shows no sign of life."""
_REST_SECONDS = 30.0
"""Pause after a late answer: pgpool-II logs FATAL for each client that disconnects before its answer."""
_BELIEFS = {"up": BackendState.UP, "waiting": BackendState.UP, "down": BackendState.DOWN, "unused": BackendState.UNUSED}


class LateError(OperationError):
    """A pcp command has exceeded its time limit."""


def pcp(name: str, *words: str, seconds: float = _COMMAND_SECONDS) -> str:
    """Run a pcp command for this machine's pgpool-II and return its output.

    Raises LateError after `seconds`, and OperationError if the command fails.
    """
    command = [str(paths.SBIN / name), "-h", paths.SOCKETS, "-p", str(ports.PCP), "-U", PCP_USER, "-w", *words]
    environment = {"PCPPASSFILE": str(paths.HOME / paths.PCPPASS), "LC_ALL": "C"}
    hint = f"see journalctl -u {paths.PGPOOL_UNIT}"
    try:
        answer = programs.attempt(command, seconds=seconds, environment=environment)
    except LateProgramError as error:
        raise LateError(f"{name}: {error.reason}", hint=hint) from error
    except ProgramError as error:
        raise OperationError(f"{name}: {error.reason}", hint=hint) from error
    text = f"{answer.stderr}{answer.stdout}".strip()
    if answer.returncode != 0 or re.search(r"\b(ERROR|FATAL):", text):
        lines = [line for line in text.splitlines() if re.search(r"\b(ERROR|FATAL|DETAIL):", line)]
        raise OperationError(f"{name}: {' '.join(lines) or text or answer.returncode}", hint=hint)
    return answer.stdout


def look(cluster: Cluster, silent: Collection[str] = ()) -> PgpoolFacts | None:
    """Return the view of this node's pgpool-II; None if it is not running, or does not serve clients and pcp yet.

    `silent`: nodes that show no sign of life. pgpool-II's answer about one that it has not detached is not awaited.
    """
    if not listens(port(cluster)):
        return None
    try:
        beliefs = _beliefs(cluster, silent)
        watchdog, quorum, _ = _watchdog(pcp("pcp_watchdog_info", "-v")) if cluster.uses_watchdog else _ALONE
    except OperationError:
        return None
    primary = next((name for name, (_, role) in beliefs.items() if role == "primary"), None)
    return PgpoolFacts(watchdog, quorum, {name: state for name, (state, _) in beliefs.items()}, primary)


def of_another_key(key: str) -> bool:
    """Return whether the running pgpool-II was started with a cluster key other than the one with this fingerprint."""
    try:
        own = paths.KEY_OF_PGPOOL.read_text(encoding="ascii").strip()
    except OSError:
        return False
    return own != key and units.state(paths.PGPOOL_UNIT).active in ("active", "reloading")


def port(cluster: Cluster) -> int:
    """Return the port for clients."""
    return cluster.pool_port


def listens(number: int, *, anybody: bool = False) -> bool:
    """Return whether a program listens on a TCP port: one of this user (postgres, like pgpool-II), or of any user."""
    suffix, own = f":{number:04X}", str(os.getuid())
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]]
            if any(row[1].endswith(suffix) and row[3] == "0A" and (anybody or row[7] == own) for row in rows):
                return True
    return False


_ALONE = (WatchdogState.ALONE, True, frozenset[str]())
STATUS = paths.STATE / "pgpool_status"


def write_status(cluster: Cluster, up: Collection[str]) -> None:
    """Write pgpool_status, one word per line by id, which tells pgpool-II at its next start which nodes are up."""
    words = ["up" if node.name in up else "down" for node in cluster.databases]
    files.write(STATUS, "".join(f"{word}\n" for word in words).encode(), 0o644)


def leads(cluster: Cluster) -> bool:
    """Return whether this node's pgpool-II leads, or has no watchdog; contacts no other node."""
    if not cluster.uses_watchdog:
        return True
    try:
        return _watchdog(pcp("pcp_watchdog_info", "-v"))[0] is WatchdogState.LEADER
    except OperationError:
        return False


def standing(cluster: Cluster) -> Standing:
    """Query the watchdog of this node's pgpool-II now; its state is OTHER if it does not answer."""
    serves = listens(port(cluster))
    try:
        state, _, addresses = _watchdog(pcp("pcp_watchdog_info", "-v", seconds=_STANDING_SECONDS))
    except OperationError:
        return Standing(serves, WatchdogState.OTHER)
    return Standing(serves, state, frozenset(node.name for node in cluster.pgpools if node.address in addresses))


def _beliefs(cluster: Cluster, silent: Collection[str]) -> dict[str, tuple[BackendState, str]]:
    """Return the state and the role of every database node in pgpool-II's view; raises OperationError.

    Before pgpool-II answers, it connects to each node that counts as up, and waits up to connect_timeout (3 s) for a
    silent host. `pcp_node_info -a` does that one node after the other. If it is late, or a node is silent, this
    function queries all nodes separately and in parallel. A silent node without an answer counts as up.
    """
    nodes = cluster.databases
    lines = _all.query() if not silent else None
    if lines is None:
        with ThreadPoolExecutor(len(nodes)) as workers:
            lines = list(workers.map(lambda node: _info(cluster, node, silent=node.name in silent), nodes))
    pairs = zip(nodes, map(_belief, lines), strict=False)
    return {node.name: belief for node, belief in pairs if belief is not None}


@dataclass(slots=True)
class _All:
    """The query for all nodes at once, which pauses after a late answer."""

    _rests_until: float = -math.inf

    def query(self) -> list[str] | None:
        """Return one line per node; None if the answer is late or was late recently; raises OperationError."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            return pcp("pcp_node_info", "-a", seconds=_ALL_NODES_SECONDS).splitlines()
        except LateError:
            self._rests_until = time.monotonic() + _REST_SECONDS
            return None


_all = _All()


def _info(cluster: Cluster, node: Node, *, silent: bool = False) -> str:
    words = "pcp_node_info", "-n", str(cluster.databases.index(node))
    if not silent:
        return pcp(*words)
    try:
        return pcp(*words, seconds=_SILENT_SECONDS)
    except LateError:  # pgpool-II connects to the node, so it counts as up
        return f"{node.address} {node.port} 2 1 up down unknown unknown"


def _belief(line: str) -> tuple[BackendState, str] | None:
    """Read a line of pcp_node_info: hostname port status weight status-name actual-status role actual-role, and more.

    Returns None for a shorter line.
    """
    words = line.split()
    return (_BELIEFS.get(words[4], BackendState.UNUSED), words[6]) if len(words) > 6 else None


def _watchdog(text: str) -> tuple[WatchdogState, bool, frozenset[str]]:
    """Read the labels and values of pcp_watchdog_info -v.

    Returns the state of the queried node, which comes first, whether there is a quorum, and the standbys' addresses.
    """
    values: dict[str, str] = {}
    standbys, address = set(), ""
    for line in text.splitlines():
        label, _, value = (part.strip() for part in line.partition(":"))
        values.setdefault(label, value)
        if label == "Host Name":
            address = value
        elif label == "Status Name" and value == "STANDBY":
            standbys.add(address)
    state = {"LEADER": WatchdogState.LEADER, "STANDBY": WatchdogState.STANDBY}
    quorum = values.get("Quorum state", "") in ("QUORUM EXIST", "QUORUM IS ON THE EDGE")
    return state.get(values.get("Status Name", ""), WatchdogState.OTHER), quorum, frozenset(standbys)


def attach(cluster: Cluster, node: Node, *, wait: bool = False) -> None:
    """Attach a database node, and with `wait`, wait until pgpool-II shows it as up; raises OperationError."""
    pcp("pcp_attach_node", "-n", str(cluster.databases.index(node)), seconds=_CHANGE_SECONDS)
    if wait and not poll(lambda: _is_up(cluster, node), seconds=_COMMAND_SECONDS, pause=_ATTACH_PAUSE_SECONDS):
        raise OperationError(f"pgpool-II has not attached {node.name}", hint=f"pgpoolctl attach {node.name}")


def _is_up(cluster: Cluster, node: Node) -> bool:
    belief = _belief(_info(cluster, node))
    return belief is not None and belief[0] is BackendState.UP


DOWN_ALREADY = "is not valid for failover"
"""Part of the error of `detach` if pgpool-II has already given the node up (4.3 to 4.7)."""


def detach(cluster: Cluster, node: Node) -> None:
    """Detach a database node; raises OperationError."""
    pcp("pcp_detach_node", "-n", str(cluster.databases.index(node)), seconds=_CHANGE_SECONDS)


def redirect(cluster: Cluster, node: Node) -> None:
    """Have this node's pgpool-II send writes to another primary, unless it does already; raises OperationError.

    pgpool-II neither promotes that node nor searches for a primary (pgpool_main.c, determine_new_primary_node). It ends
    all sessions and detaches all other nodes (exec_follow_primary_command). The same command would have these effects
    again before that is done, so it is not repeated. The node must be up in its view. pcp answers before that is done;
    this function returns once pgpool-II shows the node as the primary, or after 2 s.
    """
    if _redirection.is_under_way(node):
        return
    try:
        pcp("pcp_promote_node", "-n", str(cluster.databases.index(node)), seconds=_REDIRECT_SECONDS)
        _redirection.begin(node)
    except OperationError as error:
        if "already primary" not in error.message:
            raise
        return
    poll(lambda: _is_primary(cluster, node), seconds=_REDIRECT_SECONDS, pause=_REDIRECT_PAUSE_SECONDS)


def _is_primary(cluster: Cluster, node: Node) -> bool:
    belief = _belief(_info(cluster, node))
    return belief is not None and belief[1] == "primary"


@dataclass(slots=True)
class _Redirection:
    """The last redirection that pgpool-II has accepted: its node, and until when it is not repeated."""

    _last: tuple[str, float] = ("", -math.inf)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, node: Node) -> None:
        with self._lock:
            self._last = node.name, time.monotonic() + _REDIRECTION_SECONDS

    def is_under_way(self, node: Node) -> bool:
        with self._lock:
            name, until = self._last
        return name == node.name and time.monotonic() < until


_redirection = _Redirection()


def tell_watchdog(cluster: Cluster, node: Node, *, alive: bool) -> None:
    """Report another node to this node's watchdog as alive or dead, ahead of its lifecheck (wd_cli(8)).

    Raises ServerError.
    """
    words = ["-n", str(cluster.pgpools.index(node)), "--inform", "ALIVE" if alive else "DEAD", "-m", paths.UNIT]
    programs.run([str(paths.SBIN / "wd_cli"), "-f", str(paths.PGPOOL_CONF), *words], seconds=_CHANGE_SECONDS)


def has_address(interface: plain.Interface | None) -> bool:
    """Return whether this machine has the cluster's virtual address now; raises ServerError."""
    return interface is not None and interface_of(str(interface.ip)) != ""
