"""`pgpoolctl restart`: PostgreSQL of all nodes restarts while clients write, with more and with fewer connections."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import YML, Cluster
from tests.cluster.load import Ledger, ledger
from tests.host import Host, together

SECONDS = 300.0
CHANGE = 50
STARTED = "SELECT extract(epoch FROM pg_postmaster_start_time())"
CONNECTIONS = "SHOW max_connections"
FAILURES = re.compile(r"\b(?:error|FATAL|ERROR)\b.*")
MOST_FAILURES = 40
"""The sessions of a ledger that may fail around one change of the primary, each after at most tenths of a second."""


@pytest.fixture(scope="module", autouse=True)
def pg1_leads_again(cluster: Cluster, pg1: Host) -> Iterator[None]:
    yield
    cluster.wait_healthy(90)
    if cluster.primary() != pg1:
        pg1.run("pgpoolctl switchover pg1", seconds=120)
        cluster.wait_healthy(90)


def started(cluster: Cluster) -> dict[str, float]:
    """Return when each server has started, by the clock of its host."""
    return {host.name: float(host.psql(STARTED)) for host in cluster.hosts}


def connections(cluster: Cluster) -> set[int]:
    return {int(host.psql(CONNECTIONS)) for host in cluster.hosts}


def configure(cluster: Cluster, lines: str) -> None:
    """Add lines to cluster.yml on all nodes, in place of those of an earlier call, and apply them."""
    restore = f"[ -e /root/before.yml ] || cp -p {YML} /root/before.yml; cp -p /root/before.yml {YML}"
    together(lambda host: host.run(f"{restore}; echo '{lines}' >>{YML}; pgpoolctl apply"), cluster.hosts)


@pytest.fixture
def original(cluster: Cluster) -> Iterator[int]:
    """The present max_connections, which is in force again afterwards."""
    (now,) = connections(cluster)
    yield now
    configure(cluster, "")
    cluster.hosts[0].attempt("pgpoolctl restart --pending", seconds=SECONDS)
    together(lambda host: host.run("rm -f /root/before.yml"), cluster.hosts)
    cluster.wait_healthy(90)
    assert connections(cluster) == {now}


def examine(cluster: Cluster, written: Ledger, *, changes: int) -> None:
    """Check that no acknowledged row is lost, and that sessions failed only around so many changes of the primary."""
    failures = FAILURES.findall(written.unexpected_errors)
    gap = written.longest_gap
    print(f"the longest time without an acknowledged write: {gap:.1f} s; {len(failures)} sessions failed")
    assert written.lost(cluster.primary()) == set()
    assert len(set(cluster.checksums().values())) == 1
    assert len(failures) <= changes * MOST_FAILURES, written.errors


def events(host: Host, kind: str) -> int:
    return host.run("pgpoolctl history -n 1000").count(f"  {kind}: ")


def test_all_nodes_restart_while_a_client_writes_through_another_node(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    before = started(cluster)
    with ledger(cluster, at=pg3, through=pg3, name="restart") as written:
        said = pg1.run("pgpoolctl restart", seconds=SECONDS)
        cluster.wait_healthy(60)
    examine(cluster, written, changes=1)
    assert said.splitlines()[-1] == "PostgreSQL was restarted on pg2, pg3, pg1; pg2 is the primary"
    assert cluster.writable() == ["pg2"]
    assert all(then < now for then, now in zip(before.values(), started(cluster).values(), strict=True))
    text = pg1.run("pgpoolctl history -n 30")
    assert "restart: restart PostgreSQL of pg2, a standby" in text
    assert "restart: restart PostgreSQL of pg3, a standby" in text


def test_a_standby_restarts_without_an_error_of_a_client_on_another_node(
    cluster: Cluster, pg1: Host, pg3: Host
) -> None:
    """A session of the ledger writes, so it uses the primary; the standby's own readers connect anew."""
    name = next(host.name for host in cluster.others(cluster.primary()) if host != pg3)
    with ledger(cluster, at=pg3, through=pg3, name=f"restart of {name}") as written:
        pg1.run(f"pgpoolctl restart {name}", seconds=SECONDS)
        cluster.wait_healthy(60)
    examine(cluster, written, changes=0)


def test_the_primary_restarts_and_is_the_primary_again(cluster: Cluster, pg1: Host, pg3: Host) -> None:
    first = cluster.primary()
    before = started(cluster)[first.name]
    with ledger(cluster, at=pg3, through=pg3, name="back") as written:
        pg1.run(f"pgpoolctl restart {first.name} --back", seconds=SECONDS)
        cluster.wait_healthy(60)
    examine(cluster, written, changes=2)
    assert cluster.primary() == first
    assert started(cluster)[first.name] > before


