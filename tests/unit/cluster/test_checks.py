"""Each fault of a node fails its own check of `pgpoolctl check`, which names the cause and the fix."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]
import pytest

from pgpool_cluster import (
    addresses,
    adopting,
    archive,
    certificates,
    changes,
    checks,
    copying,
    doors,
    firewall,
    key,
    key_file,
    known_faults,
    paths,
    proof,
    roles,
    server,
    server_log,
    units,
)
from pgpool_cluster import postgresql as pg
from pgpool_cluster.addresses import placed
from pgpool_cluster.certificates import NOTHING
from pgpool_cluster.check import Check
from pgpool_cluster.cluster import Cluster, Parameter, PostgresqlCluster, Tls
from pgpool_cluster.cluster_file import parse
from pgpool_cluster.errors import ServerError, UsageError
from pgpool_cluster.facts import BackendState, NodeFacts, PgpoolFacts, Postgresql, WatchdogState
from pgpool_cluster.fault import Fault
from pgpool_cluster.key import ClusterKey, Role
from pgpool_cluster.known_faults import Installed
from pgpool_cluster.node import Here
from pgpool_cluster.protocol import ClockAnswer
from pgpool_cluster.record import Record
from pgpool_cluster.rendered_paths import STUBS
from pgpool_cluster.server import Instance
from pgpool_cluster.units import UnitState
from pgpool_cluster.usage import Usage
from pgpool_cluster.users import Users

NODES = "nodes: {pg1: 10.0.0.1, pg2: db2.example.org, pg3: 10.0.0.3}\n"
CLUSTER = placed(parse(NODES, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
NATIVE = placed(parse(f"mode: native_replication\n{NODES}", "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
KEY = ClusterKey(bytes(range(32)))
ROLES_SQL = "-- Key: abcdef\nALTER ROLE a PASSWORD 'v1'; ALTER ROLE b PASSWORD 'v2'; ALTER ROLE c PASSWORD 'v3';\n"
SETTINGS = {"max_connections": 1000, "max_worker_processes": 8}
UP = dict.fromkeys(("pg1", "pg2", "pg3"), BackendState.UP)
POOL = PgpoolFacts(WatchdogState.LEADER, True, UP, "pg1")
PRIMARY = NodeFacts(
    "pg1", postgresql=Postgresql.UP, member=True, term=1, led=1, system=7, timeline=1, slots=frozenset({"pg2", "pg3"}),
    own_database=True, key="k", pgpool=POOL, settings=SETTINGS,
)  # fmt: skip
STANDBY = replace(PRIMARY, led=0, in_recovery=True, streaming=True, follows="pg2", slots=frozenset(), pgpool=None)
ROWS: dict[str, list[tuple[object, ...]]] = {
    "superuser_reserved_connections": [(1000,)],
    "WHERE sourcefile LIKE %s": [(1,)],
    "FROM pg_available_extensions": [(1,)],
    "WHERE a.sourcefile LIKE": [],
    "datcollversion": [],
    "wal_status = 'lost'": [],
    "wal_log_hints": [(True,)],
    "pending_restart": [],
    "coalesce(rolpassword": [("v1",), ("v2",), ("v3",)],
    "rolcanlogin": [("app", True, False, "SCRAM-SHA-256$")],
    "restart_lsn IS NOT NULL": [],
    "pg_stat_archiver": [],
    "current_setting('archive_command')": [("auto_explain", "off", "")],
}
"""The answers of a healthy server to the queries of the checks, by a part of their SQL."""


NO_LOCALE = (
    'FATAL:  x\nDETAIL:  The database was initialized with LC_COLLATE "de_DE.UTF-8",  which is not recognized by '
    "setlocale()."
)


class Server:
    """A stand-in for `Database` that answers the queries of the checks."""

    def __init__(self, data: Path) -> None:
        self.instance = Instance(PostgresqlCluster(17, "main"), 5432, data)
        self.refused = ""
        self.rows = dict(ROWS)

    def query(self, sql: str, _: Sequence[object] = ()) -> list[tuple[object, ...]]:
        (answer,) = [rows for part, rows in self.rows.items() if part in sql]
        return answer


class Disk:
    """A file system with this free share."""

    def __init__(self, free: float) -> None:
        self.total, self.free = 1 << 40, int(free * (1 << 40))


class Machine:
    """The healthy node pg1 with everything that its checks ask; a test breaks one thing."""

    def __init__(self, folder: Path, certificate: str) -> None:
        self.folder = folder
        self.cluster: Cluster = CLUSTER
        self.facts, self.record, self.note = PRIMARY, Record(system=7, term=1, led=1, proven="k"), ""
        self.server: Server | None = Server(folder / "data")
        self.problems = dict.fromkeys(("pg2", "pg3"), "")
        self.clocks = {name: ClockAnswer(0.0, "k", CLUSTER.fingerprint) for name in self.problems}
        """The answers of the other nodes; the time is an offset to this machine's."""
        self.resolved = {"db2.example.org": ("10.0.0.2",)}
        self.source: str | None = "10.0.0.1"
        self.logins: set[str] = set()
        """The roles of the logins to other servers."""
        self.refused_logins: dict[str, str] = {}
        """Why PostgreSQL at an address refuses logins."""
        self.closed: dict[tuple[str, int], OSError] = {}
        self.unproven: dict[str, str] = {}
        self.primarys = ("auto_explain", "off", "")
        self.disk, self.flags = Disk(0.5), 0
        self.configured = dict(SETTINGS)
        self.usage: Usage | None = Usage(3, 100, 0.5)
        self.unit = UnitState("active", "success", was_active=True)
        self.last_words = ""
        self.installed: Installed | None = None
        (folder / "own.pem").write_text(certificate)
        (folder / "data").mkdir()
        (folder / "roles.sql").write_text(ROLES_SQL)
        (folder / "authorities").write_text(certificates.authorities(KEY, NOTHING, alone=True))
        pem = certificates.server(KEY, CLUSTER.named("pg1"), NOTHING, certified=True)
        (folder / "server.pem").write_text(pem)
        for name in STUBS:
            (folder / "data" / name).touch(0o700)
        Users(1, {"app": "AESentry"}, "m").save(folder / "users.json")

    @property
    def here(self) -> Here:
        peers = {name: SimpleNamespace(problem=problem) for name, problem in self.problems.items()}
        wires: Any = SimpleNamespace(peers=peers, ask_all=self.answers)
        database: Any = self.server
        here = Here(self.cluster, self.cluster.named(self.facts.node), database, wires, self.record)
        here.note = self.note
        return here

    @property
    def postgresql(self) -> Server:
        assert self.server is not None
        return self.server

    def answers(self, _: object, *, seconds: float) -> dict[str, ClockAnswer]:
        del seconds
        return {name: replace(one, clock=time.time() + one.clock) for name, one in self.clocks.items()}

    def rows(self, part: str, *rows: tuple[object, ...]) -> None:
        assert part in self.postgresql.rows
        self.postgresql.rows[part] = list(rows)

    def has(self, **parts: Any) -> None:
        for name, value in parts.items():
            assert hasattr(self, name)
            setattr(self, name, value)

    def goes_down(self, state: Postgresql, *, refused: str = "", last_words: str = "") -> None:
        self.becomes(postgresql=state)
        self.postgresql.refused, self.last_words = refused, last_words
        self.postgresql.rows.clear()  # it answers no query

    def becomes(self, **changes: Any) -> None:
        self.facts = replace(self.facts, **changes)

    def sees(self, **changes: Any) -> None:
        """Change the facts of its pgpool-II."""
        self.becomes(pgpool=replace(POOL, **changes))

    def forgets(self, name: str) -> None:
        del self.clocks[name]

    def connect(self, dsn: str, **_: object) -> Any:
        self.logins |= {word.removeprefix("user=") for word in dsn.split() if word.startswith("user=")}
        for address, why in self.refused_logins.items():
            if f"host={address} " in dsn:
                raise psycopg2.OperationalError(why)

        @contextmanager
        def cursor() -> Any:
            yield SimpleNamespace(execute=lambda _: None, fetchone=lambda: self.primarys)

        return SimpleNamespace(cursor=cursor, close=lambda: None)

    def reach(self, place: tuple[str, int], **_: object) -> Any:
        if place in self.closed:
            raise self.closed[place]
        return SimpleNamespace(close=lambda: None)

    def look_up(self, hosts: Iterable[str]) -> dict[str, tuple[object, ...]]:
        return {host: tuple(map(ipaddress.ip_address, self.resolved[host])) for host in hosts}

    def failed(self) -> list[Check]:
        return [check for check in checks.run(self.here) if not check.ok]


