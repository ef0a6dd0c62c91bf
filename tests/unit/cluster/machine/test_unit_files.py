"""The state of unit files, as systemctl prints it."""

from __future__ import annotations

import pytest

from pgpool_cluster.ground import programs
from pgpool_cluster.ground.errors import ServerError
from pgpool_cluster.ground.programs import ProgramError
from pgpool_cluster.machine import unit_files
from pgpool_cluster.machine.unit_files import UnitFile

SHOWN = """Id=pgpool2.service
LoadState=masked
ActiveState=active
UnitFileState=masked

Id=pgpool2-cluster.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
"""


def test_each_unit_has_its_own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "run", lambda *_, **__: SHOWN)
    found = unit_files.states(["pgpool2.service", "pgpool2-cluster.service", "absent.service"])
    assert found == {
        "pgpool2.service": UnitFile("masked", "masked", "active"),
        "pgpool2-cluster.service": UnitFile("loaded", "enabled", "active"),
        "absent.service": UnitFile(),
    }
    assert [unit.masked for unit in found.values()] == [True, False, False]
    assert [unit.starts_at_boot for unit in found.values()] == [False, True, False]


@pytest.mark.parametrize(("printed", "runs"), [("a@1.service loaded active running\n", True), ("\n", False)])
def test_a_unit_that_runs_is_listed(printed: str, runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "run", lambda *_, **__: printed)
    assert unit_files.is_running("a@*.service") is runs


def test_a_machine_without_systemd_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise ProgramError("systemctl", "System has not been booted with systemd")

    monkeypatch.setattr(programs, "run", run)
    with pytest.raises(ServerError, match="systemd does not answer: System has not been booted"):
        unit_files.states(["pgpool2.service"])
