"""The removal of the package stops pgpool-II before the files that it uses are deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.configuration import withdraw
from pgpool_cluster.ground import paths
from pgpool_cluster.ground.errors import ExitStatus, ServerError
from pgpool_cluster.machine import hands, held_address, units

STOPPED = [f"stop {paths.UNIT}", "withdraw address", f"stop {paths.PGPOOL_UNIT}"]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to systemd, the removed files and the withdrawal of the configuration, in order."""
    found: list[str] = []
    for name in ("MEMORY", "OLD_MEMORY", "SERVE", "STOPPED", "KEY_OF_PGPOOL"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(units, "ask", lambda verb, unit: found.append(f"{verb} {unit}"))
    monkeypatch.setattr(held_address, "withdraw", lambda: found.append("withdraw address"))
    monkeypatch.setattr(withdraw, "delete_files", lambda: found.append("withdraw"))
    monkeypatch.setattr(hands, "remove", lambda path: found.append(f"remove {path.name}"))
    return found


@pytest.mark.parametrize("memory", ["memory", "old_memory"])
def test_the_agent_is_stopped_first_and_the_configuration_removed_last(
    memory: str, done: list[str], tmp_path: Path
) -> None:
    """A running agent would start pgpool-II again. An older package kept its memory elsewhere."""
    (tmp_path / memory).touch()
    assert withdraw.run([]) is ExitStatus.GOOD
    assert done == [*STOPPED, "remove serve", "remove stopped", "remove key_of_pgpool", "withdraw"]


def test_a_file_that_cannot_be_removed_stops_no_withdrawal(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(path: Path) -> None:
        raise ServerError(f"{path} is a folder", hint="rm -r")

    monkeypatch.setattr(hands, "remove", remove)
    (tmp_path / "memory").touch()
    assert withdraw.run([]) is ExitStatus.GOOD
    assert done == [*STOPPED, "withdraw"]


def test_a_virtual_address_that_cannot_be_removed_stops_no_withdrawal(
    done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ServerError("ip: no answer", hint="ip address")

    monkeypatch.setattr(held_address, "withdraw", fail)
    (tmp_path / "memory").touch()
    assert withdraw.run([]) is ExitStatus.GOOD
    assert done[-1] == "withdraw"
    assert "the virtual address was not removed: ip: no answer; hint: ip address" in "".join(capsys.readouterr())


def test_a_machine_that_was_never_configured_keeps_its_pgpool(done: list[str]) -> None:
    assert withdraw.run([]) is ExitStatus.GOOD
    assert done == []
