"""The packet filter for watchdog and pcp is restored automatically, whatever has removed it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.host import Host

LOADED = "nft list table inet pgpool2_cluster"
UNIT = "pgpool2-cluster-firewall.service"
MINUTE_SECONDS = 75.0


@pytest.fixture
def nftables(pg1: Host) -> Iterator[Host]:
    """A host with Debian's nftables.conf, which starts with `flush ruleset`."""
    pg1.run("grep -q '^flush ruleset' /etc/nftables.conf; systemctl start nftables")
    pg1.until(LOADED, MINUTE_SECONDS)
    yield pg1
    pg1.run(f"systemctl stop nftables; systemctl restart {UNIT}")


@pytest.mark.thorough
@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_the_rules_are_reloaded_with_nftables(nftables: Host, verb: str) -> None:
    nftables.run(f"systemctl is-active {UNIT} || systemctl start {UNIT}")
    nftables.run(f"systemctl {verb} nftables")
    nftables.until(LOADED, 3)


@pytest.mark.thorough
def test_flushed_rules_are_reloaded_within_a_minute(nftables: Host) -> None:
    nftables.run("nft flush ruleset")
    assert nftables.attempt(f"{LOADED} 2>&1").status != 0
    assert "closed to other hosts" in nftables.attempt("pgpoolctl check | grep ^FAIL").output
    nftables.until(LOADED, MINUTE_SECONDS)
    assert "loaded it again" in nftables.run("journalctl --no-pager --since=-2min -u 'pgpool2-cluster-control@*'")


def test_the_rules_are_loaded_before_pgpool_starts(pg1: Host) -> None:
    assert pg1.run(f"systemctl show -P Before {UNIT}").split().count("pgpool2.service") == 1
    pg1.run(f"systemctl is-active {UNIT}; {LOADED}")
    exposure = pg1.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    assert float(exposure.split(":")[1].split()[0]) <= 2.5, exposure
