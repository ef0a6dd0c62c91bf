"""Faults of units, each found by its own check."""

from __future__ import annotations

import pytest
from tests.unit.cluster.checked import Break, Machine, check_of

from pgpool_cluster.agent.checks import checks
from pgpool_cluster.machine.unit_files import UnitFile

AGENT, CONTROL = "pgpool2-cluster.service", "pgpool2-cluster-control.socket"
POSTGRESQL = "postgresql@17-main.service"


def unit(name: str, load: str, file: str, active: str) -> Break:
    return lambda machine: machine.unit_files.update({name: UnitFile(load, file, active)})


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(unit("pgpool2.service", "masked", "masked", "active"), "systemd may start the cluster's units",
                     "pgpool2.service masked", "systemctl unmask pgpool2.service", id="masked"),
        pytest.param(unit(POSTGRESQL, "loaded", "masked-runtime", "active"), "systemd may start the cluster's units",
                     f"{POSTGRESQL} masked", f"systemctl unmask {POSTGRESQL}", id="masked until the next boot"),
        pytest.param(unit(CONTROL, "masked", "masked", "inactive"), "systemd may start the cluster's units",
                     f"{CONTROL} masked", f"systemctl unmask {CONTROL}", id="masked and not running"),
        pytest.param(unit(AGENT, "loaded", "disabled", "active"), "the cluster's units start at boot",
                     f"{AGENT} not enabled", f"systemctl enable {AGENT}", id="disabled"),
        pytest.param(unit(CONTROL, "loaded", "enabled", "inactive"),
                     "the agent can start and stop PostgreSQL and pgpool-II", f"{CONTROL} is inactive",
                     f"systemctl start {CONTROL}", id="stopped"),
        pytest.param(lambda m: m.has(starts=False), "PostgreSQL starts at boot",
                     "/etc/postgresql/17/main/start.conf does not say auto",
                     "echo auto >/etc/postgresql/17/main/start.conf", id="start.conf"),
    ],
)  # fmt: skip
def test_a_fault_of_a_unit_fails_only_its_own_check(break_: Break, what: str, why: str, fix: str, pg1: Machine) -> None:
    found = check_of(pg1, break_, what)
    assert found.why == why
    assert found.fix == fix


def test_a_clock_that_no_program_synchronizes_is_a_note_except_in_a_container(pg1: Machine) -> None:
    """A hypervisor may set the clock, so it is not a failure."""
    clocks = ("chrony", "systemd-timesyncd", "ntpsec", "openntpd")
    pg1.unit_files |= {f"{name}.service": UnitFile("not-found", "", "inactive") for name in clocks}
    (note,) = [check for check in checks.run(pg1.here) if check.note]
    assert (note.ok, note.why, note.fix) == (True, "no program synchronizes it", "apt install chrony")
    (pg1.folder / "container").touch()
    assert [check for check in checks.run(pg1.here) if check.note] == []


def test_a_unit_that_is_started_by_the_agent_may_be_disabled(pg1: Machine) -> None:
    pg1.unit_files["pgpool2.service"] = UnitFile("loaded", "disabled", "active")
    pg1.unit_files[POSTGRESQL] = UnitFile("loaded", "enabled-runtime", "active")
    assert pg1.failed() == []
