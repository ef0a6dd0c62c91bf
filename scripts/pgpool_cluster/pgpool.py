"""The pgpool-II of this node, asked through its pcp commands.

pcp_node_info prints pgpool's own belief and what is really there side by side: columns are taken, not words. The exit
status of pcp commands is not to be trusted (pcp_recovery_node is 0 on failure), so their text is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files, paths, plain, units
from .cluster import PCP_PORT, Cluster, Node
from .errors import OperationError
from .facts import BackendState, PgpoolFacts, Standing, WatchdogState
from .key import PCP_USER
from .server import HOME, run

SOCKETS = "/var/run/postgresql"
_SECONDS = 5.0
_ALL_SECONDS = 1.0
"""Without a silent host it answers within hundredths of a second."""
_RESTS_SECONDS = 30.0
"""pgpool-II logs FATAL for a client that leaves before its answer, so a late question is not put again soon."""
_BELIEFS = {"up": BackendState.UP, "waiting": BackendState.UP, "down": BackendState.DOWN, "unused": BackendState.UNUSED}


class LateError(OperationError):
    """A pcp command had not ended in time."""


def pcp(name: str, *words: str, seconds: float = _SECONDS) -> str:
    """Run a pcp command of this machine's pgpool-II and return what it prints.

    Raises LateError where that takes more than `seconds`, and OperationError for what fails at once.
    """
    command = [f"/usr/sbin/{name}", "-h", SOCKETS, "-p", str(PCP_PORT), "-U", PCP_USER, "-w", *words]
    environment = {**os.environ, "PCPPASSFILE": str(HOME / ".pcppass"), "LC_ALL": "C"}
    hint = f"journalctl -u {paths.PGPOOL_UNIT} has the rest"
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False,
                                stdin=subprocess.DEVNULL)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise LateError(f"{name}: {error}", hint=hint) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise OperationError(f"{name}: {error}", hint=hint) from error
    text = f"{answer.stderr}{answer.stdout}".strip()
    if answer.returncode != 0 or re.search(r"\b(ERROR|FATAL):", text):
        lines = [line for line in text.splitlines() if re.search(r"\b(ERROR|FATAL|DETAIL):", line)]
        raise OperationError(f"{name}: {' '.join(lines) or text or answer.returncode}", hint=hint)
    return answer.stdout


def look(cluster: Cluster) -> PgpoolFacts | None:
    """Return what this node's pgpool-II believes; None where none runs, or it does not serve clients and pcp yet."""
    if not listens(port(cluster)):
        return None
    try:
        beliefs = _beliefs(cluster)
        watchdog, quorum, _ = _watchdog(pcp("pcp_watchdog_info", "-v")) if len(cluster.pgpools) > 1 else _ALONE
    except OperationError:
        return None
    primary = next((name for name, (_, role) in beliefs.items() if role == "primary"), None)
    return PgpoolFacts(watchdog, quorum, {name: state for name, (state, _) in beliefs.items()}, primary)


def of_another_key(key: str) -> bool:
    """Tell whether the pgpool-II that runs was started with another cluster key than the one with this fingerprint."""
    try:
        own = paths.KEY_OF_PGPOOL.read_text(encoding="ascii").strip()
    except OSError:
        return False
    return own != key and units.state(paths.PGPOOL_UNIT).active in ("active", "reloading")


def port(cluster: Cluster) -> int:
    """Return the port for clients."""
    return cluster.pool_port


def listens(number: int, *, anybody: bool = False) -> bool:
    """Tell whether a program of this user (postgres, as pgpool-II is), or of anybody, listens on a TCP port."""
    wanted, own = f":{number:04X}", str(os.getuid())
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]]
            if any(row[1].endswith(wanted) and row[3] == "0A" and (anybody or row[7] == own) for row in rows):
                return True
    return False


_ALONE = (WatchdogState.ALONE, True, frozenset[str]())
STATUS = paths.STATE / "pgpool_status"


def write_status(cluster: Cluster, up: Collection[str]) -> None:
    """Tell the pgpool-II that starts next which database nodes are up (pgpool_status: a word a line, by id)."""
    words = ["up" if node.name in up else "down" for node in cluster.databases]
    files.write(STATUS, "".join(f"{word}\n" for word in words).encode(), 0o644)


