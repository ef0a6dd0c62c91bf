"""Servers form a healthy cluster again after a restart, in any order and after any kind of stop."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import APP, STREAMING, Cluster, through_pgpool
from tests.cluster.conftest import Standing
from tests.cluster.load import ledger
from tests.cluster.native import STOP, given_up
from tests.host import Host, together

SECONDS = 90.0
ROUNDS = 20
KEEPALIVE_SECONDS = 7.0
"""Time after which pgpool-II has probed each of its silent connections (TCP keepalive)."""


@pytest.fixture(scope="module")
def rebooted(any_mode: str, standing: Standing) -> Cluster:
    """A healthy cluster of three in each mode, with a user `app`."""
    return standing.well(any_mode)


@pytest.fixture(autouse=True)
def nothing_is_lost(rebooted: Cluster) -> Iterator[None]:
    """Acknowledged writes are on all nodes afterwards, and each pgpool-II accepts writes again.

    A primary whose boot takes longer than pgpool-II's failover comes back as a standby.
    """
    first = rebooted.hosts[0]
    rebooted.ask("CREATE TABLE IF NOT EXISTS booted (at timestamptz)", at=first)
    rebooted.ask("INSERT INTO booted VALUES (clock_timestamp())", at=first)
    before = int(first.psql("SELECT count(*) FROM booted", database="app"))
    yield
    for host in rebooted.hosts:
        rebooted.ask("INSERT INTO booted VALUES (now())", at=host)
    if rebooted.mode == STREAMING:
        assert len(set(rebooted.checksums().values())) == 1
        assert len(rebooted.writable()) == 1
    else:
        counts = {host.psql("SELECT count(*) FROM booted", database="app") for host in rebooted.hosts}
        assert counts == {str(before + 3)}
        assert rebooted.writable() == [host.name for host in rebooted.hosts]
    assert int(first.psql("SELECT count(*) FROM booted", database="app")) == before + 3


def well_again(cluster: Cluster, seconds: float = SECONDS) -> None:
    """Wait until the cluster is healthy.

    If every node is a primary, run `pgpoolctl recover` for each node whose note names it.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = cluster.hosts[0].attempt("pgpoolctl status", seconds=60).output
        if f", {cluster.mode}: healthy" in answer:
            break
        waits = [host for host in cluster.hosts if f"hint: pgpoolctl recover {host}" in answer]
        if waits and cluster.mode != STREAMING:
            print(f"recovers {waits[0]}, as status says")
            waits[0].attempt(f"pgpoolctl recover {waits[0]}", seconds=200)
        time.sleep(1)
    cluster.wait_healthy(max(5.0, end - time.monotonic()))


@pytest.mark.brief_modes(STREAMING)
@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.thorough) for name in ("pg3", "pg2")), "pg1"])
def test_one_after_the_other(rebooted: Cluster, name: str) -> None:
    """If every node is a primary, the others have accepted writes meanwhile, so it waits for `recover` and says so."""
    rebooted.named(name).reboot()
    well_again(rebooted)


@pytest.mark.thorough
def test_all_together_after_a_clean_shutdown(rebooted: Cluster) -> None:
    together(Host.stop, rebooted.hosts)
    together(Host.start, rebooted.hosts)
    well_again(rebooted)


def test_all_together_by_a_power_cut(rebooted: Cluster) -> None:
    together(Host.kill, rebooted.hosts)
    began = time.monotonic()
    together(Host.start, rebooted.hosts)
    rebooted.wait_healthy(SECONDS)
    print(f"{rebooted.mode}: healthy {time.monotonic() - began:.1f} s after the power came back")


@pytest.mark.brief_modes("native_replication")
@pytest.mark.parametrize("order", ["pg3 pg1 pg2", *(pytest.param(order, marks=pytest.mark.thorough)
                                                   for order in ("pg3 pg2 pg1", "pg2 pg1 pg3"))])  # fmt: skip
def test_in_another_order_after_a_power_cut(rebooted: Cluster, order: str) -> None:
    together(Host.kill, rebooted.hosts)
    for name in order.split():
        rebooted.named(name).container.start()
        time.sleep(3)
    together(Host.booted, rebooted.hosts)
    rebooted.wait_healthy(SECONDS)


@pytest.mark.thorough
@pytest.mark.parametrize("order", ["pg3 pg1 pg2", "pg1 pg2 pg3"])
def test_a_power_cut_while_a_node_is_out_of_service(rebooted: Cluster, order: str) -> None:
    """It still waits; `status` names the command, which works. The others serve."""
    pg1, _, pg3 = rebooted.hosts
    pg3.run(STOP)
    given_up(rebooted, "pg3")
    rebooted.ask("CREATE TABLE IF NOT EXISTS meanwhile ()", at=pg1)
    together(Host.kill, rebooted.hosts)
    for name in order.split():
        rebooted.named(name).container.start()
        time.sleep(2)
    together(Host.booted, rebooted.hosts)
    well_again(rebooted)


