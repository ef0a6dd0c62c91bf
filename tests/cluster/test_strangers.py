"""A host without the cluster key answers in a node's place: it gets no secret, and the cluster survives (S2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.cluster import APP_PASSWORD, Cluster
from tests.cluster.load import ledger
from tests.host import Host

from pgpool_cluster.definition import key as keys

pytestmark = pytest.mark.thorough  # a node is away for minutes; test_libpq.py and test_proof.py test the protocol
PROGRAM = (Path(__file__).parent / "stranger.py").read_text(encoding="utf-8")
LOG = "/root/stranger.log"
INSISTS = "[ -s /etc/pgpool2/cluster/sslrootcert ]"
STAYS = 25.0
"""Seconds that the stranger stays: several health checks, a search for the primary, and each kind of TLS request."""


@contextmanager
def stranger(cluster: Cluster, place: Host) -> Iterator[None]:
    """A stranger with a node's address but without its key; all services of the cluster and ssh are stopped there."""
    for host in cluster.hosts:
        host.until(INSISTS, 60)
    place.put("/root/stranger.py", PROGRAM)
    place.run(f"rm -f {LOG}; systemctl stop ssh.socket 2>/dev/null || :; systemctl stop ssh pgpool2-cluster")
    place.run("systemctl kill -s KILL pgpool2 'postgresql@*'; systemctl stop pgpool2 'postgresql@*'")
    place.run(f"systemd-run -q --unit=stranger python3 /root/stranger.py {LOG}")
    try:
        yield
    finally:
        place.reboot()


def came(place: Host) -> list[tuple[int, bytes]]:
    """Return the port and the received bytes of each connection to the stranger."""
    lines = [line.partition(" ") for line in place.run(f"cat {LOG}").splitlines()]
    return [(int(port), bytes.fromhex(data)) for port, _, data in lines]


def learnt_nothing(cluster: Cluster, place: Host) -> None:
    """Check that no secret arrived, and that no client answered an authentication request."""
    secret = keys.parse(cluster.key, "")
    secrets = [*(secret.password(role) for role in keys.Role), secret.pcp_password, secret.watchdog_key, APP_PASSWORD]
    heard = came(place)
    assert [port for port, _ in heard if port == 5432], "no node came: the test shows nothing"
    for port, data in heard:
        assert not any(word.encode() in data for word in secrets), (port, data)
        assert not (port == 5432 and data), ("something was sent to a server that had not proved itself", data)


def test_in_place_of_a_standby(cluster: Cluster) -> None:
    first, _, third = cluster.hosts
    with ledger(cluster, at=first, through=first, name="stranger-standby") as written, stranger(cluster, third):
        for _ in range(5):
            first.attempt(f"pgpoolctl check | grep {third}; pgpoolctl recover {third} </dev/null", seconds=60)
            time.sleep(STAYS / 5)
        learnt_nothing(cluster, third)
        status = cluster.status(first)
        assert status.nodes["pg1"].role == "primary"
        assert not status.healthy
    cluster.wait_healthy(180)
    assert written.acknowledged
    assert written.lost(first) == set()


def test_in_place_of_the_primary(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    with stranger(cluster, first):
        cluster.until(lambda _: len(cluster.writable(second, third)) == 1, "a primary among the others", 90, second)
        time.sleep(STAYS)
        learnt_nothing(cluster, first)
        assert cluster.ask("SELECT 7", at=second) == "7"
    cluster.wait_healthy(180)  # it returns by itself
    assert len(cluster.writable()) == 1
    first.run("pgpoolctl switchover pg1", seconds=120)
    cluster.wait_healthy(60)


def test_a_server_with_another_certificate_is_reported(cluster: Cluster) -> None:
    """For example an administrator's own; `check` reports it with a fix."""
    _, second, _ = cluster.hosts
    snakeoil = {"cert": "/etc/ssl/certs/ssl-cert-snakeoil.pem", "key": "/etc/ssl/private/ssl-cert-snakeoil.key"}
    for name, path in snakeoil.items():
        second.psql(f"ALTER SYSTEM SET ssl_{name}_file = '{path}'")
    second.psql("SELECT pg_reload_conf()")
    try:
        told = cluster.hosts[0].attempt("sleep 2; pgpoolctl check | grep ^FAIL").output
        assert "pg2" in told
        assert "certificate" in told
    finally:
        for name in snakeoil:
            second.psql(f"ALTER SYSTEM RESET ssl_{name}_file")
        second.psql("SELECT pg_reload_conf()")
    cluster.wait_healthy(120)