def _certificate(folder: Path, days: int) -> str:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", str(days), "-subj", "/CN=pg1",
               "-keyout", str(folder / "key"), "-out", str(folder / "pem")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "pem").read_text()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _certificate(tmp_path_factory.mktemp("certificate"), 400)


@pytest.fixture
def pg1(tmp_path: Path, certificate: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path, certificate)
    own = Tls(str(tmp_path / "own.pem"), "", None)
    for name in ("AUTHORITIES", "DATABASE", "ROOT_CERTIFICATE", "KEY_OF_PGPOOL"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "SERVER_CERTIFICATE", tmp_path / "server.pem")
    monkeypatch.setattr(paths, "USERS", tmp_path / "users.json")
    monkeypatch.setattr(roles, "_PATH", tmp_path / "roles.sql")
    monkeypatch.setattr(checks, "MACHINE_TLS", own)
    monkeypatch.setattr(Here, "look", lambda _: found.facts)
    monkeypatch.setattr(copying, "connect", found.connect)
    monkeypatch.setattr(adopting, "connect", found.connect)
    monkeypatch.setattr(socket, "create_connection", found.reach)
    monkeypatch.setattr(addresses, "look_up", found.look_up)
    monkeypatch.setattr(addresses, "toward", lambda _: found.source and ipaddress.ip_address(found.source))
    monkeypatch.setattr(proof, "refused", lambda node, **_: found.unproven.get(node.name, ""))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: found.disk)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=found.flags))
    monkeypatch.setattr(pg, "configured", lambda _: found.configured)
    monkeypatch.setattr(archive, "usage", lambda _: found.usage)
    monkeypatch.setattr(units, "state", lambda _: found.unit)
    monkeypatch.setattr(server_log, "last_words", lambda _: found.last_words)
    monkeypatch.setattr(known_faults, "installed", lambda: found.installed)
    return found


