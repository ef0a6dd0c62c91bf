"""Clients that write through a pgpool-II during a test, and record the acknowledged writes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.cluster.cluster import APP, Cluster
from tests.host import Host

POOL_FAULT = "unable to read message kind"
"""pgpool-II's error for a client that logs in at the moment in which a node is attached (switchover.md)."""
LEDGER = """
exec >/root/ledger.log 2>/root/ledger.err
number=0
while [ ! -e /root/ledger.end ]; do
    number=$((number + 1))
    if timeout 30 psql -XAtq -v ON_ERROR_STOP=1 '{where}' -c "INSERT INTO ledger VALUES ('{name}', $number)"; then
        echo "$number $(date +%s.%N)"
    fi
done
"""


@dataclass(slots=True)
class Pgbench:
    """The result of a finished run of pgbench."""

    status: int = -1
    output: str = ""

    @property
    def transactions(self) -> int:
        found = re.search(r"transactions actually processed: (\d+)", self.output)
        return int(found[1]) if found else 0

    @property
    def failed(self) -> int:
        """The number of failed transactions; a refused or aborted session counts as one."""
        found = re.search(r"number of failed transactions: (\d+)", self.output)
        broken = len(re.findall(r"^pgbench: error:", self.output, re.MULTILINE))
        return (int(found[1]) if found else 0) + broken


@contextmanager
def pgbench(at: Host, through: Host, options: str, database: str = "bench") -> Iterator[Pgbench]:
    """Run pgbench as `app` on host `at` during the block; then it ends its transactions and reports."""
    unit = f"pgbench-{abs(hash(options)) % 10**6}"
    log = f"/root/{unit}.log"
    command = f"exec pgbench -n -T 3600 {options} -h {through.address} -p 9999 -U {APP} {database} >{log} 2>&1"
    at.run(f'systemd-run -q --unit={unit} -E HOME=/root -E PGSSLMODE=require -p RemainAfterExit=yes sh -c "{command}"')
    result = Pgbench()
    try:
        yield result
    finally:
        at.run(f"systemctl kill --signal=ALRM {unit} 2>/dev/null || :")  # the signal at the end of its time
        at.attempt(f"while systemctl show -P SubState {unit} | grep -q running; do sleep 0.2; done", seconds=30)
        result.status = int(at.run(f"systemctl show -P ExecMainStatus {unit}"))
        result.output = at.run(f"cat {log}; systemctl stop {unit} 2>/dev/null || :; systemctl reset-failed || :")


@dataclass(slots=True)
class Ledger:
    """Rows whose INSERT was acknowledged, and when (seconds since the epoch), in order."""

    name: str
    acknowledged: dict[int, float]
    errors: str = ""

    @property
    def unexpected_errors(self) -> str:
        """Return the errors of its sessions, apart from pgpool-II's fault at an attachment."""
        return re.sub(rf"^.*{POOL_FAULT}.*\n(?:DETAIL:.*\n?)?", "", self.errors, flags=re.MULTILINE)

    @property
    def longest_gap(self) -> float:
        """Return the longest time without an acknowledged write, in seconds."""
        times = list(self.acknowledged.values())
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=float("inf"))

    def lost(self, host: Host) -> set[int]:
        """Return the numbers of acknowledged rows that this host's PostgreSQL does not have."""
        rows = (row.partition("|") for row in host.psql("SELECT writer, number FROM ledger", database=APP).splitlines())
        return set(self.acknowledged) - {int(number) for writer, _, number in rows if writer == self.name}


@contextmanager
def ledger(cluster: Cluster, at: Host, through: Host, name: str) -> Iterator[Ledger]:
    """Insert one row after the other during the block, each in its own session, as an application would.

    The host may lose its power meanwhile, which ends the account.
    """
    cluster.ask("CREATE TABLE IF NOT EXISTS ledger (writer text, number int, PRIMARY KEY (writer, number))", at=at,
                through=through)  # fmt: skip
    where = f"host={through.address} port=9999 user={APP} dbname={APP} sslmode=require connect_timeout=5"
    at.put("/root/ledger.sh", LEDGER.format(where=where, name=name))
    at.run("rm -f /root/ledger.end /root/ledger.log; systemd-run -q --unit=ledger -E HOME=/root sh /root/ledger.sh")
    at.until("[ $(wc -l </root/ledger.log) -ge 3 ]", 30)  # of this run, not of an earlier one
    result = Ledger(name, {})
    try:
        yield result
    finally:
        at.run("touch /root/ledger.end")
        at.until("! systemctl is-active -q ledger", 40)
        result.acknowledged = accounted(at)
        result.errors = at.run("cat /root/ledger.err")


def accounted(at: Host) -> dict[int, float]:
    """Return the rows acknowledged so far to the client on this host, with their times."""
    rows = re.findall(r"^(\d+) ([\d.]+)$", at.run("cat /root/ledger.log"), re.MULTILINE)
    return {int(number): float(moment) for number, moment in rows}
