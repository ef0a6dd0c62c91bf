"""A key change in a running cluster by docs/how-to/change-the-key.md, and the change back."""

from __future__ import annotations

import pytest
from tests.cluster.cluster import Cluster, through_pgpool
from tests.cluster.load import ledger
from tests.host import Host

from pgpool_cluster.definition import key as keys

KEY = "/etc/pgpool2/cluster.key"
PARALLEL = 40
"""More than the processes that pgpool-II keeps ready, so that new processes have to read its files."""


def put_key(host: Host, line: str) -> None:
    """Give a host another key by the how-to."""
    host.put(KEY, f"{line}\n", mode=0o600)
    host.run("pgpoolctl apply")


def log_in(host: Host) -> None:
    """Log in through the host's own pgpool-II many times in parallel."""
    host.put("/root/log-in.sh", through_pgpool(host, host, "SELECT 7 FROM pg_sleep(0.3)"))
    answers = host.run(f"for i in $(seq {PARALLEL}); do sh /root/log-in.sh 2>&1 & done; wait").splitlines()
    assert answers == ["7"] * PARALLEL


def role_logs_in(host: Host, line: str) -> bool:
    """Return whether the role for replication checks has the password derived from a key."""
    password = keys.parse(line, "").password(keys.Role.CHECK)
    host.put("/root/check.pgpass", f"*:*:*:{keys.Role.CHECK}:{password}\n", mode=0o600)
    where = f"host={host.address} user={keys.Role.CHECK} dbname=postgres sslmode=require passfile=/root/check.pgpass"
    return host.attempt(f"psql -XAtqc 'SELECT 1' '{where}'").status == 0


@pytest.mark.thorough
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["primary first", "primary last"])
def test_the_key_is_changed_while_clients_log_in_and_write(cluster: Cluster, order: tuple[int, ...]) -> None:
    hosts = [cluster.hosts[number] for number in order]
    old, new = cluster.hosts[0].run(f"cat {KEY}"), keys.generate() if order[0] == 0 else cluster.key
    before, began = cluster.status(), int(cluster.hosts[0].run("date +%s"))
    with ledger(cluster, at=cluster.hosts[2], through=cluster.hosts[2], name=f"key-{order[0]}") as written:
        put_key(hosts[0], new)
        for host in hosts:
            log_in(host)
        assert cluster.hosts[0].run("pgpoolctl check || :").count("FAIL"), "nothing told that the keys differ"
        for host in hosts[1:]:
            put_key(host, new)
        cluster.hosts[0].until("! pgpoolctl check | grep ^FAIL", 90)
        cluster.wait_healthy(60)
        for host in hosts:
            log_in(host)
    assert written.acknowledged
    assert written.lost(cluster.hosts[0]) == set()
    for host in hosts:
        journal = host.run(f"journalctl --no-pager -o cat -u pgpool2-cluster --since=@{began}")
        assert "the link with" not in journal, "heartbeats with the former key count until each node has the new one"
        assert host.run("wc -l </etc/pgpool2/cluster/heartbeat_key") == "1"
    after = cluster.status()
    assert after.nodes["pg1"].role == "primary"
    assert after.nodes["pg1"].timeline == before.nodes["pg1"].timeline
    assert role_logs_in(cluster.hosts[0], new)
    assert not role_logs_in(cluster.hosts[0], old)
    assert cluster.hosts[0].run("pgpoolctl user list") == "app"
