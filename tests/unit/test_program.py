"""The command line around Invoke, with tasks that end in every way a task can."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pgpool_deb import program
from pgpool_deb.ground.errors import ExitStatus

TASKS = """
import errno, os, sys
from invoke import Exit, task
from pgpool_deb.ground import errors

@task
def good(context):
    print("done")

@task
def fails(context, kind):
    raise getattr(errors, kind)("what is wrong", hint="what to do")

@task
def ends(context, status=1):
    raise Exit(code=status)

@task
def interrupted(context):
    raise KeyboardInterrupt

@task
def meets(context, number=0, path=None):
    raise OSError(number, os.strerror(number), path)

@task
def has_a_bug(context):
    raise AssertionError("a bug")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)  # Invoke leaves this in sys.path
    return str(tmp_path)


def status_of(project: str, *arguments: str) -> int:
    """Return the status; if a task raises Exit, Invoke itself ends the process."""
    try:
        return program.run(project, arguments)
    except SystemExit as end:
        return int(str(end.code))


def test_a_task_that_returns_is_good(project: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(project, "good") is ExitStatus.GOOD
    assert capfd.readouterr() == ("done\n", "")


@pytest.mark.parametrize(("kind", "status"), [("PackageError", 1), ("UsageError", 2), ("MachineError", 3)])
def test_an_error_prints_two_lines_and_sets_the_exit_status(
    project: str, capfd: pytest.CaptureFixture[str], kind: str, status: int
) -> None:
    assert status_of(project, "fails", kind) == status
    assert capfd.readouterr() == ("", "what is wrong\nhint: what to do\n")


@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_task_can_set_its_exit_status(project: str, capfd: pytest.CaptureFixture[str], status: int) -> None:
    assert status_of(project, "ends", "--status", str(status)) == status
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "nothing"),
        (("good", "--often"), "--often"),
        (("ends", "--status"), "status"),
        (("ends", "--status", "many"), "many"),
        (("fails",), "kind"),
        (("--no-such-option",), "--no-such-option"),
    ],
    ids=" ".join,
)
def test_an_unknown_option_or_task_is_wrong_usage(
    project: str, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert status_of(project, *arguments) == ExitStatus.USAGE
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert message in first
    assert second.startswith("hint: ./invoke --")


def test_a_folder_without_tasks_is_wrong_usage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(str(tmp_path), "good") == ExitStatus.USAGE
    assert capfd.readouterr().err == "no tasks.py found\nhint: run ./invoke of a checkout\n"


def test_ctrl_c_is_not_a_failed_package(project: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(project, "interrupted") == ExitStatus.ENVIRONMENT
    assert capfd.readouterr().err == "interrupted\nhint: run the same command again to continue\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_error_is_the_machines_fault(project: str, capfd: pytest.CaptureFixture[str], number: int) -> None:
    assert status_of(project, "meets", "--number", str(number), "--path", "/dist/x") == ExitStatus.ENVIRONMENT
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("/dist/x: ")
    assert second.startswith("hint: ")


def test_a_bug_shows_its_traceback(project: str) -> None:
    with pytest.raises(AssertionError, match="a bug"):
        status_of(project, "has-a-bug")
    with pytest.raises(OSError, match="No child processes"):
        status_of(project, "meets", "--number", str(errno.ECHILD))
