"""Faults of replication, each found by its own check."""

from __future__ import annotations

import pytest
from tests.unit.cluster.checked import Break, Machine, check_of


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: m.becomes(streaming=False), "it receives from the primary", "it does not stream",
                     "pgpoolctl status", id="deaf"),
        pytest.param(lambda m: (m.becomes(streaming=False), m.has(note="it waits for pg2; hint: start pg2")),
                     "it receives from the primary", "it waits for pg2", "start pg2", id="its own note"),
        pytest.param(lambda m: m.becomes(stalled="its replay is paused"), "it replays what it receives",
                     "its replay is paused", "pg_wal_replay_resume", id="paused"),
        pytest.param(lambda m: m.has(primarys=("auto_explain, pg_cron", "off", "")),
                     "it preloads what pg2 preloads", "pg_cron would be missing after a failover",
                     "apt install the packages of pg_cron", id="libraries"),
        pytest.param(lambda m: m.has(primarys=("", "on", "pgbackrest archive-push %p")),
                     "it archives as pg2 does", "no server would run pgbackrest archive-push",
                     "archive_mode and archive_command", id="archive"),
        pytest.param(lambda m: m.rows("datcollversion", ("app",)), "the indexes of the databases match", "app",
                     "use one Debian release", id="collation"),
    ],
)  # fmt: skip
def test_a_fault_of_a_standbys_server_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, standby: Machine
) -> None:
    found = check_of(standby, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_only_the_primary_needs_slots_and_roles(standby: Machine) -> None:
    """A standby has no slots, and it receives the roles from the primary."""
    standby.rows("coalesce(rolpassword", ("old",))
    standby.becomes(own_database=False)
    assert standby.failed() == []


def test_a_primary_of_native_replication_needs_no_slots(native: Machine) -> None:
    native.becomes(slots=frozenset())
    assert native.failed() == []
