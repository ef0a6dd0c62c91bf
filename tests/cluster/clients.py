"""Clients on a host of their own, which no fault of the cluster touches, and the histories that they record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.cluster.cluster import APP, APP_PASSWORD, STREAMING, YML, Cluster
from tests.cluster.lab import Lab
from tests.drill import client as program
from tests.drill.client import Specification
from tests.drill.operations import Operation, parse
from tests.host import Host, together

FOLDER = "/root/clients"
START = f"systemd-run -q --unit=clients -E HOME=/root python3 {FOLDER}/client.py {FOLDER}/specification.json"
STOP = "systemctl stop clients 2>/dev/null || :; systemctl reset-failed clients 2>/dev/null || :"
SAID = "journalctl -q --no-pager -o cat -n 20 -u clients"
IDLE = "systemctl stop pgpool2 'postgresql@*' || :"
"""The image of hosts has both servers, which a client does not need."""
OWN_WRITES = "pgpool: {disable_load_balance_on_write: always}"
"""The setting with which a session sees its own writes; docs/explanation/load-balancing-and-consistency.md."""
IMPATIENT = "tcp_user_timeout=1000 keepalives_idle=1 keepalives_interval=1 keepalives_count=1"
SERVING_SECONDS = 60.0
POLL_SECONDS = 1.0
"""Each poll starts processes, which take time from the cluster on a machine with two cores."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A cluster of three with a virtual address, and a fourth host with its clients."""

    cluster: Cluster
    client: Host
    virtual: Host
    """The virtual address, as a host to which clients connect."""


def staged(room: Lab, image: str, mode: str = STREAMING) -> Stage:
    """Install a cluster whose sessions see their own writes, and prepare its client. The caller removes the hosts."""
    *hosts, client = room.boot(image, "pg1", "pg2", "pg3", "client")
    address = room.address()
    cluster = replace(Cluster.of(hosts, mode), virtual_ip=f"{address}/24")
    cluster.deploy()
    together(lambda host: host.run(f"echo '{OWN_WRITES}' >>{YML}"), cluster.hosts)
    together(lambda host: host.run("pgpoolctl apply"), cluster.hosts)
    cluster.wait_healthy()
    client.run(f"{IDLE}; install -d -m 700 {FOLDER}")
    client.put("/root/.pgpass", f"*:9999:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
    client.put(f"{FOLDER}/client.py", Path(program.__file__).read_text(encoding="utf-8"))
    return Stage(cluster, client, replace(hosts[0], name="virtual", address=address))


def through(*hosts: Host, patient: bool = False) -> str:
    """Return the connection string of `app` for pgpool-II on these hosts, which libpq tries in this order.

    Every pgpool-II accepts writes, so `target_session_attrs` keeps its default, `any`. A client gives a host up after
    1 s without a sign of life, and a connection attempt after libpq's least time, 2 s. A `patient` one waits for ever
    for the answer to a statement, unless the server ends the session.
    """
    addresses = ",".join(host.address for host in hosts)
    where = f"host={addresses} port=9999 user={APP} dbname={APP} sslmode=require connect_timeout=2"
    return where if patient else f"{where} {IMPATIENT}"


@dataclass(slots=True)
class Recording:
    """The clients that are running. `history` is complete once they have ended."""

    host: Host
    names: Sequence[str]
    history: tuple[Operation, ...] = ()

    def of(self, *names: str) -> list[Operation]:
        """Return the operations of these clients in the order of time."""
        return [operation for operation in self.history if operation.client in names]

    def labelled(self, label: str) -> list[str]:
        """Return the names of the clients that begin with a label."""
        return [name for name in self.names if name.startswith(label)]

    def served(self, since: float, seconds: float = SERVING_SECONDS) -> bool:
        """Wait until each client's last operation began after `since` and was acknowledged; return whether it was."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            latest = parse(self.host.run(f"tail -qn 1 {FOLDER}/*.jsonl").splitlines())
            if {one.client for one in latest if one.acknowledged and one.began > since} >= set(self.names):
                return True
            time.sleep(POLL_SECONDS)
        return False


@contextmanager
def recording(host: Host, clients: Sequence[Specification]) -> Iterator[Recording]:
    """Run clients during the block, from the moment that all of them are served."""
    given = {"folder": FOLDER, "clients": [asdict(one) for one in clients]}
    host.put(f"{FOLDER}/specification.json", json.dumps(given))
    began = time.time()
    host.run(f"rm -f {FOLDER}/*.jsonl; {STOP}\n{START}")
    running = Recording(host, [one.name for one in clients])
    try:
        host.until(f"ls {FOLDER}/*.jsonl || {{ {SAID}; exit 1; }}", 30)
        assert running.served(began), host.run(f"tail -qn 3 {FOLDER}/*.jsonl; {SAID}")
        yield running
    finally:
        host.run(STOP)
        running.history = parse(host.run(f"cat {FOLDER}/*.jsonl || :").splitlines())


def healed(cluster: Cluster, seconds: float = 240.0, patience: float = 20.0) -> list[str]:
    """Wait until the cluster is healthy, and return the nodes that had to be recovered by a command.

    The command is typed only if `status` has recommended it for `patience` seconds. Raises AssertionError if the
    cluster is not healthy within `seconds`.
    """
    typed: list[str] = []
    end = time.monotonic() + seconds
    while True:
        try:
            cluster.wait_healthy(min(patience, max(1.0, end - time.monotonic())))
        except AssertionError:
            if time.monotonic() >= end:
                raise
            typed += _recovered(cluster, cluster.hosts)
        else:
            return typed


def _recovered(cluster: Cluster, hosts: Iterable[Host]) -> list[str]:
    """Recover the nodes for which `status` recommends it; a recovery that fails is repeated in the next round."""
    text = cluster.hosts[0].attempt("pgpoolctl status", seconds=60).output
    named = [host for host in hosts if f"pgpoolctl recover {host}" in text]
    for host in named:
        print(f"{host}: pgpoolctl recover: {host.attempt(f'pgpoolctl recover {host}', seconds=200).output[-300:]}")
    return [host.name for host in named]
