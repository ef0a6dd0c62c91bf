"""Collect facts about a node's PostgreSQL server, from the server or, if it is down, from its data directory."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import psycopg2.extensions  # type: ignore[import-untyped,unused-ignore]

from . import libpq, matching, paths, replay, server_log, units
from .cluster import Cluster
from .connection import Connection, Unanswered, connect
from .errors import OperationError, ServerError
from .facts import Lsn, NodeFacts, Postgresql, Switch
from .key import DATABASE, Role
from .server import HOME, SOCKETS, Instance, as_postgres, run

_UNIT_START_SECONDS = 2.0
"""Time after which systemd has started a requested job."""
_STATEMENT_SECONDS = 15.0
"""Time limit for a statement; longer than statement_timeout, which a working server enforces itself."""
_LOOK_SECONDS = 1.5
"""Time limit for collecting facts; short, so that a hanging server is reported before other nodes drop this one."""
HANGING_SECONDS = 20.0
"""How long a server that does not answer counts as slow rather than hanging."""
_REFUSAL_SECONDS = 15.0
"""How long a server may refuse every login after its start."""
_SHUTDOWN_CHECKPOINT_BYTES = 114
"""Length of the record, PostgreSQL 13 to 18."""
_OPTIONS = (
    "-c statement_timeout=10s -c synchronous_commit=local -c lock_timeout=5s"
    " -c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic"
)
"""These sessions wait for no standby, hold no lock for long, and never write a verifier to a log."""

_LOOK = f"""
SELECT pg_is_in_recovery(),
       (SELECT system_identifier FROM pg_control_system()),
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery())),
       CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_insert_lsn() END::text,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END::text,
       current_setting('primary_conninfo'),
       coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false),
       ARRAY(SELECT slot_name::text FROM pg_replication_slots
             WHERE slot_type = 'physical' AND wal_status IS DISTINCT FROM 'lost'),
       ARRAY(SELECT datname::text FROM pg_database
             WHERE datname NOT IN ('postgres', 'template0', 'template1', '{DATABASE}') ORDER BY datname),
       (SELECT count(*) FROM pg_class c WHERE c.oid >= 16384 AND relkind IN ('r', 'p', 'm') AND NOT EXISTS
              (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')),
       current_setting('synchronous_standby_names'),
       EXISTS (SELECT FROM pg_database d, pg_roles r WHERE d.datname = '{DATABASE}' AND r.rolname = '{Role.CHECK}'
               AND d.datallowconn AND d.datconnlimit = -1 AND has_database_privilege(r.oid, d.oid, 'CONNECT')),
"""  # noqa: S608 - the names are constants of this package
_WRITABLE_TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"


@dataclass(slots=True)
class _Kept:
    """A persistent connection as the role postgres over the server's socket, reopened when it breaks."""

    port: int
    _connection: Connection | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def query(self, sql: str, values: Sequence[object], seconds: float) -> list[tuple[Any, ...]]:
        """Run one statement; raises psycopg2.Error, and Unanswered after `seconds` in total."""
        until = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise Unanswered(f"another statement took more than {seconds:g} s")
        try:
            fresh = self._connection is None
            try:
                return self._run(sql, values, until)
            except psycopg2.Error as error:
                broken = self._connection is not None and bool(self._connection.closed)
                if broken:
                    self._connection = None
                if fresh or not broken or isinstance(error, Unanswered):
                    raise
                return self._run(sql, values, until)
        finally:
            self._lock.release()

    def _run(self, sql: str, values: Sequence[object], until: float) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = _connect_home(self.port, seconds=math.inf, until=until)
        self._connection.until = until
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(psycopg2.Error):
                    self._connection.close()
            self._connection = None


def _connect(port: int, database: str, *, seconds: float, until: float = math.inf) -> Connection:
    return connect(
        host=SOCKETS,
        port=port,
        user="postgres",
        dbname=database,
        application_name="pgpoolctl",
        options=_OPTIONS,
        seconds=seconds,
        until=until,
    )


def _connect_home(port: int, *, seconds: float, until: float = math.inf) -> Connection:
    """Connect to the database postgres, or to the cluster's own if an administrator has dropped or renamed that."""
    try:
        return _connect(port, "postgres", seconds=seconds, until=until)
    except Unanswered:
        raise
    except psycopg2.Error:
        own = paths.database()
        if own == "postgres":
            raise
        with contextlib.suppress(psycopg2.Error):
            return _connect(port, own, seconds=seconds, until=until)
        raise


@dataclass(slots=True)
class Database:
    """The server of a node.

    A separate connection collects facts, so that these never wait for a long statement. Every wait has a deadline,
    whatever the server does.
    """

    instance: Instance
    _statements: _Kept = field(init=False, repr=False)
    _looks: _Kept = field(init=False, repr=False)
    _last: NodeFacts | None = field(default=None, repr=False)
    """The facts from its last answer; None if it has been down since."""
    _silent_since: float = 0.0
    """When it stopped answering, by the monotonic clock; 0 while it answers."""
    refused: str = ""
    """The server's own reason for refusing the last login; "" if it accepted the login, or is not running."""
    _refused_since: float = 0.0
    _watch: replay.Watch = field(default_factory=replay.Watch, repr=False)

    def __post_init__(self) -> None:
        self._statements, self._looks = _Kept(self.instance.port), _Kept(self.instance.port)

    def query(
        self, sql: str, values: Sequence[object] = (), *, seconds: float = _STATEMENT_SECONDS
    ) -> list[tuple[Any, ...]]:
        """Run one statement with autocommit and return its rows; raises psycopg2.Error, if need be after `seconds`."""
        return self._statements.query(sql, values, seconds)

    def connect(self, database: str, *, seconds: float = _STATEMENT_SECONDS) -> Any:  # noqa: ANN401 - psycopg2 has no types
        """Open another connection with autocommit, whose commits wait for no standby; `seconds` limits a statement."""
        if database == "postgres":
            return _connect_home(self.instance.port, seconds=seconds)
        return _connect(self.instance.port, database, seconds=seconds)

    @contextlib.contextmanager
    def session(self, database: str, *, seconds: float = _STATEMENT_SECONDS) -> Iterator[Any]:
        """Yield a cursor in another database, and close the connection afterwards; a statement may take `seconds`."""
        connection = self.connect(database, seconds=seconds)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections; the next query opens a new one."""
        self._statements.close()
        self._looks.close()

    def look(self, facts: NodeFacts, cluster: Cluster, standby_names: str | None = None) -> NodeFacts:
        """Return `facts` completed with those of this server; a server that is down raises no error.

        `standby_names`: the intended value of synchronous_standby_names, None if the cluster does not set it.
        """
        if not (self.instance.data / "PG_VERSION").exists():
            self._looks.close()
            self._last, self._silent_since, self.refused = None, 0.0, ""
            return replace(facts, postgresql=Postgresql.ABSENT)
        try:
            self._last, self._silent_since = self._asked(facts, cluster, standby_names), 0.0
            self.refused = ""
        except Unanswered:
            self._looks.close()
            return self._unanswered(facts)
        except psycopg2.Error as error:
            self._looks.close()
            self._last, self._silent_since, self._watch = None, 0.0, replay.Watch()
            state = self._why_down(error)
            now = time.monotonic()
            self._refused_since = self._refused_since if self.refused else now
            self.refused = str(error).strip() if state is Postgresql.STARTING else ""
            return self._from_files(replace(facts, postgresql=state))
        return self._last

    @property
    def shut(self) -> str:
        """Why it has refused every login for longer than a start takes; "" if it has not."""
        long = bool(self.refused) and time.monotonic() - self._refused_since > _REFUSAL_SECONDS
        lines = [line.strip() for line in self.refused.splitlines() if line.strip()]
        return "; ".join(lines[:2]) if long else ""

    def _unanswered(self, facts: NodeFacts) -> NodeFacts:
        """Return `facts` for a server that hangs: useless, but not dead, since it may resume and take writes.

        Its timeline is that of its last answer, because its file system may be the cause of the hang.
        """
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        long = now - self._silent_since > HANGING_SECONDS and not self._moving()
        hanging = replace(facts, postgresql=Postgresql.HANGING if long else Postgresql.STARTING)
        last = self._last
        if last is None:
            return self._from_files(hanging)
        hanging = replace(hanging, system=last.system, standby_signal=last.standby_signal)
        return replace(hanging, timeline=last.timeline, history=last.history)

    def _asked(self, facts: NodeFacts, cluster: Cluster, standby_names: str | None) -> NodeFacts:
        until = time.monotonic() + _LOOK_SECONDS
        try:
            (row,) = self._looks.query(self._question, (), _LOOK_SECONDS)
        except psycopg2.errors.ObjectNotInPrerequisiteState:  # its recovery has just ended
            (row,) = self._looks.query(self._question, (), until - time.monotonic())
        in_recovery, system, timeline, position, replayed, conninfo, streaming, slots, databases, tables, *rest = row
        names, own_database, *rest = rest
        if in_recovery:
            timeline = max(int(timeline), received_timeline(self.instance.data))
        else:
            timeline = int(str(self._looks.query(_WRITABLE_TIMELINE, (), until - time.monotonic())[0][0]), 16)
        facts = self._moving_on(
            replace(facts, position=position and Lsn.parse(position), replayed=replayed and Lsn.parse(replayed)),
            replace(replay.seen(*rest), primary=conninfo, connected=bool(streaming)),
            in_recovery=bool(in_recovery),
        )
        return replace(
            facts,
            postgresql=Postgresql.UP,
            system=int(system),
            in_recovery=bool(in_recovery),
            standby_signal=(self.instance.data / "standby.signal").exists(),
            timeline=timeline,
            history=history(self.instance.data, timeline),
            follows=_followed(conninfo, cluster) if in_recovery else None,
            slots=frozenset(slots),
            databases=(*databases, *(["postgres"] if tables else [])),
            laid=standby_names in (None, names),
            own_database=bool(own_database),
        )

    @property
    def _question(self) -> str:
        return _LOOK + replay.columns(self.instance.name.major)

    def _moving_on(self, facts: NodeFacts, seen: replay.Seen, *, in_recovery: bool) -> NodeFacts:
        """Return `facts`, which have its positions, completed with its progress and the settings that affect that."""
        facts = replace(facts, settings={name: seen.settings[name] for name in matching.CONTROL})
        if not in_recovery:
            self._watch = replay.Watch()
            return facts
        now, seen = time.monotonic(), replace(seen, received=facts.position, replayed=facts.replayed)
        facts = replace(facts, streaming=self._watch.hears(seen, now), stalled=self._watch.stalled(seen, now))
        if not seen.paused:
            return facts
        low = matching.lower(facts.settings, matching.needed(control_data(self.instance)))
        facts = replace(facts, needs={name: least for name, (_, least) in low.items()})
        return replace(facts, stalled=replay.too_low(facts) or facts.stalled)

    def _moving(self) -> bool:
        """Return whether systemd is starting or stopping the server."""
        try:
            return units.state(self.instance.unit).moving
        except ServerError:
            return False

    def _why_down(self, error: psycopg2.Error) -> Postgresql:
        text = str(error)
        if re.search(r"starting up|shutting down|recovery mode|not yet accepting connections|too many clients", text):
            return Postgresql.STARTING
        state = units.state(self.instance.unit)
        if state.moving or (state.active == "active" and "timeout" not in text):
            return Postgresql.STARTING
        manual = not _starts_by_itself(self.instance)
        if not manual and state.restarts_with(self.instance.package):
            return Postgresql.STARTING
        by_hand = state.was_active and state.result == "success" and not paths.STOPPED.exists()
        return Postgresql.STOPPED if state.active == "inactive" and (by_hand or manual) else Postgresql.DOWN

    def _from_files(self, facts: NodeFacts) -> NodeFacts:
        control = control_data(self.instance)
        if not control:
            return facts
        timeline = int(control["Latest checkpoint's TimeLineID"])
        ended = control["Database cluster state"].startswith("shut down")
        position = None
        if ended:
            start = Lsn.parse(control["Latest checkpoint location"])
            position = start.after_record(_record_length(self.instance, timeline, start))
        return replace(
            facts,
            system=int(control["Database system identifier"]),
            standby_signal=(self.instance.data / "standby.signal").exists(),
            timeline=timeline,
            position=position,
            history=history(self.instance.data, timeline),
        )


def control_data(instance: Instance) -> dict[str, str]:
    """Return the labels and values of pg_controldata; {} if it cannot read the control file."""
    words = [instance.program("pg_controldata"), "-D", str(instance.data)]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True, env={"LC_ALL": "C"})
    except (OSError, subprocess.SubprocessError):
        return {}
    pairs = (line.split(":", 1) for line in answer.stdout.splitlines() if ":" in line)
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
        answer = subprocess.run([*words, "-C", name], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def fault(instance: Instance) -> str:
    """Return PostgreSQL's first error in its configuration files; "" if it would start with them, or prints none."""
    words = [*as_postgres(), instance.program("postgres"), "-D", str(instance.configuration), "-C", "wal_level"]
    try:
        answer = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    errors = re.findall(r"(?:LOG|FATAL):\s+(.+)", answer.stderr)
    return str(errors[0]) if answer.returncode != 0 and errors else ""


def _record_length(instance: Instance, timeline: int, start: Lsn) -> int:
    """Return the length of the record at `start`; the length of a shutdown checkpoint if pg_waldump fails."""
    words = [
        instance.program("pg_waldump"),
        f"--path={instance.data / 'pg_wal'}",
        f"--timeline={timeline}",
        f"--start={start}",
        "--limit=1",
    ]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False, env={"LC_ALL": "C"})
    except (OSError, subprocess.SubprocessError):
        return _SHUTDOWN_CHECKPOINT_BYTES
    match = re.search(r"len \(rec/tot\):\s*\d+/\s*(\d+)", answer.stdout)
    return int(match[1]) if match else _SHUTDOWN_CHECKPOINT_BYTES


def received_timeline(data: Path) -> int:
    """Return the latest timeline of which a standby has WAL, from the names of its segments; 0 if it has none.

    The server reports this timeline only while it receives (pg_stat_wal_receiver), and in its control file only after
    the next restartpoint, minutes later. Neither helps if a primary is lost soon after its promotion.
    """
    with os.scandir(data / "pg_wal") as entries:
        names = [entry.name for entry in entries]
    return max((int(name[:8], 16) for name in names if re.fullmatch(r"[0-9A-F]{24}", name)), default=0)


def history(data: Path, timeline: int) -> tuple[Switch, ...]:
    """Return the timelines before `timeline`, from its history file; () for the first one."""
    try:
        text = (data / "pg_wal" / f"{timeline:08X}.history").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    switches = re.findall(r"^(\d+)\t([0-9A-F]+/[0-9A-F]+)", text, re.MULTILINE)
    return tuple(Switch(int(number), Lsn.parse(lsn)) for number, lsn in switches)


def conninfo(cluster: Cluster, node: str, primary: str) -> str:
    """Return the primary_conninfo of `node` while it follows `primary`; the password is in the passfile."""
    return libpq.conninfo(cluster.named(primary), Role.REPLICATION, node, HOME)


def _followed(text: str, cluster: Cluster) -> str | None:
    try:
        host = psycopg2.extensions.parse_dsn(text).get("host")
    except psycopg2.Error:
        return None
    return next((node.name for node in cluster.databases if node.address == host), None)


def _starts_by_itself(instance: Instance) -> bool:
    """Return whether start.conf lets the server start at boot (pg_createcluster(1))."""
    try:
        lines = (instance.configuration / "start.conf").read_text(encoding="utf-8").splitlines()
    except OSError:
        return True
    words = [line.split("#")[0].strip() for line in lines]
    return next((word for word in words if word), "auto") == "auto"


def start(database: Database, *, seconds: float = 60.0) -> None:
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
                    hint="correct that line; then it is started again" if wrong else _start_hint(database.instance),
                ) from error
            time.sleep(0.1)
        else:
            return


def _start_hint(instance: Instance) -> str:
    """Return a hint for a server that does not start; a standby may have lower parameters than its primary had."""
    low = matching.lower(configured(instance), matching.needed(control_data(instance)))
    if low and (instance.data / "standby.signal").exists():
        return matching.raising("this node", {name: least for name, (_, least) in low.items()})
    return f"journalctl -u {instance.unit} and its log (pg_lsclusters names it) show more"


def stop(database: Database) -> None:
    """Stop this node's server, even if it was not started by systemd; raises OperationError."""
    instance = database.instance
    paths.STOPPED.touch()
    database.close()
    units.control("stop", instance.unit)
    if (instance.data / "postmaster.pid").exists() and not units.state(instance.unit).moving:
        words = ["pg_ctlcluster", "--skip-systemctl-redirect", "--mode", "fast", str(instance.name.major)]
        with contextlib.suppress(ServerError):  # the file may be a leftover of a crash
            run([*words, instance.name.name, "stop"], seconds=120)


def _given_up(instance: Instance) -> bool:
    return units.state(instance.unit).active in ("failed", "inactive")