@pytest.mark.thorough
def test_max_connections_goes_up_and_down_again(cluster: Cluster, pg2: Host, pg3: Host, original: int) -> None:
    promotions = events(pg2, "promote")
    configure(cluster, f"postgresql_conf: {{max_connections: {original + CHANGE}}}")
    with ledger(cluster, at=pg3, through=pg3, name="more") as written:
        assert pg2.run("pgpoolctl restart --pending", seconds=SECONDS).endswith(" is the primary")
        cluster.wait_healthy(60)
    examine(cluster, written, changes=1)
    assert connections(cluster) == {original + CHANGE}
    assert events(pg2, "promote") == promotions + 1

    primary = cluster.primary()
    configure(cluster, f"postgresql_conf: {{max_connections: {original}}}")
    with ledger(cluster, at=pg3, through=pg3, name="fewer") as written:
        said = pg2.run("pgpoolctl restart --pending", seconds=SECONDS)
        cluster.wait_healthy(60)
    examine(cluster, written, changes=1)
    assert f"[1/3] {primary.name}: restart of the primary in place" in said
    assert connections(cluster) == {original}
    assert cluster.primary() == primary
    assert events(pg2, "promote") == promotions + 1, "no standby took the place of a primary that was restarting"
    assert pg2.run("pgpoolctl restart --pending") == "no parameter requires a restart"


@pytest.mark.thorough
def test_a_change_in_both_directions_restarts_nothing(cluster: Cluster, pg2: Host, original: int) -> None:
    present = int(pg2.psql("SHOW max_worker_processes"))
    before = started(cluster)
    lines = f"max_connections: {original + CHANGE}, max_worker_processes: {present - 1}"
    configure(cluster, f"postgresql_conf: {{{lines}}}")
    refused = pg2.attempt("pgpoolctl restart")
    assert refused.status == 1, refused.output
    assert "max_connections grows and max_worker_processes shrinks, so restart twice" in refused.output
    assert f"postgresql_conf: {{max_worker_processes: {present}}}" in refused.output
    assert started(cluster) == before


@pytest.mark.thorough
def test_a_server_that_would_not_start_is_found_before_anything_restarts(cluster: Cluster, pg2: Host) -> None:
    before = started(cluster)
    folder = "$(echo /etc/postgresql/*/main/conf.d)"
    pg2.run(f"echo 'shared_buffers = much' >{folder}/zz-broken.conf")
    try:
        refused = pg2.attempt("pgpoolctl restart")
    finally:
        pg2.run(f"rm {folder}/zz-broken.conf")
    assert refused.status == 1, refused.output
    assert "PostgreSQL of pg2 would not start again: " in refused.output
    assert started(cluster) == before


@pytest.mark.thorough
def test_an_interrupted_restart_goes_on_where_it_stopped(cluster: Cluster, pg2: Host) -> None:
    """Ctrl-C in the first restart: its node completes it, and the hint names the others."""
    primary = cluster.primary()
    first = cluster.others(primary)[0]
    before = started(cluster)
    output = "-p StandardOutput=append:/root/restart -p StandardError=append:/root/restart"
    pg2.run(f"rm -f /root/restart; systemd-run -q --unit=restarting {output} pgpoolctl restart")
    pg2.until(f"grep '^restarting PostgreSQL of {first.name}' /root/restart", 60)
    pg2.run("systemctl kill --signal=INT restarting")
    pg2.until("! systemctl is-active -q restarting", 30)
    said = pg2.run("systemctl reset-failed restarting || :; cat /root/restart")
    assert f"interrupted: {first.name} completes its restart; restarted: {first.name}; not restarted: " in said
    cluster.wait_healthy(60)
    after = started(cluster)
    assert [name for name, then in before.items() if after[name] > then] == [first.name]
    assert cluster.primary() == primary
    (rest,) = re.findall(r"then (pgpoolctl restart .+)$", said, re.MULTILINE)
    pg2.run(rest, seconds=SECONDS)
    cluster.wait_healthy(60)
    assert all(started(cluster)[name] > then for name, then in before.items())
    assert started(cluster)[first.name] == after[first.name]


@pytest.mark.thorough
def test_a_pause_prevents_a_restart(cluster: Cluster, pg2: Host) -> None:
    before = started(cluster)
    pg2.run("pgpoolctl pause")
    try:
        refused = pg2.attempt("pgpoolctl restart")
    finally:
        pg2.run("pgpoolctl resume")
    assert refused.status == 1, refused.output
    assert "hint: pgpoolctl resume" in refused.output
    assert started(cluster) == before
