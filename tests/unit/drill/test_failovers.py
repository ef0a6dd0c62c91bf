"""The cases of `bench failover` inject, measure and heal, with doubles for the hosts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cluster import bench_failover
from tests.cluster.bench_failover import CASES, Account, Failovers, clients, idle
from tests.cluster.load import Pgbench
from tests.drill import figures
from tests.unit.drill.doubles import Play

from pgpool_deb.ground.project import Project

FIGURES = {figure.name for figure in figures.FIGURES}


class Load:
    """pgbench without a failed transaction."""

    def __enter__(self) -> Pgbench:
        return Pgbench(0, "number of failed transactions: 0")

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    made = Play()
    monkeypatch.setattr(bench_failover, "recording", made.recording)
    monkeypatch.setattr(bench_failover, "pgbench", lambda *_: Load())
    monkeypatch.setattr(bench_failover, "healed", lambda *_: [])
    for name in ("CALM_SECONDS", "AFTERWARDS_SECONDS", "CUT_SECONDS"):
        monkeypatch.setattr(bench_failover, name, 0.02)
    return made


@pytest.mark.parametrize(
    ("case", "begins", "ends"),
    [
        ("postgresql-killed", "pg1: chmod a-x", "pg1: chmod a+x"),
        ("primary-killed", "pg1: container.kill", "pg1: container.start"),
        ("primary-silent", "pg1: ip link set eth0 down", "pg1: booted"),
        ("standby-killed", "pg2: container.kill", "pg2: start"),
        ("standby-silent", "pg2: ip link set eth0 down", "pg2: start"),
        ("cut-off", "pg1: \nnft -f -", "pg1: nft delete table inet cut_off"),
        ("switchover", "pg1: pgpoolctl switchover pg2", ""),
        ("restart", "pg1: if pgpoolctl restart --help", ""),
    ],
)
def test_a_case_injects_its_fault_heals_it_and_has_figures(play: Play, case: str, begins: str, ends: str) -> None:
    bench = Failovers(play.stage)
    found = CASES[case](bench)
    assert set(found) <= FIGURES
    assert all(0 <= value < 10 for value in found.values()), found
    beginning = next(number for number, line in enumerate(play.said) if line.startswith(begins))
    assert any(line.startswith(ends) for line in play.said[beginning + 1 :]) or not ends
    assert bench.run is not None
    assert len(bench.run.history) == 2 * len(bench.run.names)


def test_the_cases_have_all_figures_of_the_table(play: Play) -> None:
    measured = {name for case in CASES.values() for name in case(Failovers(play.stage))}
    assert measured | {"idle"} == FIGURES


def test_a_row_that_the_primary_does_not_have_is_lost(play: Play) -> None:
    bench = Failovers(play.stage)
    CASES["switchover"](bench)
    names = [f"{address}, {kind}" for address in ("virtual", "hosts") for kind in ("kept", "short")]
    play.hosts[0].rows = "\n".join(f"{name}|{number}" for name in names for number in (1, 2))
    bench.nothing_lost()
    play.hosts[0].rows = play.hosts[0].rows.replace("hosts, kept|2", "hosts, kept|3")
    with pytest.raises(AssertionError, match=r"1 of 8 acknowledged rows are lost: \[\('hosts, kept', 2\)\]"):
        bench.nothing_lost()


def test_clients_are_numbered_and_have_the_pace_of_their_kind() -> None:
    made = clients(("virtual", "write", "host=a"), ("hosts", "write", "host=b"), after=4)
    assert [(one.name, one.number, one.kept, one.pace) for one in made] == [
        ("virtual, kept", 5, True, 0.01),
        ("virtual, short", 6, False, 0.05),
        ("hosts, kept", 7, True, 0.01),
        ("hosts, short", 8, False, 0.05),
    ]


def test_an_account_keeps_each_run_as_a_line(tmp_path: Path) -> None:
    account = Account(Project(tmp_path))
    account.add("switchover", {"switchover": 0.5}, run=0, recovered=[])
    account.add("switchover", {"switchover": 0.7}, run=1, recovered=["pg1"])
    assert account.samples == {"switchover": [0.5, 0.7]}
    lines = (tmp_path / "dist" / "bench" / "failover-runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["recovered"] for line in lines] == [[], ["pg1"]]


def test_the_idle_use_is_that_of_the_busiest_node(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_failover, "IDLE_SECONDS", 0.01)
    assert idle(play.stage.cluster) == 0
