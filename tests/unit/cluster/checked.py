"""A healthy node with everything that its checks query, for tests that break one thing."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped,unused-ignore]

from pgpool_cluster.agent.checks import checks
from pgpool_cluster.configuration.rendering.rendered_paths import STUBS
from pgpool_cluster.configuration.users import Users
from pgpool_cluster.decision.facts.facts import BackendState, NodeFacts, PgpoolFacts, Postgresql, WatchdogState
from pgpool_cluster.decision.liveness.links import Link, LinkState
from pgpool_cluster.definition.cluster import Cluster, PostgresqlCluster
from pgpool_cluster.definition.cluster_file import parse
from pgpool_cluster.definition.key import ClusterKey
from pgpool_cluster.ground.check import Check
from pgpool_cluster.ground.usage import Usage
from pgpool_cluster.machine import certificates
from pgpool_cluster.machine.certificates import NOTHING
from pgpool_cluster.machine.known_faults import Installed
from pgpool_cluster.machine.network.addresses import placed
from pgpool_cluster.machine.record import Record
from pgpool_cluster.machine.server import Instance
from pgpool_cluster.machine.unit_files import UnitFile
from pgpool_cluster.machine.units import UnitState
from pgpool_cluster.node.node import Here
from pgpool_cluster.transport.protocol import ClockAnswer

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
    "FROM pg_available_extensions": [("1.4", "1.4")],
    "NOT last.ours": [],
    "SELECT sourcefile, sourceline, error": [],
    "pg_hba_file_rules": [],
    "rolconnlimit": [
        ("pgpool_check", True, True, True, False, False, True),
        ("pgpool_recovery", True, True, True, True, False, False),
        ("pgpool_replication", True, True, True, False, True, False),
    ],
    "datcollversion": [],
    "wal_status = 'lost'": [],
    "wal_log_hints": [(True,)],
    "pending_restart": [],
    "coalesce(rolpassword": [("v1",), ("v2",), ("v3",)],
    "coalesce(rolvaliduntil": [("app", True, False, "SCRAM-SHA-256$")],
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


class Beats:
    """Heartbeats of a node whose links are up."""

    def __init__(self) -> None:
        now = time.monotonic()
        self.active, self.unbound = True, ""
        self.of = {name: Link(name, LinkState.UP, now, now) for name in ("pg2", "pg3")}
        self.refusals: dict[str, str] = {}

    def links(self) -> dict[str, Link]:
        return self.of

    def refused(self, name: str) -> str:
        return self.refusals.get(name, "")

    def publish(self, *_: object) -> None:
        pass

    def lose(self, name: str, state: LinkState = LinkState.LOST, *, heard: float = -7.0, refused: str = "") -> None:
        """Change the link with a node; `heard` is relative to now."""
        self.of[name] = Link(name, state, 0.0, time.monotonic() + heard)
        self.refusals[name] = refused


class Machine:
    """The healthy node pg1 with everything that its checks ask; a test breaks one thing."""

    def __init__(self, folder: Path, certificate: str) -> None:
        self.folder = folder
        self.cluster: Cluster = CLUSTER
        self.facts, self.record, self.note = PRIMARY, Record(system=7, term=1, led=1, proven="k"), ""
        self.server: Server | None = Server(folder / "data")
        self.problems = dict.fromkeys(("pg2", "pg3"), "")
        self.clocks = {name: ClockAnswer(0.0, "k", CLUSTER.fingerprint, "0.2") for name in self.problems}
        """The answers of the other nodes; the time is an offset to this machine's."""
        self.resolved = {"db2.example.org": ("10.0.0.2",)}
        self.source: str | None = "10.0.0.1"
        self.own_addresses = {"10.0.0.1"}
        self.neighbours = {"10.0.0.2": "02:00:00:00:00:02", "10.0.0.3": "02:00:00:00:00:03"}
        self.logins: set[str] = set()
        """The roles of the logins to other servers."""
        self.refused_logins: dict[str, str] = {}
        """Why PostgreSQL at an address refuses logins."""
        self.closed: dict[tuple[str, int], OSError] = {}
        self.new_logins: dict[str, str] = {}
        """Why a new login over ssh to a node fails."""
        self.unproven: dict[str, str] = {}
        self.primarys = ("auto_explain", "off", "")
        self.disk, self.flags, self.inodes = Disk(0.5), 0, 0.5
        self.configured = dict(SETTINGS)
        self.beats: Beats | None = Beats()
        self.usage: Usage | None = Usage(3, 100, 0.5)
        self.archives = True
        """Whether postgres can write to the archive."""
        self.unit = UnitState("active", "success", was_active=True)
        self.last_words = ""
        self.installed: Installed | None = None
        self.version = "0.2"
        self.unit_files: dict[str, UnitFile] = {}
        """The units that are not enabled and active."""
        self.starts = True
        """Whether PostgreSQL starts at boot."""
        (folder / "own.pem").write_text(certificate)
        (folder / "data").mkdir(0o700)
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
        if self.beats is not None:
            beats: Any = self.beats
            here.beats = beats
        here.note.publish(self.note)
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

    def look_up(self, hosts: Iterable[str], *, seconds: float) -> dict[str, tuple[object, ...]]:
        del seconds
        return {host: tuple(map(ipaddress.ip_address, self.resolved[host])) for host in hosts}

    def states(self, names: Sequence[str]) -> dict[str, UnitFile]:
        return {name: self.unit_files.get(name, UnitFile("loaded", "enabled", "active")) for name in names}

    def failed(self) -> list[Check]:
        return [check for check in checks.run(self.here) if not check.ok]


def make_certificate(folder: Path, days: int) -> str:
    """Return a certificate and its private key in one text."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-days", str(days), "-subj", "/CN=pg1",
               "-keyout", str(folder / "key"), "-out", str(folder / "pem")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "pem").read_text() + (folder / "key").read_text()


Break = Callable[[Machine], object]


def check_of(pg1: Machine, break_: Break, what: str) -> Check:
    """Break something on a healthy node, and return the only check that fails; its description begins with `what`."""
    assert pg1.failed() == []
    break_(pg1)
    failed = pg1.failed()
    (found,) = failed
    assert found.what.startswith(what)
    return found
