"""The module that a command starts, and its imports, which are few because PostgreSQL runs `archive` per WAL file."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgpool_cluster.cli import command_line, hook, verbs
from pgpool_cluster.configuration import seed, withdraw
from pgpool_cluster.ground.errors import ExitStatus, OperationError
from pgpool_cluster.machine.wal import archive_command

SCRIPTS = Path(inspect.getfile(command_line)).parents[2]
STANDARD = set(sys.stdlib_module_names)


def imported(program: str) -> set[str]:
    """Return the modules that a program has imported at its end, except those of the interpreter itself."""
    before = "import sys; before = set(sys.modules)\n"
    after = "\nprint(*sorted(set(sys.modules) - before), file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    answer = subprocess.run(
        [sys.executable, "-S", "-c", before + program + after],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(answer.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(("verb", "module"), [("seed", seed), ("withdraw", withdraw), ("hook", hook),
                                              ("archive", archive_command)])  # fmt: skip
def test_an_internal_verb_runs_its_module(verb: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[str]] = []

    def run(words: list[str]) -> int:
        heard.append(words)
        return 7

    monkeypatch.setattr(module, "run", run)
    assert command_line.main((verb, "x", "--y")) == 7
    assert heard == [["x", "--y"]]


def test_all_other_commands_go_through_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "run", lambda options: ExitStatus.FAILED if options.json else ExitStatus.GOOD)
    assert command_line.main(("status", "--json")) == 1
    assert command_line.main(("status",)) == 0
    with pytest.raises(SystemExit):
        command_line.main(("pgpool_cluster.configuration.seed",))


def test_an_error_is_two_lines_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> ExitStatus:
        raise OperationError("no primary is reachable\x1b[2J", hint="pgpoolctl status")

    monkeypatch.setattr(verbs, "run", run)
    assert command_line.main(("status",)) == 1
    assert capsys.readouterr().err == "pgpoolctl: no primary is reachable?[2J\nhint: pgpoolctl status\n"


def test_archiving_a_file_imports_the_standard_library_and_little_of_this_package() -> None:
    found = imported(
        "from pgpool_cluster.cli import command_line; from pgpool_cluster.machine.wal import archive_command"
    )
    assert {name.partition(".")[0] for name in found} - STANDARD <= {"pgpool_cluster"}
    own = {name.partition(".")[2] for name in found if name.startswith("pgpool_cluster.")}
    little = {f"ground.{name}" for name in ("errors", "files", "log", "paths", "plain", "waiting")}
    permitted = {"cli.command_line", "machine.wal.archive_command", "machine.wal.wal_files"} | little
    assert own <= permitted | {name.partition(".")[0] for name in permitted} | {"machine.wal"}


def test_a_hook_imports_the_standard_library_only() -> None:
    """pgpool-II and every start of PostgreSQL wait for it. During a dist-upgrade, other modules may be missing."""
    found = imported("from pgpool_cluster.cli import command_line, hook, verbs")
    assert {name.partition(".")[0] for name in found} - STANDARD <= {"pgpool_cluster"}
    assert "json" in found
    heavy = {"node.node", "machine.server", "machine.hands"}
    assert not {f"pgpool_cluster.{name}" for name in heavy} & found
