"""Faults of the WAL archive, each found by its own check."""

from __future__ import annotations

import pytest
from tests.unit.cluster.checked import Break, Machine, check_of

from pgpool_cluster.decision.facts.facts import Postgresql
from pgpool_cluster.ground.usage import Usage


@pytest.mark.parametrize(
    ("break_", "what", "why"),
    [
        (lambda m: m.has(usage=None), "the WAL archive /var/lib/postgresql-archive exists",
         "cannot read it"),
        (lambda m: m.has(archives=False), "postgres can write to /var/lib/postgresql-archive", "would keep all of it"),
        (lambda m: m.has(usage=Usage(3, 100, 0.95)), "the WAL archive has free space", "5% of its disk is free"),
        (lambda m: m.rows("pg_stat_archiver", ("000000010000000000000002",)), "PostgreSQL archives its WAL",
         "000000010000000000000002 could not be archived"),
    ],
)  # fmt: skip
def test_a_fault_of_the_wal_archive_fails_only_its_own_check(
    break_: Break, what: str, why: str, native: Machine
) -> None:
    assert why in check_of(native, break_, what).why


def test_a_server_that_is_down_is_not_asked_about_its_archive(native: Machine) -> None:
    native.goes_down(Postgresql.DOWN)
    assert [check.what for check in native.failed()] == ["PostgreSQL 17/main runs"]