@pytest.mark.brief_modes("native_replication")
@pytest.mark.parametrize("moment", [0.3, *(pytest.param(moment, marks=pytest.mark.thorough) for moment in (1.0, 2.5))])
def test_a_power_cut_in_the_middle_of_a_recovery(rebooted: Cluster, moment: float) -> None:
    """An incomplete copy is repeated; the other nodes recover without a command."""
    pg1, _, pg3 = rebooted.hosts
    pg3.run(f"{STOP}; find /var/lib/postgresql/*/main -mindepth 1 -delete")
    given_up(rebooted, "pg3")
    pg1.run("systemd-run -q --unit=recovering --collect pgpoolctl recover pg3")
    pg3.until("[ -s /var/lib/postgresql/*/main/PG_VERSION ]", 60)
    time.sleep(moment)
    together(Host.kill, rebooted.hosts)
    together(Host.start, rebooted.hosts)
    rebooted.wait_healthy(SECONDS)


@pytest.mark.thorough
@pytest.mark.parametrize("any_mode", [STREAMING], indirect=False, scope="module")
def test_no_session_waits_for_a_server_that_lost_its_power(rebooted: Cluster) -> None:
    """The primary is back before it is given up, so only TCP itself ends the others' connections to it."""
    primary = rebooted.primary()
    others = rebooted.others(primary)
    for host in others:
        sessions_of_every_process(host)
    waits = through_pgpool(others[0], others[0], "SELECT pg_sleep(600) /*NO LOAD BALANCE*/")
    others[0].put("/root/waits", waits)
    others[0].run("systemd-run -q --collect --unit=waits -E HOME=/root sh /root/waits")
    sessions = "runuser -u postgres -- psql -XAtqc 'SELECT query FROM pg_stat_activity'"
    primary.until(f"{sessions} | grep -F 'pg_sleep(600)'", 20)
    primary.cut()
    primary.run("ss --kill --tcp 'sport = :5432' >/dev/null")  # as after a boot, it no longer knows them
    primary.mend()
    back = time.monotonic()
    rebooted.wait_healthy(SECONDS)
    others[0].until("! systemctl is-active waits", 15)
    time.sleep(max(0.0, back + KEEPALIVE_SECONDS - time.monotonic()))
    for host in others:
        sessions_of_every_process(host)


def sessions_of_every_process(host: Host) -> None:
    """Open more sessions than pgpool-II has processes, two at a time, each with one statement; none may fail."""
    host.run("echo 'SELECT 1 /*NO LOAD BALANCE*/;' >/root/one.sql")
    options = f"-n -C -c 2 -t 60 -f /root/one.sql -h 127.0.0.1 -p 9999 -U {APP} {APP}"
    host.run(f"PGSSLMODE=require pgbench {options}", seconds=60)


@pytest.mark.thorough
@pytest.mark.parametrize("number", range(ROUNDS))
def test_power_cuts_in_random_order_and_at_random_moments(rebooted: Cluster, number: int) -> None:
    """A client writes on one of the hosts, which may lose power itself.

    If the others continued for long enough, a primary was replaced, and returns by itself. If every node is a primary,
    a node may wait for `recover`.
    """
    chance = random.Random(number)  # seeded by its number, to be reproducible
    lost = chance.sample(rebooted.hosts, chance.choice([1, 2, 3, 3]))
    writer = chance.choice(rebooted.hosts)
    with ledger(rebooted, at=writer, through=writer, name=f"round {number}") as account:
        for host in lost:
            host.kill()
            time.sleep(chance.choice([0.0, 0.5, 3.0, 12.0]))
        for host in chance.sample(lost, len(lost)):
            host.container.start()
            time.sleep(chance.choice([0.0, 1.0, 4.0, 9.0]))
        together(Host.booted, lost)
        began = time.monotonic()
        well_again(rebooted, 120)
        took = time.monotonic() - began
    print(f"lost: {', '.join(map(str, lost))}; writes on {writer}, {len(account.acknowledged)} acknowledged; "
          f"healthy {took:.0f} s after the last boot")  # fmt: skip
    if rebooted.mode == STREAMING:
        rebooted.replayed()
    for host in rebooted.hosts:
        assert account.lost(host) == set(), host


@pytest.mark.parametrize("any_mode", [STREAMING], indirect=False, scope="module")
def test_a_standby_that_was_away_for_a_while_comes_back(rebooted: Cluster) -> None:
    """pgpool-II has given it up by then; it is attached again without a command."""
    primary = rebooted.primary()
    standby = rebooted.others(primary)[0]
    standby.kill()
    rebooted.until(lambda status: status.nodes[standby.name].pgpool == "down", "it is given up", 60, primary)
    rebooted.ask("CREATE TABLE IF NOT EXISTS meanwhile ()", at=primary)
    standby.start()
    rebooted.wait_healthy(SECONDS)