def leads(cluster: Cluster) -> bool:
    """Tell whether the pgpool-II of this node leads, or is the only one; asks no other node."""
    if len(cluster.pgpools) == 1:
        return True
    try:
        return _watchdog(pcp("pcp_watchdog_info", "-v"))[0] is WatchdogState.LEADER
    except OperationError:
        return False


def standing(cluster: Cluster) -> Standing:
    """Ask this node's pgpool-II now; OTHER where it does not answer."""
    serves = listens(port(cluster))
    try:
        state, _, addresses = _watchdog(pcp("pcp_watchdog_info", "-v", seconds=2))
    except OperationError:
        return Standing(serves, WatchdogState.OTHER)
    return Standing(serves, state, frozenset(node.name for node in cluster.pgpools if node.address in addresses))


def _beliefs(cluster: Cluster) -> dict[str, tuple[BackendState, str]]:
    """Return the state and the role of every database node in pgpool-II's eyes; raises OperationError.

    pgpool-II connects to a node that it believes to be up before it answers, and waits for connect_timeout (3 s) where
    the host is silent. `pcp_node_info -a` adds these times up. Where it was late, each node is asked about by itself,
    all at once.
    """
    nodes = cluster.databases
    lines = _all.asked()
    if lines is None:
        with ThreadPoolExecutor(len(nodes)) as asking:
            lines = list(asking.map(lambda node: _info(cluster, node), nodes))
    found = zip(nodes, map(_belief, lines), strict=False)
    return {node.name: belief for node, belief in found if belief is not None}


@dataclass(slots=True)
class _All:
    """The one question about all nodes, which rests for a while after an answer that was late."""

    _rests_until: float = -math.inf

    def asked(self) -> list[str] | None:
        """Return a line a node; None where the answer is late, or was not long ago; raises OperationError."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            return pcp("pcp_node_info", "-a", seconds=_ALL_SECONDS).splitlines()
        except LateError:
            self._rests_until = time.monotonic() + _RESTS_SECONDS
            return None


_all = _All()


def _info(cluster: Cluster, node: Node) -> str:
    return pcp("pcp_node_info", "-n", str(cluster.databases.index(node)))


def _belief(line: str) -> tuple[BackendState, str] | None:
    """Read a line of pcp_node_info: hostname port status weight status-name actual-status role actual-role, and more.

    None for a line that is shorter.
    """
    words = line.split()
    return (_BELIEFS.get(words[4], BackendState.UNUSED), words[6]) if len(words) > 6 else None


def _watchdog(text: str) -> tuple[WatchdogState, bool, frozenset[str]]:
    """Read pcp_watchdog_info -v, labels with values: the state of the node that is asked, which comes first.

    And whether there is a quorum, and the addresses of all standbys.
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
    """Tell pgpool-II that a database node is up, and `wait` until it believes so; raises OperationError."""
    pcp("pcp_attach_node", "-n", str(cluster.databases.index(node)), seconds=10)
    deadline = time.monotonic() + _SECONDS
    while wait and (_belief(_info(cluster, node)) or ("",))[0] is not BackendState.UP:
        if time.monotonic() > deadline:
            raise OperationError(f"pgpool-II has not attached {node.name}", hint=f"pgpoolctl attach {node.name}")
        time.sleep(0.02)


DOWN_ALREADY = "is not valid for failover"
"""What `detach` fails with where pgpool-II has given the node up (4.3 to 4.7)."""


def detach(cluster: Cluster, node: Node) -> None:
    """Tell pgpool-II that a database node is down; raises OperationError."""
    pcp("pcp_detach_node", "-n", str(cluster.databases.index(node)), seconds=10)


def tell_watchdog(cluster: Cluster, node: Node, *, alive: bool) -> None:
    """Tell this node's watchdog what became of another, before its lifecheck does (wd_cli(8)); raises ServerError."""
    words = ["-n", str(cluster.pgpools.index(node)), "--inform", "ALIVE" if alive else "DEAD", "-m", paths.UNIT]
    run(["/usr/sbin/wd_cli", "-f", str(paths.PGPOOL_CONF), *words], seconds=10)


def has_address(interface: plain.Interface | None) -> bool:
    """Tell whether this machine has the cluster's virtual address now."""
    if interface is None:
        return False
    listed: list[dict[str, Any]] = json.loads(run(["ip", "-json", "address"]))
    return any(entry.get("local") == str(interface.ip) for link in listed for entry in link.get("addr_info", []))
