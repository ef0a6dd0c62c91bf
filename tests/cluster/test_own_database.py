"""A REVOKE, limit or rename of the database `postgres` does not affect the service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Cluster
from tests.host import Host

OWN = "pgpool_cluster"
EVERYWHERE = f"grep -q \"health_check_database = '{OWN}'\" /etc/pgpool2/cluster/pgpool.conf"
HARM = {
    "revoked": ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "GRANT CONNECT ON DATABASE postgres TO PUBLIC"),
    "limited": ("ALTER DATABASE postgres CONNECTION LIMIT 0", "ALTER DATABASE postgres CONNECTION LIMIT -1"),
    "renamed": (
        "ALTER DATABASE postgres ALLOW_CONNECTIONS false;\n"
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = 'postgres';\n"
        "ALTER DATABASE postgres RENAME TO former",
        "ALTER DATABASE former RENAME TO postgres;\nALTER DATABASE postgres ALLOW_CONNECTIONS true",
    ),
}


@pytest.fixture(autouse=True)
def gone_over(cluster: Cluster) -> Iterator[None]:
    """A cluster in which every node uses the roles' own database, as all do soon after the installation."""
    for host in cluster.hosts:
        host.until(EVERYWHERE, 60)
    yield
    cluster.wait_healthy(60)


@pytest.mark.thorough
@pytest.mark.parametrize("harm", HARM)
def test_the_service_continues(cluster: Cluster, pg1: Host, pg2: Host, harm: str) -> None:
    """After three attempts of a health check, which take some seconds, all nodes used to be detached."""
    do, undo = HARM[harm]
    pg1.psql(do, database="template1")
    try:
        for _ in range(5):
            pg2.run("sleep 4")
            assert cluster.ask("SELECT 1", at=pg2) == "1"
            assert {node.pgpool for node in cluster.status(pg2).nodes.values()} == {"up"}
        pg1.run("systemctl restart pgpool2-cluster")  # an agent with a new connection works as well
        cluster.wait_healthy(60)
        assert pg2.attempt("pgpoolctl check | grep '^FAIL'").output == ""
        pg1.run("pgpoolctl recover --force pg3", seconds=200)
    finally:
        pg1.psql(undo, database="template1")


@pytest.mark.thorough
def test_a_dropped_database_is_created_again(cluster: Cluster, pg1: Host) -> None:
    pg1.psql(f"DROP DATABASE {OWN} WITH (FORCE)")
    pg1.until(f"runuser -u postgres -- psql -XAtlF: | grep -q ^{OWN}:", 30)
    cluster.wait_healthy(60)
    assert pg1.psql("SELECT has_database_privilege('pgpool_check', 'pgpool_cluster', 'CONNECT')") == "t"


def test_no_other_role_can_connect(pg1: Host) -> None:
    assert pg1.psql(f"SELECT has_database_privilege('app', '{OWN}', 'CONNECT')") == "f"
