"""Reads are spread over the nodes by their weights, writes go to the primary, and one's own writes can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster.cluster import Cluster
from tests.host import Host, together

SESSIONS = 40
WHERE = "SELECT host(inet_server_addr())"
YML = "/etc/pgpool2/cluster.yml"


@pytest.fixture(scope="module", autouse=True)
def table(cluster: Cluster, pg1: Host) -> None:
    cluster.ask("CREATE TABLE IF NOT EXISTS balanced (x int)", at=pg1)


def answered_by(cluster: Cluster, at: Host, through: Host) -> Counter[str]:
    """Return how many of SESSIONS new sessions were answered by which node."""
    ask = f"psql -XAtq 'host={through.address} port=9999 user=app dbname=app sslmode=require' -c '{WHERE}'"
    lines = at.run(f"for session in $(seq {SESSIONS}); do {ask}; done").split()
    names = {host.address: host.name for host in cluster.hosts}
    return Counter(names.get(line, line) for line in lines)


@contextmanager
def configured(cluster: Cluster, edit: str) -> Iterator[None]:
    """Edit cluster.yml on all nodes with sed and apply it; all is as before in the end."""
    try:
        together(lambda host: host.run(f"cp -p {YML} /root/yml; sed -i '{edit}' {YML}; pgpoolctl apply"), cluster.hosts)
        yield
    finally:
        together(lambda host: host.run(f"cp -p /root/yml {YML}; pgpoolctl apply"), cluster.hosts)
        cluster.wait_healthy()


def test_reads_are_spread_over_all_nodes(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    answers = answered_by(cluster, pg1, pg2)
    assert set(answers) == {"pg1", "pg2", "pg3"}, answers
    assert min(answers.values()) >= SESSIONS / 10, answers


def test_writes_go_to_the_primary_through_whichever_pgpool(cluster: Cluster, pg1: Host) -> None:
    for through in cluster.hosts:
        where = cluster.ask(
            "INSERT INTO balanced VALUES (1) RETURNING host(inet_server_addr())", at=pg1, through=through
        )
        assert where == pg1.address, through


def test_in_a_transaction_what_was_written_is_read(cluster: Cluster, pg1: Host, pg2: Host) -> None:
    for number in range(10):
        script = f"BEGIN; INSERT INTO balanced VALUES (100 + {number}); {WHERE}; COMMIT;"  # noqa: S608
        assert cluster.ask(script.replace("; ", ";\n"), at=pg1, through=pg2).split() == [pg1.address]


def test_a_weight_in_cluster_yml_counts_once_it_is_applied(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    with configured(cluster, r"s/^  pg2: \([0-9.]*\)$/  pg2: {address: \1, weight: 0}/"):
        answers = answered_by(cluster, pg1, pg3)
    assert set(answers) == {"pg1", "pg3"}, answers


def test_a_parameter_of_pgpool_in_cluster_yml_wins(cluster: Cluster, pg1: Host) -> None:
    """The documented setting for reading one's own writes outside of transactions."""
    with configured(cluster, "$a pgpool: {disable_load_balance_on_write: always}"):
        script = "INSERT INTO balanced VALUES (7);\nSELECT host(inet_server_addr());"
        answers = {cluster.ask(script, at=pg1) for _ in range(10)}
    assert answers == {pg1.address}


@pytest.mark.thorough
def test_cluster_yml_applied_again_and_again_leaves_no_node_blind(cluster: Cluster) -> None:
    """An agent that read cluster.yml while it was asking its pgpool-II took that for down from then on."""
    for _ in range(6):
        with configured(cluster, r"s/^  pg2: \([0-9.]*\)$/  pg2: {address: \1, weight: 0}/"):
            pass
