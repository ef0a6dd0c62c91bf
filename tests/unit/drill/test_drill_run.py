"""A run of the drill injects and heals the faults of its seed, and keeps its files, with doubles for the hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cluster import drill
from tests.cluster.drill import Drill, Series, promised, report, workload
from tests.drill import checker
from tests.drill.operations import Operation, parse
from tests.drill.promises import PROMISES
from tests.drill.schedule import Step
from tests.unit.drill.doubles import Play

STEPS = (Step("cut-off", "primary", 0.0, 0.02), Step("host-silent", "standby 2", 0.01, 0.03))
HISTORY = (
    Operation("append 1", 1, 1.0, 1.1, appends={"0": 1000001}),
    Operation("read 4", 1, 2.0, 2.1, reads={"0": (1000001,)}, node="198.18.0.2", standby=True),
)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """A stage whose nodes all have the one value of the history at the end."""
    made = Play(history=HISTORY)
    for host in made.hosts:
        host.rows = json.dumps({"0": [1000001], "1": []})
    monkeypatch.setattr(drill, "AFTERWARDS_SECONDS", 0.0)
    monkeypatch.setattr(drill, "recording", made.recording)
    monkeypatch.setattr(drill, "healed", lambda _: ["pg3"])
    monkeypatch.setattr(drill, "draw", lambda *_: STEPS)
    monkeypatch.setattr(drill, "staged", lambda *_: made.stage)
    return made


def test_faults_begin_and_end_in_order_and_the_history_is_checked(play: Play, tmp_path: Path) -> None:
    verdict = Drill(play.stage, 5, tmp_path / "5").run()
    assert (verdict.broken, verdict.operations) == ((), 2)
    faults = [line.partition("\n")[0] for line in play.said if "nft" in line or "link" in line or "container" in line]
    faults += [line for line in play.said if line.endswith(": start")]
    assert faults == [
        "pg1: ", "pg3: ip link set eth0 down", "pg3: container.kill",
        "pg1: nft delete table inet cut_off 2>/dev/null || :", "pg3: start",
    ]  # fmt: skip
    folder = tmp_path / "5"
    assert [row["fault"] for row in json.loads((folder / "schedule.json").read_text())] == ["cut-off", "host-silent"]
    assert parse((folder / "history.jsonl").read_text().splitlines()) == HISTORY
    summary = json.loads((folder / "verdict.json").read_text())
    assert (summary["seed"], summary["broken"], summary["recovered"]) == (5, [], ["pg3"])


def test_a_lost_write_is_the_result_of_a_run(play: Play, tmp_path: Path) -> None:
    play.history = (*HISTORY, replace(HISTORY[0], appends={"1": 1000002}))
    (broken,) = Drill(play.stage, 5, tmp_path / "5").run().broken
    assert broken.kind == checker.LOST


def test_faults_that_have_begun_heal_if_another_cannot_begin(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "draw", lambda *_: (STEPS[0], replace(STEPS[1], fault="unknown")))
    with pytest.raises(KeyError):
        Drill(play.stage, 5, tmp_path / "5").run()
    assert any(line.startswith("pg1: nft delete table") for line in play.said)
    assert (tmp_path / "5" / "history.jsonl").read_text() != ""


class Room:
    """A lab that forgets its hosts."""

    def journals(self) -> str:
        return "the journals"

    def remove(self, hosts: object) -> None:
        assert hosts


def series(folder: Path) -> Series:
    return Series(Room(), "image", "streaming_replication", folder)  # type: ignore[arg-type]


def test_a_series_keeps_its_cluster_until_a_run_fails(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = series(tmp_path)
    assert made.run(1) == ""
    assert made.stage is play.stage
    play.history = (*HISTORY, replace(HISTORY[0], appends={"1": 1000002}))
    assert made.run(2).startswith("1 anomalies; the shortest:\nlost write: ")
    assert made.stage is None
    assert (tmp_path / "2" / "journals.txt").read_text() == "the journals"

    def sick(_: object) -> list[str]:
        raise AssertionError("not healthy")

    monkeypatch.setattr(drill, "healed", sick)
    assert made.run(3) == "the run did not end: not healthy"
    assert (tmp_path / "3" / "history.jsonl").exists()


def test_a_failure_names_the_command_that_replays_it() -> None:
    assert report({7: "lost"}, "trixie", "snapshot_isolation") == (
        "seed 7: lost\nreplay: ./invoke drill --seed 7 --runs 1 --release trixie --mode snapshot_isolation"
    )


def test_the_workload_has_kept_and_short_sessions_through_both_addresses() -> None:
    given = workload(Play().stage)
    assert [one.role for one in given] == ["append"] * 3 + ["read"] * 2 + ["own"] * 2
    assert {one.kept for one in given} == {True, False}
    assert all(one.kept for one in given if one.role == "own")
    assert {one.dsn.split()[0].count(",") for one in given} == {0, 2}
    assert [one.number for one in given] == list(range(1, 8))


@pytest.mark.parametrize("mode", PROMISES)
def test_only_a_node_that_stood_still_may_serve_older_reads(mode: str) -> None:
    assert promised(mode, STEPS) == PROMISES[mode]
    paused = promised(mode, [Step("host-paused", "primary", 2.0, 9.0), Step("deaf", "standby 1", 2.0, 20.0)])
    assert paused.stale_primary == PROMISES[mode].stale_primary + 7.0
