"""Upgrade from an earlier pgpool-II, node by node, while clients on every node write through their own node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from debian.debian_support import Version
from tests.built import Built
from tests.cluster.cluster import INSTALL, STREAMING, Cluster
from tests.cluster.earlier import DEBIANS, OURS, built_by, install
from tests.cluster.images import Images
from tests.cluster.lab import Lab
from tests.cluster.load import ledger
from tests.cluster.native import NATIVE_MODES
from tests.host import Host, together
from tests.package.builds import copy_of

from pgpool_deb.ground.project import Project
from pgpool_deb.upstream.pins import Pins

pytestmark = pytest.mark.thorough
GAP_SECONDS = 10.0
"""How long clients of the other nodes may be unable to write: the time in which the watchdog elects a leader."""
STARTS = ((STREAMING, "debian"), (STREAMING, "ours"), *((mode, "ours") for mode in NATIVE_MODES))
"""Debian's own has no native mode that `pgpoolctl check` would accept."""


def version(host: Host) -> str:
    return host.run("dpkg-query -W -f '${Version}' pgpool2")


@pytest.fixture(scope="module")
def before(project: Project, packages: Built, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tar of the packages of the newest pinned pgpool-II older than the current one."""
    pins = Pins.load(project.sources).pins
    earlier = next(pin.version for pin in pins if Version(pin.version) < Version(packages.version))
    place = tmp_path_factory.mktemp("earlier")
    checkout = copy_of(project.path, place / "checkout")
    return built_by(checkout, place / "cache", packages.release, "--pgpool", earlier)


@pytest.fixture(scope="module", params=STARTS, ids="-".join)
def running(request: pytest.FixtureRequest, room: Lab, of_release: Images, packages: Built) -> Iterator[Cluster]:
    """A healthy cluster of three nodes with an earlier pgpool-II and the current cluster package."""
    mode, origin = request.param
    hosts = room.boot(of_release.prepared, "pg1", "pg2", "pg3")
    cluster = Cluster.of(hosts, mode)
    cluster.seed()
    if origin == "ours":
        install(hosts, request.getfixturevalue("before"))
    else:
        together(lambda host: host.run(f"{DEBIANS}; {INSTALL}"), hosts)
    cluster.wait_healthy()
    cluster.add_app()
    assert Version(version(hosts[0])) < Version(packages.debian_version)
    yield cluster
    room.remove(hosts)


def test_no_write_through_another_node_fails(running: Cluster, packages: Built) -> None:
    """Standbys first; clients of the upgraded node see its pgpool-II restart."""
    primary = running.primary() if running.mode == STREAMING else running.hosts[0]
    for host in (*running.others(primary), primary):
        with ExitStack() as clients:
            accounts = {
                other: clients.enter_context(ledger(running, at=other, through=other, name=f"{other}-{host}"))
                for other in running.hosts
            }
            host.run(OURS, seconds=600)
            running.wait_healthy(120)
        assert version(host) == packages.debian_version
        for other, account in accounts.items():
            print(f"{host} upgraded: {len(account.acknowledged)} writes through {other}, longest gap "
                  f"{account.longest_gap:.1f} s{', its own' if other is host else ''}")  # fmt: skip
            assert other is host or account.errors == "", other
            assert other is host or account.longest_gap < GAP_SECONDS, other
        if running.mode == STREAMING:
            running.replayed()
        for server in running.hosts:
            assert [account.lost(server) for account in accounts.values()] == [set()] * 3, server
    assert len({version(host) for host in running.hosts}) == 1
    for host in running.hosts:
        assert "pgpool-II version " + packages.version in host.run("pgpool --version 2>&1")