Break = Callable[[Machine], object]


def check_of(pg1: Machine, break_: Break, what: str) -> Check:
    """Break something on a healthy node, and return the only check that fails; its description begins with `what`."""
    assert pg1.failed() == []
    break_(pg1)
    failed = pg1.failed()
    (found,) = failed
    assert found.what.startswith(what)
    return found


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: (m.forgets("pg3"), m.problems.update(pg3="Connection refused")),
                     "pg3 answers over ssh", "Connection refused", "on pg3: systemctl start ssh", id="ssh"),
        pytest.param(lambda m: m.forgets("pg3"), "pg3 answers over ssh", "no answer", "pg3", id="no reason"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], key="other")),
                     "pg2 has this node's cluster.key", "it has another one", f"put {paths.CLUSTER_KEY}", id="key"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], file="other")),
                     "pg2 has this node's cluster.yml", "nodes, mode or synchronous differ",
                     f"the same {paths.CLUSTER_YML} on both", id="cluster.yml"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], clock=60.0)), "the clock of pg2 agrees",
                     "60.0 s apart", "apt install chrony", id="ahead"),
        pytest.param(lambda m: m.clocks.update(pg2=replace(m.clocks["pg2"], clock=-60.0)), "the clock of pg2 agrees",
                     "60.0 s apart", "apt install chrony", id="behind"),
        pytest.param(lambda m: m.resolved.update({"db2.example.org": ("10.0.0.9",)}),
                     "db2.example.org is the address of pg2", "db2.example.org is 10.0.0.9 now", "/etc/hosts or DNS",
                     id="moved"),
        pytest.param(lambda m: m.resolved.update({"db2.example.org": ()}),
                     "db2.example.org is the address of pg2", "is not found", "/etc/hosts or DNS", id="no name"),
        pytest.param(lambda m: m.refused_logins.update({"10.0.0.3": "FATAL:  sorry, too many clients already\n"}),
                     "PostgreSQL of pg3 lets this node in", "too many clients", "max_connections higher", id="login"),
        pytest.param(lambda m: m.unproven.update(pg3="its certificate is not the cluster's"),
                     "PostgreSQL of pg3 proves itself", "its certificate is not",
                     "on pg3: pgpoolctl apply", id="proof"),
        pytest.param(lambda m: m.closed.update({("10.0.0.3", 9999): OSError(111, "Connection refused")}),
                     "pg3 answers on 9999/tcp", "Connection refused", "on pg3: systemctl status pgpool2",
                     id="pool port"),
        pytest.param(lambda m: m.closed.update({("10.0.0.3", 9000): TimeoutError("timed out")}),
                     "pg3 answers on 9000/tcp", "timed out", "open 9000/tcp", id="watchdog port"),
    ],
)  # fmt: skip
def test_a_fault_between_two_nodes_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix
    assert found.node == "pg1"


