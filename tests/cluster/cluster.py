"""A cluster of hosts from the outside: the administrator's commands, and the actual state of each node."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.host import Host, together

from pgpool_cluster.definition import key as keys

APP = "app"
APP_PASSWORD = "of-app-8c1f3a"  # noqa: S105
HEALTHY_SECONDS = 120.0
STREAMING = "streaming_replication"
YML = "/etc/pgpool2/cluster.yml"
INSTALL = "apt-get install -y -q pgpool2-cluster </dev/null"
PCP = "runuser -u postgres -- /usr/sbin/{} -h 127.0.0.1 -p 9898 -U pgpool_pcp -w"
"""A pcp command on a host of the cluster, with a placeholder for its name."""
DATA = "/var/lib/postgresql/$(ls /var/lib/postgresql)/main"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A row of `nodes` in `pgpoolctl status --json`."""

    name: str
    address: str
    id: int
    role: str
    postgresql: str
    pgpool: str
    lag_bytes: int | None
    timeline: int | None


@dataclass(frozen=True, slots=True)
class PgpoolStatus:
    """A row of `pgpools` in `pgpoolctl status --json`."""

    name: str
    state: str
    virtual_ip: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The output of `pgpoolctl status --json`."""

    cluster: str
    mode: str
    healthy: bool
    nodes: Mapping[str, NodeStatus]
    pgpools: Mapping[str, PgpoolStatus]
    text: str

    @property
    def has_primary(self) -> bool:
        return any(node.role == "primary" for node in self.nodes.values())

    @classmethod
    def parse(cls, text: str) -> Status:
        """Read the output; unknown keys are ignored, since the format may grow."""
        found = json.loads(text)
        nodes = [NodeStatus(**{name: row[name] for name in NodeStatus.__dataclass_fields__}) for row in found["nodes"]]
        pgpools = [
            PgpoolStatus(**{name: row[name] for name in PgpoolStatus.__dataclass_fields__}) for row in found["pgpools"]
        ]
        return cls(
            found["cluster"], found["mode"], found["healthy"], {node.name: node for node in nodes},
            {pgpool.name: pgpool for pgpool in pgpools}, text,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cluster:
    """Hosts with the same answers; `key` is the line of cluster.key.

    `virtual_ip` is one of the answers. With a `domain`, the answers have host names in place of addresses.
    """

    hosts: tuple[Host, ...]
    key: str
    mode: str = STREAMING
    virtual_ip: str = ""
    domain: str = ""

    @classmethod
    def of(cls, hosts: Iterable[Host], mode: str = STREAMING) -> Cluster:
        """Return a cluster of these hosts, in this order, with a new key, without changing them."""
        return cls(tuple(hosts), keys.generate(), mode)

    def named(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def others(self, *hosts: Host) -> tuple[Host, ...]:
        """Return all hosts but these."""
        return tuple(host for host in self.hosts if host not in hosts)

    @property
    def answers(self) -> str:
        """The input of debconf-set-selections, the same on every host."""
        given = {host.name: f"{host.name}.{self.domain}" if self.domain else host.address for host in self.hosts}
        nodes = " ".join(f"{name}={address}" for name, address in given.items())
        lines = {
            "nodes string": nodes,
            "mode select": self.mode,
            "clients string": self.network,
            "key password": self.key,
        }
        if self.virtual_ip:
            lines["virtual-ip string"] = self.virtual_ip
        return "".join(f"pgpool2-cluster pgpool2-cluster/{name} {value}\n" for name, value in lines.items())

    @property
    def cluster_yml(self) -> str:
        """A cluster.yml that any tool could have written."""
        nodes = ", ".join(f"{host.name}: {host.address}" for host in self.hosts)
        return f"nodes: {{{nodes}}}\nclients: [{self.network}]\n"

    @property
    def network(self) -> str:
        """The network of all hosts."""
        address = self.hosts[0].address
        return str(ipaddress.ip_network(f"{address}/{64 if ':' in address else 24}", strict=False))

    def seed(self, *hosts: Host) -> None:
        """Give the answers to these hosts, or to all if none is named."""
        together(lambda host: host.run(f"debconf-set-selections <<'END'\n{self.answers}END"), hosts or self.hosts)

    def deploy(self) -> None:
        """Install on all hosts in parallel, wait until the cluster is healthy, and create the user `app`."""
        self.seed()
        together(lambda host: host.run(INSTALL), self.hosts)
        self.wait_healthy()
        self.add_app()

    def set_return(self, how: str) -> None:
        """Set `return` in cluster.yml of all hosts, and apply it."""
        edit = f"sed -i '/^return:/d' {YML}; echo 'return: {how}' >>{YML}; pgpoolctl apply"
        together(lambda host: host.run(edit), self.hosts)
        self.wait_healthy()

    @contextmanager
    def returning(self, how: str) -> Iterator[None]:
        """Set `return` during the block, and the default afterwards."""
        self.set_return(how)
        try:
            yield
        finally:
            self.set_return("automatic")

    def add_app(self) -> None:
        """Create the applications' database user and its database; root on every host can log in as that user."""
        self.hosts[0].run(f"echo {APP_PASSWORD} | pgpoolctl user set {APP} --password-stdin")
        create = f"CREATE DATABASE {APP} OWNER {APP}"
        for host in self.hosts if self.mode != STREAMING else self.hosts[:1]:
            host.psql(create)
        self.replayed()
        together(lambda host: host.put("/root/.pgpass", f"*:9999:*:{APP}:{APP_PASSWORD}\n", mode=0o600), self.hosts)

    # the state according to pgpoolctl

    def status(self, host: Host | None = None) -> Status:
        """Run `pgpoolctl status` on one host, by default the first."""
        answer = (host or self.hosts[0]).attempt("pgpoolctl status --json 2>/root/status.err", seconds=60)
        try:
            return Status.parse(answer.output)
        except (ValueError, KeyError, TypeError) as error:
            said = (host or self.hosts[0]).attempt("cat /root/status.err").output
            raise AssertionError(f"status --json: {answer.status}, {answer.output!r}, {said!r}") from error

    def wait_healthy(self, seconds: float = HEALTHY_SECONDS, *hosts: Host) -> None:
        """Wait at most `seconds` in total until these hosts, or all if none is named, report a healthy cluster."""
        end = time.monotonic() + seconds
        for host in hosts or self.hosts:
            left = max(1, int(end - time.monotonic()))
            answer = host.attempt(f"pgpoolctl wait --timeout {left}", seconds=left + 30)
            assert answer.status == 0, (
                f"not healthy within {seconds:.0f} s by {host}: {answer.output}\n"
                f"{host.attempt('pgpoolctl status', seconds=60).output}"
            )

    def until(self, true: Callable[[Status], bool], what: str, seconds: float, host: Host | None = None) -> Status:
        """Poll the status of one host for at most `seconds` until it satisfies a condition."""
        end = time.monotonic() + seconds
        while not true(status := self.status(host)):
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}\n{status.text}"
            time.sleep(0.5)
        return status

    def primary(self, host: Host | None = None) -> Host:
        """Return the primary according to the status of `host`."""
        (name,) = [node.name for node in self.status(host).nodes.values() if node.role == "primary"]
        return self.named(name)

    # the actual state

    def writable(self, *hosts: Host) -> list[str]:
        """Return the names of the hosts whose PostgreSQL accepts writes, by a direct query."""
        ask = "runuser -u postgres -- psql -XAtq -p 5432 -c 'SELECT NOT pg_is_in_recovery()' postgres 2>&1 || :"
        asked = hosts or self.hosts
        answers = together(lambda host: host.attempt(ask, seconds=20), asked)
        if all(answer.output != "t" for answer in answers):
            print("no pgpool-II accepts writes:", dict(zip(map(str, asked), answers, strict=True)))
        return [host.name for host, answer in zip(asked, answers, strict=True) if answer.output == "t"]

    def replayed(self) -> None:
        """Wait until all standbys have replayed the primary's current WAL."""
        writable = self.writable()
        primary = next(host for host in self.hosts if host.name in writable)
        position = primary.psql("SELECT pg_current_wal_lsn()")
        for host in self.hosts:
            psql = f"runuser -u postgres -- psql -XAtq -p 5432 -c \"SELECT pg_last_wal_replay_lsn() >= '{position}'\""
            if host.name not in writable:
                host.until(f'[ "$({psql})" = t ]', 60)

    def checksums(self, database: str = APP) -> dict[str, str]:
        """Return a checksum of all rows of all tables by host, once all have replayed the primary's current WAL."""
        self.replayed()
        return {host.name: host.psql(CHECKSUM, database=database) for host in self.hosts}

    def ask(self, sql: str, *, at: Host, through: Host | None = None, database: str = APP) -> str:
        """Run one statement as `app` on host `at` through the pgpool-II of `through`, by default its own."""
        answer = through_pgpool(at, through or at, sql, database)
        return at.run(answer, seconds=60)

    def contents(self, database: str = APP) -> dict[str, str]:
        """Return a checksum of all rows and all sequences by host, each queried separately."""
        sql = f"{CHECKSUM};{SEQUENCES}"
        return {host.name: host.psql(sql, database=database) for host in self.hosts}


SEQUENCES = """
SELECT string_agg(format('%s.%s=%s', schemaname, sequencename, last_value), ' ' ORDER BY schemaname, sequencename)
FROM pg_sequences
"""
CHECKSUM = """
SELECT md5(string_agg(query_to_xml(
    format('SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM %I.%I t', schemaname, tablename),
    true, true, '')::text, ',' ORDER BY schemaname, tablename))
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


def through_pgpool(at: Host, through: Host, sql: str, database: str = APP) -> str:
    """Return a shell command that runs SQL as `app` through a pgpool-II over TLS."""
    address = "127.0.0.1" if at == through else through.address
    where = f"host={address} port=9999 user={APP} dbname={database} sslmode=require connect_timeout=5"
    return f"psql -XAtq -v ON_ERROR_STOP=1 '{where}' <<'SQL'\n{sql}\nSQL"
