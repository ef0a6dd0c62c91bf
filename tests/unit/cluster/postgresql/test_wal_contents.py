"""The transactions in the output of pg_waldump, as PostgreSQL 15 and 17 print it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.decision.facts.divergence import Stretch
from pgpool_cluster.decision.facts.facts import Lsn
from pgpool_cluster.definition.cluster import PostgresqlCluster
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.postgresql import wal_contents
from pgpool_cluster.postgresql.wal_contents import WalContents


def record(manager: str, xid: int, lsn: str, text: str, length: int = 59) -> str:
    return (
        f"rmgr: {manager:11} len (rec/tot):     {length}/    {length}, tx: {xid:10}, lsn: {lsn}, "
        f"prev 0/01516588, desc: {text}\n"
    )


def contents(*lines: str) -> WalContents:
    found = WalContents()
    for line in lines:
        found.take(line)
    return found


def shown(found: WalContents) -> list[str]:
    return [line for one in found.transactions.values() for line in one.lines]


ROW = "blkref #0: rel 1663/5/16384 blk 0"
COMMIT = "COMMIT 2026-11-30 17:03:36.642767 UTC"


def test_a_transaction_is_named_with_its_time_its_place_and_its_rows() -> None:
    found = contents(
        record("Heap", 725, "0/01516720", f"INSERT+INIT off 1 flags 0x00, {ROW}"),
        record("Heap", 725, "0/01516760", f"HOT_UPDATE off 1 xmax 725 flags 0x20 ; new off 2 xmax 0, {ROW}"),
        record("Btree", 725, "0/015167A0", "INSERT_LEAF off 116, blkref #0: rel 1663/5/16400 blk 2"),
        record("Heap", 725, "0/015167E0", "DELETE off: 2, flags: 0x00, blkref #0: rel 1663/5/16390 blk 0"),
        record("Transaction", 725, "0/01516820", COMMIT, 34),
    )
    assert shown(found) == [
        "xid 725 committed 2026-11-30 17:03:36.642767 UTC, WAL from 0/1516720 to 0/1516820",
        "    relation 1663/5/16384: 1 inserted, 1 updated",
        "    relation 1663/5/16390: 1 deleted",
    ]
    assert (found.count(committed=True), found.count(committed=False), found.empty) == (1, 0, False)
    assert found.end == Lsn(0x1516820 + 34)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"MULTI_INSERT 3 tuples flags 0x02, {ROW}", "3 inserted"),
        (f"MULTI_INSERT+INIT ntuples: 12, flags: 0x28, offsets: [1, 2], {ROW}", "12 inserted"),
        (f"UPDATE off 4 xmax 729 flags 0x01 ; new off 7 xmax 0, blkref #0: rel 1663/5/16384 fork main blk 1, {ROW}",
         "1 updated"),
        (f"LOCK off 4: xid 7: flags 0x00 LOCK_ONLY, {ROW}", ""),
    ],
)  # fmt: skip
def test_rows_are_counted_as_each_version_words_them(text: str, rows: str) -> None:
    manager = "Heap2" if text.startswith("MULTI") else "Heap"
    found = shown(contents(record(manager, 7, "0/10", text)))
    assert found[1:] == ([f"    relation 1663/5/16384: {rows}"] if rows else [])


def test_a_transaction_without_an_end_and_one_that_was_rolled_back_do_not_count_as_committed() -> None:
    found = contents(
        record("Heap", 7, "0/10", f"INSERT off 1, {ROW}"),
        record("Heap", 8, "0/20", f"INSERT off 1, {ROW}"),
        record("Transaction", 8, "0/30", "ABORT 2026-11-30 17:03:36.690533 UTC"),
        record("Transaction", 9, "0/40", "PREPARE gid two: 2026-11-30 17:03:37.5 UTC"),
    )
    assert [line for line in shown(found) if line.startswith("xid")] == [
        "xid 7 not ended, WAL from 0/10 to 0/10",
        "xid 8 aborted 2026-11-30 17:03:36.690533 UTC, WAL from 0/20 to 0/30",
        "xid 9 prepared 2026-11-30 17:03:37.5 UTC, WAL from 0/40 to 0/40",
    ]
    assert (found.count(committed=True), found.count(committed=False)) == (0, 3)


def test_subtransactions_count_as_part_of_their_transaction() -> None:
    found = contents(
        record("Heap", 730, "0/10", f"INSERT off 1, {ROW}"),
        record("Heap", 731, "0/20", f"INSERT off 2, {ROW}"),
        record("Transaction", 729, "0/30", f"{COMMIT}; subxacts: 730 731"),
    )
    assert shown(found) == [
        "xid 729 committed 2026-11-30 17:03:36.642767 UTC, WAL from 0/30 to 0/30",
        "    relation 1663/5/16384: 2 inserted",
    ]


def test_the_commit_of_a_prepared_transaction_is_that_of_its_rows() -> None:
    found = contents(
        record("Heap", 740, "0/10", f"INSERT off 1, {ROW}"),
        record("Transaction", 741, "0/20", "COMMIT_PREPARED 740: 2026-11-30 17:03:36.5 UTC"),
    )
    assert shown(found)[:2] == [
        "xid 740 committed 2026-11-30 17:03:36.5 UTC, WAL from 0/10 to 0/10",
        "    relation 1663/5/16384: 1 inserted",
    ]


def test_files_that_a_truncate_or_a_drop_has_removed_are_named() -> None:
    text = f"{COMMIT}; rels: base/5/16384 base/5/16390; inval msgs: catcache 55 relcache 16384"
    assert shown(contents(record("Transaction", 734, "0/10", text)))[1:] == [
        "    files removed: base/5/16384 base/5/16390"
    ]


def test_what_postgresql_writes_by_itself_is_no_transaction() -> None:
    end = "pg_waldump: error: error in WAL record at 0/151B770: invalid record length at 0/151B7A8: wanted 24, got 0\n"
    found = contents(record("XLOG", 0, "0/10", "CHECKPOINT_SHUTDOWN redo 0/10; tli 1"), end)
    assert found.empty
    assert (found.end, found.stopped) == (Lsn(0x10 + 59), end.strip())


def test_the_number_of_listed_transactions_and_relations_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_contents, "MOST_TRANSACTIONS", 2)
    monkeypatch.setattr(wal_contents, "MOST_RELATIONS", 2)
    rows = [f"INSERT off 1, blkref #0: rel 1663/5/{number} blk 0" for number in range(4)]
    found = contents(*(record("Heap", xid, "0/10", text) for xid in (1, 2, 3) for text in rows))
    assert list(found.transactions) == [1, 2]
    assert found.unlisted == 4
    assert shown(found)[:4] == [
        "xid 1 not ended, WAL from 0/10 to 0/10",
        "    relation 1663/5/0: 1 inserted",
        "    relation 1663/5/1: 1 inserted",
        "    relation others: 2 inserted",
    ]


def test_pg_waldump_gets_the_stretch_and_prints_times_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pg_waldump"
    line = record("Transaction", 7, "0/10", COMMIT).strip()
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$TZ $LC_ALL\" \"$@\" >{tmp_path}/words\necho '{line}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(Instance, "program", lambda _, name: str(tmp_path / name))
    instance = Instance(PostgresqlCluster(17, "main"), 5432, tmp_path)
    found, beats = WalContents(), []
    wal_contents.read(instance, tmp_path, Stretch(2, Lsn(16), Lsn(4096)), found, lambda: beats.append(1))
    assert (tmp_path / "words").read_text().splitlines() == [
        "UTC C", f"--path={tmp_path}", "--timeline=2", "--start=0/10", "--end=0/1000",
    ]  # fmt: skip
    assert (found.count(committed=True), beats) == (1, [1])
