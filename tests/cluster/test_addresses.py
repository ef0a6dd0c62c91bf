"""Nodes with IPv6 addresses or host names, and the virtual address, which the agents move."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import docker
import pytest
from tests.cluster.cluster import APP, APP_PASSWORD, Cluster, Status
from tests.cluster.conftest import NAMES, labs
from tests.cluster.images import Images
from tests.cluster.lab import Lab, lab
from tests.cluster.load import Ledger, ledger
from tests.host import Host, together

pytestmark = pytest.mark.thorough  # it installs four clusters
FAILOVER_SECONDS = 60.0
ADDRESS_SECONDS = 30.0
DROPPED_SECONDS = 3.0
"""Seconds after which a host that is cut off no longer has the virtual address."""
QUIET_SECONDS = 8.0
WATCH = """
systemctl reset-failed addresses 2>/dev/null || :
systemd-run -q --unit=addresses sh -c 'while sleep 0.05; do
    ip -oneline address show to {address} | grep -q . && date +%s.%N; done >/root/addresses.log'
"""
"""Records the moments at which a host has the virtual address. Hosts are containers, so they have one clock."""
DOMAIN = "lan"
WRITES = "[ $(($(date +%s) - $(tail -n 1 /root/ledger.log | cut -d ' ' -f 2 | cut -d . -f 1))) -le 2 ]"
"""A command that succeeds if the last acknowledged write of a ledger is at most two seconds old."""


@dataclass(frozen=True, slots=True)
class Story:
    """A cluster, a client host outside of it, and the address to which its clients connect."""

    cluster: Cluster
    client: Host
    through: Host

    @property
    def virtual(self) -> bool:
        return bool(self.cluster.virtual_ip)


@pytest.fixture(scope="module")
def six(docker_engine: docker.DockerClient) -> Iterator[Lab]:
    """A network of hosts with IPv6 addresses only."""
    with lab(docker_engine, six=True) as opened:
        labs.append(opened)
        yield opened
        labs.remove(opened)


def begun(room: Lab, of_release: Images, *, virtual: bool = False, domain: str = "") -> Story:
    """Install a cluster of three, wait until it is healthy, and add a fourth host as its client."""
    *hosts, client = room.boot(of_release.prepared, *NAMES, "client", domain=domain)
    address = room.address()
    length = 64 if ":" in address else 24
    made = Cluster.of(hosts)
    cluster = replace(made, virtual_ip=f"{address}/{length}" if virtual else "", domain=domain)
    cluster.deploy()
    client.put("/root/.pgpass", f"*:9999:*:{APP}:{APP_PASSWORD}\n", mode=0o600)
    through = replace(hosts[2], name="virtual", address=address) if virtual else hosts[2]
    return Story(cluster, client, through)


@pytest.fixture(scope="module", params=[False, True], ids=["nodes", "virtual"])
def story(six: Lab, of_release: Images, request: pytest.FixtureRequest) -> Iterator[Story]:
    """A cluster with IPv6 addresses, without and with a virtual address for its clients."""
    started = begun(six, of_release, virtual=request.param)
    yield started
    six.remove((*started.cluster.hosts, started.client))


@pytest.fixture(scope="module")
def named(room: Lab, of_release: Images) -> Iterator[Story]:
    """A cluster with host names; /etc/hosts on each node resolves its own name to 127.0.1.1."""
    started = begun(room, of_release, domain=DOMAIN)
    yield started
    room.remove((*started.cluster.hosts, started.client))


@pytest.fixture(scope="module")
def moving(room: Lab, of_release: Images) -> Iterator[Story]:
    """A cluster with IPv4 addresses and a virtual address."""
    started = begun(room, of_release, virtual=True)
    yield started
    room.remove((*started.cluster.hosts, started.client))


def every_precondition_is_met(cluster: Cluster) -> None:
    for host in cluster.hosts:
        answer = host.attempt("pgpoolctl check", seconds=90)
        assert answer.status == 0, f"{host}: {answer.output}"


def lose_the_primary(story: Story) -> Ledger:
    """Cut the power of the primary, which has the virtual address, while clients write; wait until they can write."""
    cluster = story.cluster
    pg1, pg2, pg3 = cluster.hosts
    one_has_virtual_address(story, pg1)

    def taken_over(status: Status) -> bool:
        return {status.nodes[host.name].role for host in (pg2, pg3)} == {"primary", "standby"}

    with ledger(cluster, at=story.client, through=story.through, name="client") as account:
        pg1.kill()
        cluster.until(taken_over, "one is the primary, the other a standby", FAILOVER_SECONDS, pg2)
        story.client.until(WRITES, FAILOVER_SECONDS)
    return account


def nothing_was_lost(story: Story, account: Ledger) -> None:
    """Check that the primary has every acknowledged write, and that the remaining standby follows it."""
    load = os.getloadavg()[0]
    print(f"the longest time without an acknowledged write: {account.longest_gap:.1f} s (load {load:.0f})")
    pg1, pg2, _ = story.cluster.hosts
    primary = story.cluster.primary(pg2)
    (standby,) = story.cluster.others(pg1, primary)
    assert primary.psql("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'") == standby.name
    assert account.acknowledged
    assert account.lost(primary) == set()
    assert account.longest_gap < FAILOVER_SECONDS, account.errors


def one_has_virtual_address(story: Story, *hosts: Host) -> None:
    """Wait until one of these hosts has the virtual address, if there is one."""
    end = time.monotonic() + ADDRESS_SECONDS
    ask = f"ip -oneline address show to {story.through.address}"
    while story.virtual and len(having := [host.name for host in hosts if host.run(ask)]) != 1:
        assert time.monotonic() < end, f"{having} have the virtual address"
        time.sleep(0.5)


def nodes_are_reached_from_their_own_addresses(cluster: Cluster, *hosts: Host) -> None:
    """Check that no connection comes from the virtual address, since nodes admit only their own addresses."""
    for host in hosts or cluster.hosts:
        for other in cluster.others(host):
            route = host.run(f"ip route get {other.address}")
            assert f" src {host.address} " in f"{route} ", f"{host}: {route}"


def bring_it_back(story: Story) -> None:
    """Boot the former primary, which returns by itself."""
    cluster = story.cluster
    pg1, pg2, _ = cluster.hosts
    cluster.until(lambda status: status.nodes["pg1"].pgpool == "down", "pg1 is given up", FAILOVER_SECONDS, pg2)
    pg1.start()
    cluster.wait_healthy()
    one_has_virtual_address(story, *cluster.hosts)
    nodes_are_reached_from_their_own_addresses(cluster)
    assert len(cluster.writable()) == 1
    assert len(set(cluster.checksums().values())) == 1
    every_precondition_is_met(cluster)


def test_1_ipv6_the_cluster_is_healthy_and_check_passes(story: Story) -> None:
    cluster = story.cluster
    status = cluster.status()
    assert status.healthy
    assert [node.address for node in status.nodes.values()] == [host.address for host in cluster.hosts]
    every_precondition_is_met(cluster)


def test_2_ipv6_nodes_connect_from_their_own_addresses(story: Story) -> None:
    """This includes the node with the virtual address, because the others admit only the nodes' own addresses."""
    pg1 = story.cluster.hosts[0]
    one_has_virtual_address(story, pg1)
    nodes_are_reached_from_their_own_addresses(story.cluster)


