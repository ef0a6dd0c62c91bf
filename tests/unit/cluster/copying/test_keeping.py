"""WAL that only this node has is kept with the names of its transactions, before its data is replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.cluster.clock import Clock
from tests.unit.cluster.nodes import CLUSTER, NATIVE, away, primary

from pgpool_cluster.copying import keeping
from pgpool_cluster.decision.facts.facts import Lsn, NodeFacts, Switch
from pgpool_cluster.definition.cluster import Cluster, PostgresqlCluster
from pgpool_cluster.ground import paths, waiting
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.wal import diverged
from pgpool_cluster.node.node import Here
from pgpool_cluster.postgresql import postgresql as pg
from pgpool_cluster.transport.peers import Peers
from pgpool_cluster.transport.protocol import LookRequest

SEGMENT = 2**20
FORK = Lsn(3 * SEGMENT + 8192 * 5 + 40)
RECORD = (
    "rmgr: {0:11} len (rec/tot):     59/    59, tx:  {1}, lsn: {2}, prev 0/0, desc: {3}, blkref #0: rel 1663/5/16384"
)


def at(offset: int) -> Lsn:
    return Lsn(FORK.bytes + offset)


class FormerPrimary:
    """pg1, whose WAL of timeline 1 goes on after FORK, where pg2 was promoted. `dump`: pg_waldump by timeline."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster = CLUSTER) -> None:
        self.folder, self.data = folder, folder / "data"
        (self.data / "pg_wal").mkdir(parents=True)
        (self.data / "PG_VERSION").write_text("17\n")
        self.segment(1, 3)
        self.record = Record(system=7000, term=1, led=1)
        self.control = {
            "Database system identifier": "7000",
            "Latest checkpoint's TimeLineID": "1",
            "Bytes per WAL segment": str(SEGMENT),
        }
        self.source: NodeFacts = primary("pg2", term=2, timeline=2, at=9 * SEGMENT)
        self.source = replace(self.source, history=(Switch(1, FORK),))
        self.cluster = cluster
        self.asked: list[list[str]] = []
        monkeypatch.setattr(paths, "DIVERGED", folder / "diverged")
        monkeypatch.setattr(Instance, "program", lambda _, name: str(folder / name))
        monkeypatch.setattr(pg, "control_data", lambda _: self.control)
        monkeypatch.setattr(Here, "on", self._on)
        self.dump(1, RECORD.format("Heap", 734, at(0), "INSERT off 1"),
                  RECORD.format("Transaction", 734, at(64), "COMMIT 2026-11-30 17:03:36.6 UTC"),
                  "pg_waldump: error: error in WAL record at 0/3: invalid record length")  # fmt: skip

    def _on(self, name: str, request: object, *, seconds: float) -> NodeFacts:
        """Answer for pg2. Only that node is asked, since a silent one would cost seconds."""
        assert (name, request) == ("pg2", LookRequest(fresh=True))
        assert seconds < 3
        if not self.source.reachable:
            raise ServerError("pg2 is unreachable: no answer", hint="start pg2")
        return self.source

    def segment(self, timeline: int, number: int) -> Path:
        path = self.data / "pg_wal" / diverged.segment_name(timeline, Lsn(number * SEGMENT), SEGMENT)
        path.write_bytes(b"x" * SEGMENT)
        return path

    def dump(self, timeline: int, *lines: str) -> None:
        """Let pg_waldump print these lines for a timeline, and write down its arguments."""
        (self.folder / f"dump-{timeline}").write_text("".join(f"{line}\n" for line in lines))
        program = self.folder / "pg_waldump"
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{self.folder}/asked\n'
            f'for word; do case $word in --timeline=*) cat {self.folder}/dump-"${{word#*=}}"; esac; done\nexit 1\n'
        )
        program.chmod(0o755)

    @property
    def arguments(self) -> Sequence[str]:
        asked = self.folder / "asked"
        return asked.read_text().splitlines() if asked.exists() else ()

    def keep(self) -> str:
        instance = Instance(PostgresqlCluster(17, "main"), 5432, self.data)
        database: Any = SimpleNamespace(instance=instance)
        here = Here(self.cluster, self.cluster.named("pg1"), database, Peers({}), self.record)
        return keeping.keep(here, "pg2")

    @property
    def kept(self) -> list[Path]:
        return sorted(paths.DIVERGED.iterdir()) if paths.DIVERGED.exists() else []


