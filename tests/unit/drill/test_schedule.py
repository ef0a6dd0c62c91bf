"""A drill's schedule is a function of its seed: one fault, or two that overlap on different nodes."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.faults import FAULTS, NAMED, PAUSES, Fault, scripted
from tests.drill.schedule import BRIEFEST, CALM_SECONDS, LONGEST, ROLES, draw, events

NAMES = [fault.name for fault in FAULTS]


@given(st.integers(min_value=0, max_value=2**63))
def test_a_schedule_is_repeatable_and_within_its_bounds(seed: int) -> None:
    steps = draw(seed, NAMES)
    assert steps == draw(seed, NAMES)
    assert 1 <= len(steps) <= 2
    assert steps[0].at == CALM_SECONDS
    for step in steps:
        assert step.fault in NAMED
        assert step.role in ROLES
        assert BRIEFEST - 0.1 <= step.until - step.at <= LONGEST + 0.1
    if len(steps) == 2:
        assert steps[0].role != steps[1].role
        assert steps[0].at <= steps[1].at <= steps[0].until


def test_few_seeds_cover_every_fault_every_role_and_pairs() -> None:
    drawn = [draw(seed, NAMES) for seed in range(200)]
    steps = [step for schedule in drawn for step in schedule]
    assert {step.fault for step in steps} == set(NAMES)
    assert {step.role for step in steps} == set(ROLES)
    assert 60 < sum(len(schedule) == 2 for schedule in drawn) < 140


def test_events_are_in_the_order_of_time_and_end_what_they_begin() -> None:
    steps = next(steps for seed in range(100) if len(steps := draw(seed, NAMES)) == 2)
    found = events(steps)
    assert [event.at for event in found] == sorted(event.at for event in found)
    assert [event.step for event in found if event.begins] == list(steps)
    assert {event.step for event in found if not event.begins} == set(steps)


def test_a_schedule_needs_a_fault() -> None:
    with pytest.raises(ValueError, match="at least one fault"):
        draw(1, [])


# The faults themselves


def test_names_of_faults_are_unique_and_the_pauses_exist() -> None:
    assert len(NAMED) == len(FAULTS)
    assert set(PAUSES) <= set(NAMED)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_faults_scripts_are_shell_and_name_every_peer(fault: Fault) -> None:
    shell = shutil.which("dash") or "sh"
    for script in (fault.breaks, fault.heals):
        text = scripted(script, ["198.18.0.10", "198.18.0.11"])
        assert "@" not in text.replace("postgresql@*", "")
        assert "{{" not in text
        answer = subprocess.run([shell, "-n", "-c", text], capture_output=True, text=True, check=False)
        assert answer.stderr == ""
    assert fault.breaks or fault.power or fault.pauses


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_heals(fault: Fault) -> None:
    """Except for killed processes, which systemd restarts."""
    assert fault.heals or fault.power or fault.pauses or fault.name in ("agent-killed", "pgpool-killed")


def test_rules_use_the_family_of_the_peers() -> None:
    cut = NAMED["cut-off"].breaks
    assert "ip saddr { 198.18.0.10, 198.18.0.11 } drop" in scripted(cut, ["198.18.0.10", "198.18.0.11"])
    assert "ip6 daddr { fd00::1, fd00::2 } drop" in scripted(cut, ["fd00::1", "fd00::2"])