@pytest.fixture(scope="module")
def account(story: Story) -> Ledger:
    return lose_the_primary(story)


def test_3_ipv6_a_standby_takes_over_and_the_other_follows(story: Story, account: Ledger) -> None:
    nothing_was_lost(story, account)
    left = story.cluster.hosts[1:]
    one_has_virtual_address(story, *left)
    nodes_are_reached_from_their_own_addresses(story.cluster, *left)
    if story.virtual:
        assert story.cluster.ask("SELECT 1", at=story.client, through=story.through) == "1"


def test_4_ipv6_the_former_primary_returns(story: Story, account: Ledger) -> None:
    bring_it_back(story)
    assert account.lost(story.cluster.primary()) == set()


@pytest.mark.smoke
def test_1_names_the_cluster_is_healthy_and_check_passes(named: Story) -> None:
    status = named.cluster.status()
    assert status.healthy
    assert [node.address for node in status.nodes.values()] == [f"{name}.{DOMAIN}" for name in NAMES]
    every_precondition_is_met(named.cluster)


def test_2_names_a_silent_name_server_at_boot_changes_nothing(named: Story) -> None:
    pg3 = named.cluster.hosts[2]
    laid = pg3.run("cat /etc/pgpool2/cluster/hosts")
    pg3.run(f"grep -v {DOMAIN} /etc/hosts >/root/hosts; cat /root/hosts >/etc/hosts; systemctl restart pgpool2-cluster")
    named.cluster.wait_healthy(FAILOVER_SECONDS)
    assert pg3.run("cat /etc/pgpool2/cluster/hosts") == laid
    assert f"pg1.{DOMAIN}, the address of pg1, is not found" in pg3.attempt("pgpoolctl check").output
    pg3.reboot()
    named.cluster.wait_healthy()
    every_precondition_is_met(named.cluster)


def test_3_names_the_primary_dies_and_returns(named: Story) -> None:
    account = lose_the_primary(named)
    nothing_was_lost(named, account)
    bring_it_back(named)


@contextmanager
def recorded(story: Story) -> Iterator[dict[str, list[float]]]:
    """Record when each host has the virtual address, until the block ends."""
    found: dict[str, list[float]] = {}
    hosts = story.cluster.hosts
    together(lambda host: host.run(WATCH.format(address=story.through.address)), hosts)
    time.sleep(1)
    try:
        yield found
    finally:
        together(lambda host: host.run("systemctl stop addresses"), hosts)
        for host in hosts:
            found[host.name] = list(map(float, host.run("cat /root/addresses.log").split()))


