"""Upgrade from the packages of an earlier commit, node by node, while a client writes and nodes fail."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.cluster.cluster import APP, APP_PASSWORD, Cluster
from tests.cluster.earlier import INSTALL_FROM, built_by, install
from tests.cluster.images import PACKAGES, Images
from tests.cluster.lab import Lab
from tests.cluster.load import Ledger, accounted, ledger
from tests.host import Host

from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release

pytestmark = pytest.mark.thorough
OLD = "21297de5c126a2ae0cc43460a40d40965054da0e"
"""A commit before nodes verified certificates, and before a process of postgres wrote the files of postgres."""
AWAY_SECONDS = 60.0


@pytest.fixture(scope="module")
def old_packages(project: Project, release: Release, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar of the packages that OLD builds for the release."""
    place = tmp_path_factory.mktemp("old")
    archived = subprocess.run(["git", "archive", OLD], cwd=project.path, capture_output=True, check=False)
    if archived.returncode:
        pytest.skip(f"this checkout has no commit {OLD[:7]}: it is a shallow clone")
    checkout = place / "checkout"
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tar:
        tar.extractall(checkout, filter="data")
    return built_by(checkout, place / "cache", release)


@pytest.fixture(scope="module")
def old(room: Lab, of_release: Images, old_packages: bytes) -> Iterator[Cluster]:
    """A healthy cluster of three nodes with the old packages."""
    cluster = Cluster.of(room.boot(of_release.prepared, "pg1", "pg2", "pg3"))
    cluster.seed()
    install(cluster.hosts, old_packages)
    cluster.wait_healthy()
    cluster.add_app()
    yield cluster
    room.remove(cluster.hosts)


@pytest.fixture(scope="module")
def client(room: Lab, of_release: Images, old: Cluster) -> Iterator[Host]:
    """A host beside the cluster, because every node loses power at some time."""
    (booted,) = room.boot(of_release.prepared, "client")
    booted.put("/root/.pgpass", f"*:9999:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
    yield booted
    room.remove((booted,))


@pytest.fixture(scope="module")
def account(old: Cluster, client: Host) -> Iterator[Ledger]:
    """A client that writes through any pgpool-II that accepts its session, from first upgrade to last failover."""
    any_node = replace(client, address=",".join(host.address for host in old.hosts))
    with ledger(old, at=client, through=any_node, name="rolling") as written:
        yield written


def upgrade(host: Host) -> None:
    host.run(INSTALL_FROM.format(folder=PACKAGES), seconds=600)


def fails_over(cluster: Cluster, failed: Host) -> Host:
    """Cut the power of the primary, and return its successor.

    The former primary returns by itself. One with an older package is recovered, as `status` says.
    """
    others = cluster.others(failed)
    failed.kill()
    began = time.monotonic()
    cluster.until(
        lambda status: any(node.role == "primary" and node.name != failed.name for node in status.nodes.values()),
        "another primary", AWAY_SECONDS, others[0],
    )  # fmt: skip
    print(f"another primary {time.monotonic() - began:.1f} s after {failed} lost its power")
    successor = cluster.primary(others[0])
    failed.start()
    waits = f"hint: pgpoolctl recover {failed}"
    successor.until(f"pgpoolctl wait --timeout 1 || pgpoolctl status | grep -q '{waits}'", 120)
    if waits in successor.attempt("pgpoolctl status").output:
        successor.run(f"pgpoolctl recover {failed}", seconds=200)
    cluster.wait_healthy(120)
    return successor


@pytest.mark.usefixtures("account")
def test_1_a_node_is_upgraded_and_takes_over_from_an_old_one(old: Cluster) -> None:
    pg1, pg2, _ = old.hosts
    upgrade(pg2)
    old.wait_healthy(120)
    pg1.run("pgpoolctl switchover pg2", seconds=120)
    old.wait_healthy(120)
    assert old.writable() == ["pg2"]


@pytest.mark.usefixtures("account")
def test_2_an_old_node_takes_over_from_an_upgraded_one(old: Cluster) -> None:
    assert fails_over(old, old.named("pg2")).name in ("pg1", "pg3")


@pytest.mark.usefixtures("account")
def test_3_an_upgraded_node_takes_over_from_the_last_old_one(old: Cluster) -> None:
    """The old standby is upgraded first, then the old primary dies."""
    primary = old.primary()
    (standby,) = old.others(primary, old.named("pg2"))
    upgrade(standby)
    old.wait_healthy(120)
    assert fails_over(old, primary).name in ("pg2", standby.name)
    upgrade(primary)
    old.wait_healthy(120)


@pytest.mark.usefixtures("account")
def test_4_all_are_upgraded_and_every_server_is_verified(old: Cluster) -> None:
    for host in old.hosts:
        host.until("grep -q 'sslmode *= *verify-full' /etc/pgpool2/cluster/pg_service.conf", 120)
    fails_over(old, old.primary())


def test_5_nothing_is_lost(old: Cluster, client: Host, account: Ledger) -> None:
    client.run("touch /root/ledger.end")
    client.until("! systemctl is-active -q ledger", 40)
    account.acknowledged = accounted(client)
    old.replayed()
    print(f"{len(account.acknowledged)} acknowledged; the longest time without one: {account.longest_gap:.1f} s")
    assert len(account.acknowledged) > 100
    for host in old.hosts:
        assert account.lost(host) == set(), host
