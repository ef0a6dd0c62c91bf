"""The packet filter is restored automatically, whatever has removed it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pgpool_cluster.agent.housekeeping import Housekeeping
from pgpool_cluster.configuration import reloading
from pgpool_cluster.decision.facts.facts import ClusterFacts
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import units
from pgpool_cluster.machine.record import Record
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport.peers import Peers

TEMPLATES = Path(__file__).parents[5] / "debian-templates" / "pgpool2-cluster"
UNIT = TEMPLATES / f"pgpool2-cluster.{paths.FIREWALL_UNIT}"
LIST = ["/usr/sbin/nft", "list", "table", "inet", "pgpool2_cluster"]


class Nft:
    """A stand-in for nft, with or without the table."""

    def __init__(self) -> None:
        self.loaded = False
        self.broken = False
        self.ran: list[list[str]] = []

    def run(self, words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.ran.append(words)
        if words == LIST:
            return subprocess.CompletedProcess(words, 0 if self.loaded else 1, "", "No such file or directory")
        self.loaded = not self.broken
        return subprocess.CompletedProcess(words, int(self.broken), "", "peers.nft:3: syntax error")


@pytest.fixture
def nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nft:
    found = Nft()
    monkeypatch.setattr(paths, "PEERS_NFT", tmp_path / "peers.nft")
    monkeypatch.setattr(subprocess, "run", found.run)
    paths.PEERS_NFT.touch()
    return found


def test_root_loads_missing_rules_and_leaves_existing_ones(nft: Nft, capsys: pytest.CaptureFixture[str]) -> None:
    assert units.serve_control("firewall") == "done"
    assert nft.ran == [LIST, ["/usr/sbin/nft", "-f", str(paths.PEERS_NFT)]]
    assert "loaded it again" in capsys.readouterr().err
    assert units.serve_control("firewall") == "done"
    assert nft.ran[2:] == [LIST]


def test_rules_that_cannot_be_loaded_are_reported(nft: Nft) -> None:
    nft.broken = True
    assert units.serve_control("firewall") == "nft: peers.nft:3: syntax error"


@pytest.mark.parametrize("request_", ["firewall /tmp/x", "firewall\nstart pgpool2.service", "firewalls"])
def test_the_firewall_request_takes_no_argument(request_: str, nft: Nft) -> None:
    assert units.serve_control(request_).startswith("refused")
    assert nft.ran == []


@pytest.mark.parametrize("node", ["pg1", "pg2"])
def test_the_agent_asks_root_to_check_the_rules_once_a_minute(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reload of nftables, pgpool-II's ports used to be open to all until pgpool-II was restarted."""
    cluster = parse("nodes: {pg1: 10.0.0.1, pg2: {address: 10.0.0.2, runs: [postgresql]}}", "cluster.yml", "pg1")
    asked: list[str] = []
    now = [100.0]
    monkeypatch.setattr(units, "control", lambda verb, *_: asked.append(verb))
    monkeypatch.setattr("pgpool_cluster.agent.housekeeping.time.monotonic", lambda: now[0])
    vigil: Any = None
    keeping = Housekeeping(Here(cluster, cluster.named(node), None, Peers({}), Record()), vigil)
    for now[0] in (100.0, 130.0, 161.0):
        keeping._keep_rules(ClusterFacts())
    assert asked == ["firewall", "firewall"]


def test_a_failure_is_retried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def control(*_: str) -> None:
        raise OperationError("firewall: no", hint="")

    cluster = parse("nodes: {pg1: 10.0.0.1}", "cluster.yml", "pg1")
    monkeypatch.setattr(units, "control", control)
    vigil: Any = None
    keeping = Housekeeping(Here(cluster, cluster.named("pg1"), None, Peers({}), Record()), vigil)
    for _ in range(2):
        with pytest.raises(OperationError):
            keeping._keep_rules(ClusterFacts())


def test_the_unit_is_tied_to_nftables_and_starts_before_pgpool() -> None:
    lines = UNIT.read_text().splitlines()
    for line in ("PartOf=nftables.service", "ReloadPropagatedFrom=nftables.service", "After=nftables.service",
                 "Before=pgpool2.service", "RemainAfterExit=yes", "WantedBy=multi-user.target"):  # fmt: skip
        assert line in lines
    for verb in ("ExecStart", "ExecReload"):
        assert f"{verb}=/usr/sbin/nft -f {paths.PEERS_NFT}" in lines
    assert f"--name={paths.FIREWALL_UNIT.removesuffix('.service')}" in (TEMPLATES / "rules").read_text()


def test_apply_loads_changed_rules_even_before_pgpool_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(units, "booted", lambda: True)
    monkeypatch.setattr(units, "ask", lambda *words: asked.append(words))
    monkeypatch.setattr(units, "state", lambda _: units.UnitState("inactive", "success", was_active=False))
    reloading.reload([str(paths.PEERS_NFT)], renewed=False)
    assert asked == [("reload-or-restart", paths.FIREWALL_UNIT)]
