"""Missing tools of the build machine are installed, or refused with the command that installs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgpool_deb.boxes import machine
from pgpool_deb.boxes.machine import Tool
from pgpool_deb.ground.errors import ExitStatus, MachineError

BREWER = Tool("brewer", "no-such-brewer", "it brews")
BAKER = Tool("baker", "/no/such/oven", "it bakes")


def never(_: str) -> None:
    pytest.fail("nothing should be reported")


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the only folder on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_nothing_happens_if_nothing_is_missing(bin_folder: Path) -> None:
    script(bin_folder / "no-such-brewer", "")
    machine.require((BREWER, Tool("here", str(bin_folder), "")), install=True, report=never)


@pytest.mark.parametrize(("tools", "names"), [((BREWER,), "brewer"), ((BREWER, BAKER), "brewer baker")])
def test_no_install_refuses_with_the_command_that_would_install_it(
    bin_folder: Path, tools: tuple[Tool, ...], names: str
) -> None:
    script(bin_folder / "apt-get", f"touch {bin_folder}/called")
    with pytest.raises(MachineError) as raised:
        machine.require(tools, install=False, report=never)
    assert raised.value.message == "brewer is missing and --no-install forbids installing it"
    assert raised.value.hint == f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {names}"
    assert raised.value.exit_status is ExitStatus.ENVIRONMENT
    assert not (bin_folder / "called").exists()


def test_a_plain_user_without_sudo_gets_the_command_as_a_hint(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MachineError) as raised:
        machine.require((BREWER,), install=True, report=never)
    assert str(raised.value) == "brewer is missing and this user cannot install it\nhint: sudo apt-get install brewer"


def test_sudo_never_prompts_without_a_terminal(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bin_folder / "sudo", '[ "$1" = -n ] || exec /bin/sleep 60; exit 1')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="cannot install it"):
        machine.require((BREWER,), install=True, report=never)


def test_a_plain_user_needs_one_more_package_for_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = {}
    for user in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        packages[user] = {tool.package for tool in machine.for_roots()}
    assert packages[1000] - packages[0] == {"uidmap"}
    assert packages[0] <= packages[1000]
    assert "mmdebstrap" in packages[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="it tests the installation by root, without sudo")
@pytest.mark.parametrize("outcome", ["installs", "fails", "installs nothing"])
def test_missing_packages_are_installed_with_a_reason(bin_folder: Path, outcome: str) -> None:
    last = {
        "installs": f'[ "$1" != install ] || /usr/bin/install -m 755 /bin/true {bin_folder}/no-such-brewer',
        "fails": 'echo "W: old" >&2; echo "E: Unable to locate package brewer" >&2; exit 100',
        "installs nothing": "",
    }[outcome]
    script(bin_folder / "env", 'shift; exec "$@"')
    script(bin_folder / "apt-get", f'echo "$@" >>{bin_folder}/calls\n{last}')
    output: list[str] = []
    if outcome == "installs":
        machine.require((BREWER,), install=True, report=output.append)
        assert (bin_folder / "calls").read_text().splitlines() == [
            "update -q",
            "install -y -q --no-install-recommends brewer",
        ]
    else:
        message = {
            "fails": "apt failed: E: Unable to locate package brewer",
            "installs nothing": "apt installed brewer, but no-such-brewer is missing",
        }[outcome]
        with pytest.raises(MachineError, match=f"^{message}\nhint: apt-get install brewer"):
            machine.require((BREWER,), install=True, report=output.append)
    assert output == ["installing brewer with apt: it brews"]


@pytest.mark.skipif(os.geteuid() != 0, reason="it tests the installation by root, without sudo")
@pytest.mark.parametrize("seconds", [300.0, 0.0])
def test_require_waits_for_another_apt_and_reports_it(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    held = "Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
    script(bin_folder / "env", 'shift; exec "$@"')
    script(
        bin_folder / "apt-get",
        f"""
echo >>{bin_folder}/calls
[ "$(/usr/bin/wc -l <{bin_folder}/calls)" -gt 2 ] || {{ echo "E: {held}" >&2; exit 100; }}
[ "$1" != install ] || /usr/bin/install -m 755 /bin/true {bin_folder}/no-such-brewer
""",
    )
    monkeypatch.setattr(machine, "_LOCK_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(machine, "_LOCK_SECONDS", seconds)
    output: list[str] = []
    if seconds:
        machine.require((BREWER,), install=True, report=output.append)
        assert output[1:] == [f"waiting for another apt: {held}"]
    else:
        with pytest.raises(MachineError, match="Could not get lock"):
            machine.require((BREWER,), install=True, report=output.append)