@pytest.fixture
def pg1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FormerPrimary:
    return FormerPrimary(tmp_path, monkeypatch)


def test_the_transactions_after_the_promotion_are_named_and_their_wal_is_kept(
    pg1: FormerPrimary, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pg1.keep()
    (record,) = pg1.kept
    assert folder == str(record)
    assert record.name.endswith("Z-pg1-1")
    assert sorted(path.name for path in record.iterdir()) == [
        "000000010000000000000003", "summary.json", "transactions.txt",
    ]  # fmt: skip
    text = (record / "transactions.txt").read_text()
    assert text.startswith("WAL that only pg1 had, kept before pg1 became a standby of pg2.\n")
    assert f"WAL: timeline 1 from {FORK} to {at(64 + 59)}" in text
    assert "1 transactions have committed, 0 have not." in text
    assert f"xid 734 committed 2026-11-30 17:03:36.6 UTC, WAL from {FORK} to {at(64)}\n" in text
    assert "    relation 1663/5/16384: 1 inserted\n" in text
    assert "invalid record length" in text
    assert "Only the WAL" not in text
    (report,) = diverged.listed(paths.DIVERGED)
    assert (report.begins, report.ends, report.committed, report.other) == (str(FORK), str(at(123)), 1, 0)
    limit = Lsn(FORK.bytes + diverged.MOST_RECORD_BYTES)
    assert pg1.arguments == [f"--path={pg1.data}/pg_wal --timeline=1 --start={FORK} --end={limit}"]
    told = capsys.readouterr().out
    assert "1 committed and 0 other transactions are in this node's WAL alone" in told
    assert str(record / "transactions.txt") in told


def test_the_same_wal_is_kept_once(pg1: FormerPrimary) -> None:
    """A return that fails after this step is tried again."""
    pg1.keep()
    assert pg1.keep() == ""
    assert len(pg1.kept) == 1
    pg1.dump(1, RECORD.format("Heap", 735, at(0), "INSERT off 1"))
    (pg1.kept[0]).rename(paths.DIVERGED / "20200101T000000Z-pg1-1")
    pg1.keep()
    assert len(pg1.kept) == 2


def test_wal_without_a_transaction_is_not_kept(pg1: FormerPrimary, capsys: pytest.CaptureFixture[str]) -> None:
    pg1.dump(1, RECORD.format("XLOG", 0, at(0), "CHECKPOINT_SHUTDOWN redo 0/10"))
    pg1.keep()
    pg1.dump(1, f"pg_waldump: error: could not find a valid record after {FORK}")
    pg1.keep()
    assert pg1.kept == []
    assert "no transaction is in this node's WAL alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"record": Record(system=7000, copying="pg2")},
        {"record": Record()},
        {"record": Record(system=8000)},
        {"control": {}},
        {"cluster": NATIVE},
    ],
    ids=["half a copy", "no member", "another system", "no data", "native replication"],
)
def test_only_whole_data_of_this_cluster_is_read(change: dict[str, object], pg1: FormerPrimary) -> None:
    for name, value in change.items():
        setattr(pg1, name, value)
    pg1.keep()
    assert (pg1.arguments, pg1.kept) == ((), [])


