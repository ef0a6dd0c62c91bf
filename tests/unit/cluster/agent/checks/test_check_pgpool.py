"""Faults of pgpool-II, each found by its own check."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.cluster.checked import CLUSTER, UP, Break, Machine, check_of

from pgpool_cluster.configuration.users import Users
from pgpool_cluster.decision.facts.facts import BackendState
from pgpool_cluster.definition.cluster import Parameter
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.ground.errors import OperationError
from pgpool_cluster.machine import known_faults, pgpool
from pgpool_cluster.machine.known_faults import Installed
from pgpool_cluster.machine.network.addresses import placed
from pgpool_cluster.machine.units import UnitState


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: (m.becomes(pgpool=None), m.has(unit=UnitState("failed", "x", was_active=True))),
                     "pgpool-II runs", "the unit is failed", "systemctl status pgpool2.service", id="down"),
        pytest.param(lambda m: (m.becomes(pgpool=None), m.has(note="it waits; hint: start pg2")),
                     "pgpool-II runs", "it waits; hint: start pg2", "start pg2", id="the agent's note"),
        pytest.param(lambda m: (m.folder / "key_of_pgpool").write_text("another\n"),
                     "pgpool-II runs with the applied cluster.key", "it was started with another key",
                     "pgpoolctl apply on the other nodes", id="key"),
        pytest.param(lambda m: Users(2, {"app": "x" * 1000}, "m").save(m.folder / "users.json"),
                     "pgpool-II can read the passwords of its users", "the password of app is longer",
                     "pgpoolctl user set app", id="long password"),
        pytest.param(lambda m: m.sees(backends=UP | {"pg3": BackendState.DOWN}), "pgpool-II sends clients to pg3",
                     "it is down", "pgpoolctl attach pg3, or pgpoolctl recover pg3", id="detached"),
    ],
)  # fmt: skip
def test_a_fault_of_pgpool_fails_only_its_own_check(break_: Break, what: str, why: str, fix: str, pg1: Machine) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_a_watchdog_needs_its_quorum(native: Machine) -> None:
    found = check_of(native, lambda m: m.sees(quorum=False), "the watchdog has its quorum")
    assert "too few pgpool-II processes" in found.why
    assert "start pgpool-II on more nodes" in found.fix


def test_with_streaming_there_is_no_watchdog_to_check(pg1: Machine) -> None:
    pg1.sees(quorum=False)
    assert pg1.failed() == []


def test_a_pcp_password_that_pgpool_rejects_is_reported(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found while this list was written: it was reported as a pgpool-II that does not run."""

    def pcp(*_: object, **__: object) -> str:
        raise OperationError('pcp_node_count: FATAL: authentication failed for user "pgpool_pcp"', hint="x")

    pg1.becomes(pgpool=None)
    monkeypatch.setattr(pgpool, "listens", lambda _: True)
    monkeypatch.setattr(pgpool, "pcp", pcp)
    (found,) = pg1.failed()
    assert found.what == "pgpool-II accepts the pcp password"
    assert found.fix == "pgpoolctl apply"
    monkeypatch.setattr(pgpool, "pcp", lambda *_, **__: "3")
    assert [check.what for check in pg1.failed()] == ["pgpool-II runs"]


def test_the_patches_of_pgpool_are_checked_where_it_runs(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"name": "one-recovery", "without": "two can run", "relied_on": True, "versions": [[]], "mends": []}
    monkeypatch.setattr(known_faults, "_table", lambda: {"patches": [lacking]})
    pg1.installed = Installed("4.6.1-1", own=True)
    assert [check.what for check in pg1.failed()] == ["pgpool2 4.6.1-1 has the patch one-recovery"]
    text = "nodes: {pg1: {address: 10.0.0.1, runs: [postgresql]}, pg2: db2.example.org, pg3: 10.0.0.3}"
    pg1.cluster = placed(parse(text, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    assert pg1.failed() == []


def test_connections_of_all_pgpools_have_to_fit(pg1: Machine) -> None:
    """Three pgpool-IIs with 100 processes and 4 connections each."""
    pg1.cluster = replace(CLUSTER, pgpool=(Parameter("num_init_children", "100"),))
    (found,) = pg1.failed()
    assert found.why.startswith("1000 are available for 1200")