def at_no_time_on_two(times: dict[str, list[float]]) -> None:
    """Check that no host has the address between two moments at which another one has it."""
    spans = [(at, name) for name, every in times.items() for at in every]
    turns = [name for name, _ in groupby(name for _, name in sorted(spans))]
    assert len(turns) == len(set(turns)), turns


def test_1_moving_the_address_is_with_the_primary_and_no_node_uses_it_as_a_source(moving: Story) -> None:
    pg1 = moving.cluster.hosts[0]
    one_has_virtual_address(moving, pg1)
    nodes_are_reached_from_their_own_addresses(moving.cluster)
    assert moving.cluster.ask("SELECT 1", at=moving.client, through=moving.through) == "1"
    assert "delegate_ip" not in pg1.run("cat /etc/pgpool2/cluster/pgpool.conf")
    every_precondition_is_met(moving.cluster)


def test_2_moving_a_restart_of_pgpool_or_of_the_agent_moves_nothing(moving: Story) -> None:
    pg1, *others = moving.cluster.hosts
    with recorded(moving) as times:
        for unit in ("pgpool2", "pgpool2-cluster"):
            pg1.run(f"systemctl restart {unit}")
            time.sleep(QUIET_SECONDS)
    assert [times[host.name] for host in others] == [[], []]
    gaps = [later - at for at, later in pairwise(times["pg1"])]
    assert max(gaps) < 1.0
    moving.cluster.wait_healthy()


def test_3_moving_a_pgpool_that_stays_away_gives_the_address_up_and_takes_it_back(moving: Story) -> None:
    pg1, *others = moving.cluster.hosts
    with recorded(moving) as times:
        pg1.run("systemctl stop pgpool2")
        one_has_virtual_address(moving, *others)
        pg1.run("systemctl start pgpool2")
        one_has_virtual_address(moving, pg1)
        moving.cluster.wait_healthy()
        one_has_virtual_address(moving, *moving.cluster.hosts)
    assert times["pg1"][-1] > max(at for host in others for at in times[host.name])


def test_4_moving_a_client_that_waits_gets_its_error_when_the_address_moves(moving: Story) -> None:
    """Otherwise it would wait until TCP gives up."""
    cluster = moving.cluster
    pg1, pg2, _ = cluster.hosts
    one_has_virtual_address(moving, pg1)
    ask = f"psql -h {moving.through.address} -p 9999 -U {APP} -d {APP} -c 'SELECT pg_sleep(300)'"
    moving.client.run(f"systemd-run -q --unit=waiting -E HOME=/root -E PGSSLMODE=require -p RemainAfterExit=yes {ask}")
    time.sleep(2)
    pg1.run("pgpoolctl switchover pg2", seconds=120)
    moving.client.until("[ $(systemctl show -P SubState waiting) != running ]", ADDRESS_SECONDS)
    moving.client.run("systemctl stop waiting; systemctl reset-failed waiting 2>/dev/null || :")
    one_has_virtual_address(moving, pg2)
    pg1.run("pgpoolctl switchover pg1", seconds=120)
    cluster.wait_healthy()
    one_has_virtual_address(moving, pg1)


def test_5_moving_the_address_is_gone_from_a_cut_off_node_and_never_on_two(moving: Story) -> None:
    cluster = moving.cluster
    pg1, *others = cluster.hosts
    one_has_virtual_address(moving, pg1)
    with recorded(moving) as times:
        cut = float(pg1.run("date +%s.%N"))
        pg1.cut()
        try:
            one_has_virtual_address(moving, *others)
            time.sleep(QUIET_SECONDS)
        finally:
            pg1.mend()
    dropped = times["pg1"][-1] - cut
    taken = min(at for host in others for at in times[host.name]) - cut
    print(f"dropped after {dropped:.1f} s, taken after {taken:.1f} s")
    assert dropped < DROPPED_SECONDS
    at_no_time_on_two(times)
    cluster.wait_healthy()
    assert cluster.primary().run(f"ip -oneline address show to {moving.through.address}")


def test_6_moving_an_address_that_another_host_has_is_not_put_up(moving: Story) -> None:
    """Its link-layer address is in the status."""
    cluster, address = moving.cluster, moving.through.address
    primary = cluster.primary()
    device = moving.client.run("ip -oneline route show default").split(" dev ")[1].split()[0]
    moving.client.run(f"ip address add {address}/32 dev {device}")
    try:
        primary.run(f"ip address del {address}/32 dev {device}")
        primary.until(f"pgpoolctl status | grep 'answers for the virtual address {address}'", ADDRESS_SECONDS)
        assert not primary.run(f"ip -oneline address show to {address}")
    finally:
        moving.client.run(f"ip address del {address}/32 dev {device}")
    one_has_virtual_address(moving, primary)


def test_7_moving_the_removal_of_the_package_takes_the_address_away(moving: Story) -> None:
    cluster = moving.cluster
    primary = cluster.primary()
    primary.run("DEBIAN_FRONTEND=noninteractive apt-get remove -y pgpool2-cluster", seconds=300)
    assert not primary.run(f"ip -oneline address show to {moving.through.address}")
