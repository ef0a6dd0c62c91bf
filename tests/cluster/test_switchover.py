"""A planned change of the primary, and back, while clients write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from tests.cluster.cluster import APP, Cluster
from tests.cluster.load import POOL_FAULT, Pgbench, ledger, pgbench
from tests.host import Host

_RECONNECTING = "-C -c 4 -j 1 -f /root/one-row.sql"
_LONGEST_GAP = """
awk '{{ printf "%d.%06d\\n", $5, $6 }}' /root/row-{}.* | sort -n |
awk 'NR > 1 && $1 - last > most {{ most = $1 - last; at = last }}
     {{ last = $1 }}
     END {{ printf "%.2f, from %.2f", most, at }}'
"""
_DRAIN_SECONDS = 5.0

SESSION = """
import sys, time, psycopg2
session = psycopg2.connect(host=sys.argv[1], port=9999, user="app", dbname="app", sslmode="require")
{body}
"""
STAYS_OPEN = """
session.autocommit = True
errors, number = [], 0
while not __import__("os").path.exists("/root/session.end"):
    try:
        with session.cursor() as cursor:
            cursor.execute("SELECT 1")
    except psycopg2.Error as error:
        errors.append(f"{error.pgcode} {' '.join(str(error).split())}")
        if not session.closed:
            continue
        session = psycopg2.connect(host=sys.argv[1], port=9999, user="app", dbname="app", sslmode="require")
        session.autocommit = True
    time.sleep(0.02)
print("\\n".join(errors))
"""
ENDS_WITHIN_THE_DRAIN = """
with session.cursor() as cursor:
    cursor.execute("INSERT INTO ledger VALUES ('open', 1)")
    print("began", flush=True)
    time.sleep(2)
    cursor.execute("INSERT INTO ledger VALUES ('open', 2)")
session.commit()
print("committed", flush=True)
"""


@dataclass(slots=True)
class Session:
    """The output of a program with one session."""

    output: str = ""


@contextmanager
def session(at: Host, name: str, body: str) -> Iterator[Session]:
    """Run a program with a session through this host's pgpool-II during the block, and wait for its end."""
    at.put(f"/root/{name}.py", SESSION.format(body=body))
    at.run("rm -f /root/session.end")
    command = f"exec python3 /root/{name}.py {at.address} >/root/{name}.log 2>&1"
    at.run(f'systemd-run -q --unit={name} -E HOME=/root -p RemainAfterExit=yes sh -c "{command}"')
    found = Session()
    try:
        yield found
    finally:
        at.run("touch /root/session.end")
        at.attempt(f"while systemctl show -P SubState {name} | grep -q running; do sleep 0.2; done", seconds=30)
        found.output = at.run(f"cat /root/{name}.log; systemctl stop {name} 2>/dev/null || :")


@pytest.mark.parametrize("name", ["pg3", "pg1"])
def test_the_primary_is_changed_and_no_acknowledged_row_is_lost(cluster: Cluster, pg2: Host, name: str) -> None:
    with ledger(cluster, at=pg2, through=pg2, name=f"to {name}") as written:
        said = pg2.run(f"pgpoolctl switchover {name}", seconds=120)
        cluster.wait_healthy(60)
    print(f"the longest time without an acknowledged write: {written.longest_gap:.1f} s; errors: {written.errors!r}")
    assert f"{name} is the primary" in said
    assert cluster.primary().name == name
    assert cluster.writable() == [name]
    assert written.lost(cluster.named(name)) == set()
    print(pg2.run("journalctl -q -o short-precise -u pgpool2-cluster --since=-60s | grep client"))
    assert written.unexpected_errors == "", "clients that connect anew wait"
    assert len(set(cluster.checksums().values())) == 1


def aborted(output: str) -> int:
    """Return how many clients of pgbench were aborted, except by pgpool-II's fault when a node is attached."""
    return len(re.findall(r"client \d+ aborted", output)) - output.count(POOL_FAULT)


@pytest.mark.thorough
def test_clients_that_reconnect_see_no_error_through_any_pgpool(cluster: Cluster) -> None:
    """`pgbench -C` on every node, with four clients each. Thorough, because pgpool-II's known fault may hide others."""
    target = next(host for host in cluster.hosts if host is not cluster.primary())
    cluster.ask("CREATE TABLE IF NOT EXISTS arrivals (moment timestamptz)", at=target, through=target)
    for host in cluster.hosts:
        host.put("/root/one-row.sql", "INSERT INTO arrivals VALUES (clock_timestamp());\n")
    with ExitStack() as stack:
        runs: list[Pgbench] = []
        for host in cluster.hosts:
            options = f"{_RECONNECTING} --log --log-prefix=/root/row-{host.name}"
            runs.append(stack.enter_context(pgbench(host, host, options, database=APP)))
        print(target.run(f"pgpoolctl switchover {target.name}", seconds=120))
        cluster.wait_healthy(60)
    for host, run in zip(cluster.hosts, runs, strict=True):
        longest = host.run(_LONGEST_GAP.format(host.name)).strip()
        print(f"{host.name}: {run.transactions} transactions, {run.failed} failed, the longest gap was {longest} s")
        print(host.run("journalctl -q -o short-precise -u pgpool2-cluster --since=-60s | tail -n 60"))
    print(cluster.primary().run("pgpoolctl history -n 30"))
    for run in runs:
        assert (aborted(run.output), run.transactions > 0) == (0, True), run.output


def test_an_open_transaction_ends_and_a_session_that_stays_open_has_one_error(cluster: Cluster, pg2: Host) -> None:
    target = next(host for host in cluster.hosts if host is not cluster.primary())
    rows = "SELECT count(*) FROM ledger WHERE writer = 'open'"
    cluster.ask("CREATE TABLE IF NOT EXISTS ledger (writer text, number int, PRIMARY KEY (writer, number))", at=pg2,
                through=pg2)  # fmt: skip
    with session(pg2, "stays", STAYS_OPEN) as stays, session(pg2, "drains", ENDS_WITHIN_THE_DRAIN) as drains:
        pg2.run("until grep -q began /root/drains.log; do sleep 0.05; done", seconds=20)
        said = pg2.run(f"pgpoolctl switchover {target.name} --drain {_DRAIN_SECONDS:g}", seconds=120)
        cluster.wait_healthy(60)
    print(said, stays.output, drains.output)
    assert drains.output.split() == ["began", "committed"]
    errors = [line for line in stays.output.splitlines() if line]
    assert len(errors) <= 1, errors
    assert all(re.match(r"57P01 |None .*(closed|terminat|EOF)", line) for line in errors), errors
    assert target.psql(rows, database=APP).strip() == "2"


def test_switchover_refuses_the_primary_and_unusable_standbys(cluster: Cluster, pg1: Host) -> None:
    primary = cluster.primary()
    standby = next(host for host in cluster.hosts if host is not primary)
    answer = pg1.attempt(f"pgpoolctl switchover {primary.name}")
    assert (answer.status, "is the primary already" in answer.output) == (1, True), answer.output
    pg1.run(f"pgpoolctl detach {standby.name}")
    assert "hint: " in pg1.attempt(f"pgpoolctl switchover {standby.name}").output
    pg1.run(f"pgpoolctl attach {standby.name}")
    cluster.wait_healthy(60)