def test_wal_of_a_promotion_that_another_node_has_not_seen_is_kept_timeline_by_timeline(pg1: FormerPrimary) -> None:
    """pg1 was promoted, too: with more WAL of timeline 1. Its control file still has the former timeline."""
    (pg1.data / "pg_wal" / "00000002.history").write_text(f"1\t{at(8192)}\tno recovery target specified\n")
    pg1.segment(2, 3)
    pg1.dump(2, RECORD.format("Heap", 740, at(9000), "DELETE off 1"))
    pg1.keep()
    (record,) = pg1.kept
    assert record.name.endswith("Z-pg1-2")
    assert [line.split(" ", 1)[1] for line in pg1.arguments] == [
        f"--timeline=1 --start={FORK} --end={at(8192)}",
        f"--timeline=2 --start={at(8192)} --end={Lsn(at(8192).bytes + diverged.MOST_RECORD_BYTES)}",
    ]
    text = (record / "transactions.txt").read_text()
    assert "xid 734 committed" in text
    assert "xid 740 not ended" in text
    assert {path.name for path in record.iterdir()} >= {"000000010000000000000003", "000000020000000000000003"}


def test_wal_that_a_checkpoint_has_removed_is_reported_as_gone(pg1: FormerPrimary) -> None:
    pg1.segment(1, 3).unlink()
    pg1.segment(1, 5)
    later = Lsn(5 * SEGMENT)
    pg1.dump(1, RECORD.format("Heap", 740, later, "DELETE off 1"))
    pg1.keep()
    (record,) = pg1.kept
    assert f"WAL before {later} of timeline 1 is not on the disk any more." in (record / "transactions.txt").read_text()
    assert json.loads((record / "summary.json").read_text())["begins"] == str(later)


def test_only_so_much_wal_is_read_and_kept(pg1: FormerPrimary, monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_waldump ends without a message if it has reached the end that it was given."""
    monkeypatch.setattr(diverged, "MOST_RECORD_BYTES", 100)
    pg1.dump(1, RECORD.format("Heap", 734, at(0), "INSERT off 1"))
    pg1.keep()
    (record,) = pg1.kept
    assert f"Only the WAL before {at(100)} was read and kept." in (record / "transactions.txt").read_text()


def test_a_full_disk_is_named_with_both_ways_out(pg1: FormerPrimary, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise ServerError("/var: the disk is full", hint="free space on the disk of /var")

    monkeypatch.setattr(diverged, "store", full)
    with pytest.raises(keeping.NotKeptError) as failure:
        pg1.keep()
    assert failure.value.message == "the WAL that only pg1 has cannot be kept: /var: the disk is full"
    assert failure.value.hint == "free space on the disk of /var; to lose that WAL: pgpoolctl recover --force pg1"


@pytest.mark.parametrize("source", [away("pg2"), NodeFacts("pg2")], ids=["unreachable", "PostgreSQL is down"])
def test_a_source_whose_history_is_unknown_is_awaited_for_10_s(
    source: NodeFacts, pg1: FormerPrimary, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, serving = Clock(0.0), pg1.source
    monkeypatch.setattr(waiting, "time", clock)
    pg1.source = source
    with pytest.raises(keeping.NotKeptError, match="the history of pg2 is unknown: it does not answer"):
        pg1.keep()
    assert pg1.kept == []
    assert 10 <= clock.now < 11
    clock.during = lambda: setattr(pg1, "source", serving)
    pg1.keep()
    assert len(pg1.kept) == 1


def test_a_missing_pg_wal_is_named(pg1: FormerPrimary) -> None:
    (pg1.data / "pg_wal").rename(pg1.data / "elsewhere")
    with pytest.raises(keeping.NotKeptError, match="pg_wal: No such file or directory"):
        pg1.keep()


def test_without_pg_waldump_nothing_is_replaced(pg1: FormerPrimary) -> None:
    (pg1.folder / "pg_waldump").unlink()
    with pytest.raises(keeping.NotKeptError, match="pg_waldump"):
        pg1.keep()
