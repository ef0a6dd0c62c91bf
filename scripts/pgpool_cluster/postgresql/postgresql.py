"""Start, stop and examine this node's PostgreSQL server with the programs of its package."""

from __future__ import annotations

import contextlib
import re
import time

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

from ..decision.facts import matching
from ..definition.cluster import Cluster
from ..definition.key import Role
from ..ground import paths, programs
from ..ground.errors import OperationError, ServerError
from ..ground.programs import ProgramError
from ..machine import units
from ..machine.server import Instance, as_postgres
from . import libpq, postmaster, server_log
from .local_server import LocalServer

_PROGRAM_SECONDS = 10.0
_HALT_SECONDS = 60.0
_ENGLISH = {"LC_ALL": "C"}
_UNIT_START_SECONDS = 2.0
"""Time after which systemd has started a requested job."""


def control_data(instance: Instance) -> dict[str, str]:
    """Return the labels and values of pg_controldata; {} if it cannot read the control file."""
    words = [instance.program("pg_controldata"), "-D", str(instance.data)]
    try:
        output = programs.run(words, seconds=_PROGRAM_SECONDS, environment=_ENGLISH)
    except ProgramError:
        return {}
    pairs = (line.split(":", 1) for line in output.splitlines() if ":" in line)
    return {label.strip(): value.strip() for label, value in pairs}


def configured(instance: Instance, *, without_alter_system: bool = False) -> dict[str, int]:
    """Return the values with which the server would start, for the parameters that a standby must match (matching.py).

    `without_alter_system`: ignore postgresql.auto.conf, which a copy replaces. Returns {} if the files have errors.
    """
    values = {}
    for name in matching.CONTROL:
        value = setting(instance, name, without_alter_system=without_alter_system)
        if not value.isdigit():
            return {}
        values[name] = int(value)
    return values


def setting(instance: Instance, name: str, *, without_alter_system: bool = False) -> str:
    """Return the value of a parameter with which the server would start; "" if its files have errors."""
    words = [instance.program("postgres"), "-D", str(instance.configuration)]
    words += ["-c", "data_directory=/nonexistent"] if without_alter_system else []
    try:
        return programs.run([*words, "-C", name], seconds=_PROGRAM_SECONDS).strip()
    except ProgramError:
        return ""


def fault(instance: Instance) -> str:
    """Return PostgreSQL's first error in its configuration files; "" if it would start with them, or prints none."""
    words = [*as_postgres(), instance.program("postgres"), "-D", str(instance.configuration), "-C", "wal_level"]
    try:
        answer = programs.attempt(words, seconds=_PROGRAM_SECONDS, environment=_ENGLISH)
    except ProgramError:
        return ""
    errors = re.findall(r"(?:LOG|FATAL):\s+(.+)", answer.stderr)
    return str(errors[0]) if answer.returncode != 0 and errors else ""


def conninfo(cluster: Cluster, node: str, primary: str) -> str:
    """Return the primary_conninfo of `node` while it follows `primary`; the password is in the passfile."""
    return libpq.conninfo(cluster.named(primary), Role.REPLICATION, node)


def start(database: LocalServer, *, seconds: float = 60.0) -> None:
    """Start this node's server through systemd and wait until it answers; raises OperationError with its own reason."""
    paths.STOPPED.unlink(missing_ok=True)
    units.control("start", database.instance.unit)
    began = time.monotonic()
    while True:
        try:
            database.query("SELECT 1")
        except psycopg2.Error as error:
            passed = time.monotonic() - began
            if passed > seconds or (passed > _UNIT_START_SECONDS and _given_up(database.instance)):
                wrong = fault(database.instance)
                reason = wrong or server_log.last_words(database.instance) or error
                raise OperationError(
                    f"PostgreSQL {database.instance.name} does not start: {reason}",
                    hint="correct that line; the agent then starts it again"
                    if wrong
                    else _start_hint(database.instance),
                ) from error
            time.sleep(0.1)
        else:
            return


def _start_hint(instance: Instance) -> str:
    """Return a hint for a server that does not start; a standby may have lower parameters than its primary had."""
    low = matching.lower(configured(instance), matching.needed(control_data(instance)))
    if low and (instance.data / "standby.signal").exists():
        return matching.raising("this node", {name: least for name, (_, least) in low.items()})
    return f"journalctl -u {instance.unit} and its log (pg_lsclusters shows the path) show more"


def halt(database: LocalServer) -> None:
    """End this node's server by a signal to its main process, as fast as it can; `stop` then also stops its unit.

    Its clients are disconnected. Raises OperationError if it does not end.
    """
    paths.STOPPED.touch()
    database.close()
    if not postmaster.end(database.instance, seconds=_HALT_SECONDS):
        hint = "see its log; pg_lsclusters shows the path"
        raise OperationError(f"PostgreSQL does not end within {_HALT_SECONDS:.0f} s", hint=hint)


def stop(database: LocalServer) -> None:
    """Stop this node's server, even if it was not started by systemd; raises OperationError."""
    instance = database.instance
    paths.STOPPED.touch()
    database.close()
    units.control("stop", instance.unit)
    if (instance.data / "postmaster.pid").exists() and not units.state(instance.unit).moving:
        words = ["pg_ctlcluster", "--skip-systemctl-redirect", "--mode", "fast", str(instance.name.major)]
        with contextlib.suppress(ServerError):  # the file may be a leftover of a crash
            programs.run([*words, instance.name.name, "stop"], seconds=120)


def _given_up(instance: Instance) -> bool:
    return units.state(instance.unit).active in ("failed", "inactive")