def test_a_database_node_logs_in_to_the_others_as_the_role_that_copies_need(pg1: Machine) -> None:
    checks.run(pg1.here)
    assert pg1.logins == {Role.RECOVERY}


def test_small_differences_between_clocks_are_tolerated(pg1: Machine) -> None:
    pg1.clocks = {name: replace(one, clock=1.5) for name, one in pg1.clocks.items()}
    assert pg1.failed() == []


def test_each_node_that_sees_this_one_at_another_address_is_named(pg1: Machine) -> None:
    pg1.source = "192.0.2.1"
    failed = pg1.failed()
    assert [check.what for check in failed] == [f"{name} sees this node at its own address" for name in ("pg2", "pg3")]
    assert failed[0].why == "it sees 192.0.2.1, not 10.0.0.1"
    assert "ip route get 10.0.0.2" in failed[0].fix
    pg1.source = None
    assert pg1.failed() == [], "without a route, other checks fail"


def test_a_cluster_of_two_nodes_is_reported(pg1: Machine) -> None:
    pg1.cluster = parse("nodes: {pg1: 10.0.0.1, pg2: 10.0.0.2}", "cluster.yml", "pg1")
    pg1.forgets("pg3")
    del pg1.problems["pg3"]
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    assert [check.what for check in pg1.failed()] == ["a node may fail"]


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: m.becomes(member=False), "it belongs to the cluster", "member yet",
                     "pgpoolctl status", id="stranger"),
        pytest.param(lambda m: m.has(disk=Disk(0.09)), "its disk has space", "9% are free", "free space below",
                     id="disk"),
        pytest.param(lambda m: (m.folder / "data" / "recovery_1st_stage").unlink(),
                     "recovery_1st_stage is in the data directory", "missing", "pgpoolctl apply", id="no stub"),
        pytest.param(lambda m: (m.folder / "data" / "pgpool_remote_start").chmod(0o600),
                     "pgpool_remote_start is in the data directory", "missing", "pgpoolctl apply", id="no program"),
        pytest.param(lambda m: os.chown(m.folder / "data" / "recovery_2nd_stage", 54321, -1),
                     "recovery_2nd_stage is in the data directory", "not the cluster's", "pgpoolctl apply",
                     marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"), id="owner"),
        pytest.param(lambda m: m.rows("pending_restart", ("wal_level",)), "it runs with its configuration",
                     "wal_level want a restart", "systemctl restart postgresql@17-main.service", id="restart"),
        pytest.param(lambda m: m.configured.update(max_connections=2000), "it runs with its configuration",
                     "max_connections want a restart", "the standbys first", id="higher"),
        pytest.param(lambda m: m.rows("superuser_reserved_connections", (383,)), "it has room for all connections",
                     "383 are left for 384", "num_init_children or max_pool lower", id="room"),
        pytest.param(lambda m: m.rows("WHERE sourcefile LIKE %s", (0,)),
                     "/etc/postgresql/17/main/postgresql.conf includes conf.d", "are not read",
                     "include_dir = 'conf.d'", id="conf.d"),
        pytest.param(lambda m: m.rows("FROM pg_available_extensions"), "the extension pgpool_recovery is installed",
                     "its files are missing", "apt install postgresql-17-pgpool2", id="extension"),
        pytest.param(lambda m: m.rows("WHERE a.sourcefile LIKE", ("port",), ("wal_level",)),
                     "nothing overrides the cluster's parameters", "port, wal_level by ALTER SYSTEM",
                     "ALTER SYSTEM RESET port; ALTER SYSTEM RESET wal_level", id="ALTER SYSTEM"),
        pytest.param(lambda m: m.becomes(laid=False), "commits wait for the standbys",
                     "synchronous_standby_names differ", "pgpoolctl apply", id="synchronous"),
        pytest.param(lambda m: m.rows("datcollversion", ("app",)), "texts sort here as in the indexes",
                     "app: the C library",
                     'REINDEX DATABASE "app"; ALTER DATABASE "app" REFRESH COLLATION VERSION', id="collation"),
        pytest.param(lambda m: m.rows("wal_status = 'lost'", ("pg3",)), "no replication slot has lost its WAL", "pg3",
                     "pgpoolctl recover pg3", id="lost slot"),
        pytest.param(lambda m: m.has(flags=os.ST_NOEXEC), "programs can be run in its data directory", "noexec",
                     "mount -o remount,exec", id="noexec"),
        pytest.param(lambda m: m.rows("coalesce(rolpassword", ("v1",), ("v2",), ("old",)),
                     "the cluster's roles have the key's passwords", "they have others", "pgpoolctl apply", id="roles"),
        pytest.param(lambda m: m.becomes(own_database=False), "the cluster's roles have a database", "it is missing",
                     "pgpoolctl converge --once", id="own database"),
        pytest.param(lambda m: m.rows("rolcanlogin"), "pgpool-II's users can log in", "no role app",
                     "pgpoolctl user set app", id="user"),
        pytest.param(lambda m: m.rows("wal_log_hints", (False,)), "pg_rewind can be used", "neither wal_log_hints",
                     "systemctl restart postgresql@17-main.service", id="rewind"),
        pytest.param(lambda m: m.becomes(slots=frozenset({"pg2"})), "there is a replication slot for each standby",
                     "pg3 missing", "pgpoolctl converge --once", id="slot"),
    ],
)  # fmt: skip
def test_a_fault_of_the_primarys_server_fails_only_its_own_check(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_a_slot_that_fills_the_disk_is_reported_with_the_free_space(pg1: Machine) -> None:
    pg1.disk = Disk(0.05)
    pg1.rows("restart_lsn IS NOT NULL", ("pg3", 10 * 2**30))
    disk, slot = pg1.failed()
    assert (disk.what, disk.why) == ("its disk has space", "5% are free")
    assert slot.what == "no node that is away fills the disk with WAL"
    assert "slot pg3 holds back 10.0 GB" in slot.why
    assert "bring pg3 back" in slot.fix


@pytest.fixture
def standby(pg1: Machine) -> Machine:
    """pg1 as a healthy standby of pg2."""
    pg1.facts = replace(STANDBY, pgpool=POOL)
    return pg1


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
                     "it preloads what pg2 preloads", "pg_cron would be gone after a failover",
                     "apt install the packages of pg_cron", id="libraries"),
        pytest.param(lambda m: m.has(primarys=("", "on", "pgbackrest archive-push %p")),
                     "it archives as pg2 does", "no server would run pgbackrest archive-push",
                     "archive_mode and archive_command", id="archive"),
        pytest.param(lambda m: m.rows("datcollversion", ("app",)), "texts sort here as in the indexes", "app",
                     "the Debian release of the primary, here", id="collation"),
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


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        (lambda m: m.goes_down(Postgresql.DOWN, last_words="disk full"), "PostgreSQL 17/main runs", "down: disk full",
         "systemctl start postgresql@17-main.service"),
        (lambda m: m.goes_down(Postgresql.STARTING, refused="FATAL:  it is starting up\nmore"),
         "PostgreSQL 17/main runs", "starting: FATAL:  it is starting up",
         "systemctl start postgresql@17-main.service"),
        (lambda m: m.goes_down(Postgresql.STARTING, refused=NO_LOCALE), "PostgreSQL 17/main lets users log in",
         "this machine has no locale de_DE.UTF-8", "locale-gen; systemctl restart postgresql@17-main.service"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_up_is_reported_once_with_its_own_reason(
    break_: Break, what: str, why: str, fix: str, pg1: Machine
) -> None:
    found = check_of(pg1, break_, what)
    assert found.why == why
    assert fix in found.fix


def test_the_agents_hint_is_the_fix_of_a_server_that_is_down(pg1: Machine) -> None:
    pg1.becomes(postgresql=Postgresql.DOWN)
    pg1.note = "its disk is full; hint: free some space"
    (found,) = pg1.failed()
    assert found.fix == "free some space"


def test_a_data_directory_that_does_not_exist_yet_lacks_no_files(pg1: Machine) -> None:
    shutil.rmtree(pg1.folder / "data")
    pg1.becomes(postgresql=Postgresql.ABSENT)
    assert [check.what for check in pg1.failed()] == ["PostgreSQL 17/main runs"]


# Certificates


@pytest.mark.parametrize(("days", "why"), [(5, "it ends in 4 days"), (13, "it ends in 12 days"), (15, "")])
def test_a_certificate_is_reported_two_weeks_before_it_expires(
    days: int, why: str, pg1: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (pg1.folder / "own.pem").write_text(_certificate(tmp_path_factory.mktemp("short"), days))
    assert [check.why for check in pg1.failed()] == ([why] if why else [])


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_a_certificate_that_cannot_be_read_is_reported(content: str | None, pg1: Machine) -> None:
    path = pg1.folder / "own.pem"
    path.unlink()
    if content is not None:
        path.write_text(content)
    (found,) = pg1.failed()
    assert found.what == f"the certificate {path} is good"
    assert found.why
    assert found.fix == "make-ssl-cert generate-default-snakeoil --force-overwrite"


def test_a_certificate_of_cluster_yml_is_replaced_by_the_administrator(pg1: Machine) -> None:
    path = pg1.folder / "chosen.pem"
    pg1.cluster = replace(CLUSTER, tls=Tls(str(path), "", str(pg1.folder / "own.pem")))
    pg1.unproven = {"pg1": "expired", "pg2": "expired"}
    peers, chosen, own = pg1.failed()
    assert peers.fix.startswith("on pg2: put another one there, then pgpoolctl apply")
    assert (chosen.what, chosen.fix) == (
        f"the certificate {path} is good",
        "put another one there, then pgpoolctl apply",
    )
    assert (own.why, own.fix) == ("expired", "put another one there, then pgpoolctl apply")


def test_a_server_certificate_that_the_other_nodes_reject_is_reported(pg1: Machine) -> None:
    (pg1.folder / "server.pem").unlink()
    (found,) = pg1.failed()
    assert (found.what, found.why) == ("the other nodes can check the certificate of PostgreSQL", "there is none")
    assert "no ssl_cert_file" in found.fix


def test_a_server_that_presents_another_certificate_than_the_applied_one_is_reported(pg1: Machine) -> None:
    pg1.unproven = {"pg1": "its certificate is not the cluster's"}
    (found,) = pg1.failed()
    assert (found.what, found.why) == (
        "the other nodes can check the certificate of PostgreSQL", "its certificate is not the cluster's",
    )  # fmt: skip
    pg1.becomes(postgresql=Postgresql.DOWN)
    assert [check.what for check in pg1.failed()] == ["PostgreSQL 17/main runs"], "it presents nothing while it is down"


def test_a_former_authority_is_reported_once_every_server_has_been_verified(pg1: Machine) -> None:
    laid = certificates.Laid.here()
    other = ClusterKey(bytes(range(1, 33)))
    (pg1.folder / "authorities").write_text(certificates.authorities(other, laid, alone=False))
    (found,) = pg1.failed()
    assert found.what == "no former cluster.key is trusted"
    pg1.record = replace(pg1.record, proven="")
    assert pg1.failed() == []


# A node of native replication, and a witness


@pytest.fixture
def native(pg1: Machine) -> Machine:
    pg1.cluster = NATIVE
    pg1.clocks = {name: replace(one, file=NATIVE.fingerprint) for name, one in pg1.clocks.items()}
    return pg1


@pytest.mark.parametrize(
    ("break_", "what", "why"),
    [
        (lambda m: m.has(usage=None), "the archive /var/lib/postgresql-archive is there",
         "cannot look into it"),
        (lambda m: m.has(usage=Usage(3, 100, 0.95)), "the archive has space", "5% of its disk are free"),
        (lambda m: m.rows("pg_stat_archiver", ("000000010000000000000002",)), "archiving goes on",
         "000000010000000000000002 could not be archived"),
    ],
)  # fmt: skip
def test_a_fault_of_the_wal_archive_fails_only_its_own_check(
    break_: Break, what: str, why: str, native: Machine
) -> None:
    assert why in check_of(native, break_, what).why


def test_a_server_that_is_down_is_not_asked_about_its_archive(native: Machine) -> None:
    native.goes_down(Postgresql.DOWN)
    assert [check.what for check in native.failed()] == ["PostgreSQL 17/main runs"]


def test_a_primary_of_native_replication_needs_no_slots(native: Machine) -> None:
    native.becomes(slots=frozenset())
    assert native.failed() == []


def test_a_witness_is_not_asked_about_postgresql(pg1: Machine) -> None:
    text = "nodes: {pg1: {address: 10.0.0.1, runs: [pgpool]}, pg2: db2.example.org, pg3: 10.0.0.3}"
    pg1.cluster = placed(parse(text, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    pg1.server, pg1.facts = None, NodeFacts("pg1", key="k", pgpool=POOL)
    found = checks.run(pg1.here)
    assert pg1.logins == {Role.CHECK}, "it knows no other role's password"
    assert [check for check in found if not check.ok] == []
    assert not [check for check in found if check.what.startswith(("PostgreSQL 17", "it belongs"))]
    assert [check for check in found if check.what == "pgpool-II runs"]


# pgpool-II


@pytest.mark.parametrize(
    ("break_", "what", "why", "fix"),
    [
        pytest.param(lambda m: (m.becomes(pgpool=None), m.has(unit=UnitState("failed", "x", was_active=True))),
                     "pgpool-II runs", "the unit is failed", "systemctl status pgpool2.service", id="down"),
        pytest.param(lambda m: (m.becomes(pgpool=None), m.has(note="it waits; hint: start pg2")),
                     "pgpool-II runs", "it waits; hint: start pg2", "start pg2", id="the agent's note"),
        pytest.param(lambda m: (m.folder / "key_of_pgpool").write_text("another\n"),
                     "pgpool-II runs with cluster.key as it is laid down", "it was started with another one",
                     "pgpoolctl apply on the other nodes", id="key"),
        pytest.param(lambda m: Users(2, {"app": "x" * 1000}, "m").save(m.folder / "users.json"),
                     "pgpool-II can read the passwords of its users", "the password of app is longer",
                     "pgpoolctl user set app", id="long password"),
        pytest.param(lambda m: m.sees(quorum=False), "the watchdog has its quorum", "too few pgpool-IIs",
                     "start pgpool-II on more nodes", id="quorum"),
        pytest.param(lambda m: m.sees(backends=UP | {"pg3": BackendState.DOWN}), "pgpool-II sends clients to pg3",
                     "it is down", "pgpoolctl attach pg3, or pgpoolctl recover pg3", id="detached"),
    ],
)  # fmt: skip
def test_a_fault_of_pgpool_fails_only_its_own_check(break_: Break, what: str, why: str, fix: str, pg1: Machine) -> None:
    found = check_of(pg1, break_, what)
    assert why in found.why
    assert fix in found.fix


def test_the_patches_of_pgpool_are_checked_where_it_runs(pg1: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"name": "one-recovery", "without": "two can run", "relied_on": True, "versions": [[]], "mends": []}
    monkeypatch.setattr(known_faults, "table", lambda: {"patches": [lacking]})
    pg1.installed = Installed("4.6.1-1", own=True)
    assert [check.what for check in pg1.failed()] == ["pgpool2 4.6.1-1 has the patch one-recovery"]
    text = "nodes: {pg1: {address: 10.0.0.1, runs: [postgresql]}, pg2: db2.example.org, pg3: 10.0.0.3}"
    pg1.cluster = placed(parse(text, "cluster.yml", "pg1"), {"db2.example.org": "10.0.0.2"})
    pg1.clocks = {name: replace(one, file=pg1.cluster.fingerprint) for name, one in pg1.clocks.items()}
    assert pg1.failed() == []


def test_connections_of_all_pgpools_have_to_fit(pg1: Machine) -> None:
    """Three pgpool-IIs with 100 processes and 4 connections each."""
    pg1.cluster = replace(CLUSTER, pgpool=(Parameter("num_init_children", "100"),))
    (found,) = pg1.failed()
    assert found.why.startswith("1000 are left for 1200")


# Files that only root can read


class KeyFile:
    """A cluster.key of this owner and mode."""

    def __init__(self, uid: int = 0, mode: int = 0o600) -> None:
        self.uid, self.mode = uid, mode

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_uid=self.uid, st_mode=stat.S_IFREG | self.mode)

    def __str__(self) -> str:
        return "/etc/pgpool2/cluster.key"


class Root:
    """A machine whose files are in order, as root sees them."""

    def __init__(self) -> None:
        self.planned: changes.PlannedChanges | UsageError = changes.PlannedChanges((), Users(), ())
        self.faults: list[Fault] | ServerError = []
        self.unfiltered = False
        self.key = key.generate()

    def plan(self) -> changes.PlannedChanges:
        if isinstance(self.planned, UsageError):
            raise self.planned
        return self.planned

    def doors(self, *_: object) -> list[Fault]:
        if isinstance(self.faults, ServerError):
            raise self.faults
        return self.faults

    def failed(self) -> list[Check]:
        return [check for check in checks._files() if not check.ok]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Root:
    found = Root()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(server, "host_name", lambda: "pg1")
    monkeypatch.setattr(server, "this_node", lambda: (CLUSTER, CLUSTER.named("pg1")))
    monkeypatch.setattr(changes, "plan", found.plan)
    monkeypatch.setattr(doors, "faults", found.doors)
    monkeypatch.setattr(firewall, "missing", lambda: found.unfiltered)
    monkeypatch.setattr(key_file, "text", lambda: f"{found.key}\n")
    monkeypatch.setattr(paths, "CLUSTER_KEY", KeyFile())
    return found


def change(name: str, *, edited: bool = False) -> changes.Change:
    file: Any = SimpleNamespace(path=name)
    return changes.Change(file, b"old", b"new", edited)


def test_files_that_are_in_order_fail_no_check(root: Root) -> None:
    assert root.failed() == []
    assert [check.what for check in checks._files()] == [
        "configuration is laid down as cluster.yml and cluster.key have it",
        "/etc/pgpool2/cluster.key is root's alone",
        "/etc/pgpool2/cluster.key cannot be guessed",
        "sshd lets the other nodes in as postgres",
        "watchdog and pcp ports are closed for strangers",
    ]


def test_a_user_other_than_root_does_not_check_the_files(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    root.unfiltered = True
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert list(checks._files()) == []


def test_a_cluster_yml_that_cannot_be_rendered_is_the_only_fault(root: Root) -> None:
    root.planned = UsageError("cluster.yml:3: a tab", hint="take it out")
    (found,) = checks._files()
    assert (found.ok, found.why, found.fix) == (False, "cluster.yml:3: a tab", "take it out")


def test_files_that_differ_are_named(root: Root) -> None:
    root.planned = changes.PlannedChanges(
        (), Users(), (change("/etc/a"), change("/etc/b"), change("/etc/c", edited=True))
    )
    (found,) = root.failed()
    assert (found.why, found.fix) == ("/etc/a, /etc/b differ", "pgpoolctl apply")


def test_a_file_that_an_administrator_has_edited_has_a_check_of_its_own(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (), edited=(Path("/etc/pgpool2/pgpool.conf"),))
    (found,) = root.failed()
    assert (found.what, found.why) == ("/etc/pgpool2/pgpool.conf is as rendered", "edited by hand")
    assert "rm /etc/pgpool2/pgpool.conf, pgpoolctl apply" in found.fix


def test_a_file_that_cannot_be_written_is_reported_with_its_reason(root: Root) -> None:
    root.planned = changes.PlannedChanges((), Users(), (), refused=(ServerError("/etc/a is a FIFO", hint="rm /etc/a"),))
    (found,) = root.failed()
    assert (found.why, found.fix) == ("/etc/a is a FIFO", "rm /etc/a")
    assert not [check for check in checks._files() if check.ok and "configuration is laid down" in check.what]


@pytest.mark.parametrize(("uid", "mode"), [(1, 0o600), (0, 0o640), (0, 0o604)])
def test_a_cluster_key_that_other_users_can_read_is_reported(
    uid: int, mode: int, root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CLUSTER_KEY", KeyFile(uid, mode))
    (found,) = root.failed()
    assert (found.what, found.why) == ("/etc/pgpool2/cluster.key is root's alone", f"mode {mode:04o}")
    assert found.fix.startswith("chown root: /etc/pgpool2/cluster.key; chmod 0600")


def test_a_cluster_key_in_the_format_of_older_packages_is_reported(root: Root) -> None:
    root.key = " ".join(["word"] * 10)
    (found,) = root.failed()
    assert found.what == "/etc/pgpool2/cluster.key cannot be guessed"
    assert found.fix.startswith("pgpoolctl key generate")


def test_each_fault_of_sshd_has_its_own_fix(root: Root) -> None:
    root.faults = [Fault("sshd has forcecommand x", "ForceCommand none"), Fault("the shell is /bin/false", "chsh")]
    failed = root.failed()
    assert {check.what for check in failed} == {"sshd lets the other nodes in as postgres"}
    assert [(check.why, check.fix) for check in failed] == [
        ("sshd has forcecommand x", "ForceCommand none"), ("the shell is /bin/false", "chsh"),
    ]  # fmt: skip


def test_an_sshd_that_cannot_be_asked_is_reported_and_the_other_files_are_checked(root: Root) -> None:
    root.faults = ServerError("sshd: Bad configuration option", hint="x")
    root.unfiltered = True
    sshd, rules = root.failed()
    assert (sshd.why, sshd.fix) == (
        "sshd: Bad configuration option",
        "systemctl status ssh; sshd -T shows what is wrong",
    )
    assert rules.what == "watchdog and pcp ports are closed for strangers"
    assert (rules.why, rules.fix) == (
        "the table inet pgpool2_cluster is not loaded", "systemctl restart pgpool2-cluster-firewall.service",
    )  # fmt: skip


def test_an_answer_that_is_no_list_of_checks_is_a_check_that_fails() -> None:
    found = checks.unreadable("pg2")
    assert (found.node, found.ok) == ("pg2", False)
    assert "on pg2; the same version of pgpool2-cluster" in found.fix
