"""`pgpoolctl check --before`: looks at the server as it is, and compares it with what is laid down (rehearsal.py).

Nothing is written. PostgreSQL is asked by psql, as postgres, since root can be asked to rehearse as well as the agent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import configuration, doors, hands, own, paths, plain, server
from . import postgresql as pg
from .cluster import PCP_PORT, WATCHDOG_PORT, Cluster, Node, Service
from .configuration import File
from .errors import ClusterError, ServerError, UsageError
from .fault import Fault
from .key import ClusterKey, Role
from .rehearsal import Finding, Kind, Plan, Rule, Seen, Setting, Slot, findings
from .server import Instance, as_postgres

HEARTBEAT_PORT = 9694
_SECONDS = 2.0
_SIZE_SECONDS = 1.0
_DATABASES = ("postgres", "template1")
"""Where it is asked: an administrator may have renamed or closed the first."""
_EXTENSIONS = ("pgpool_recovery",)
_SQL = """
SELECT json_build_object(
  'settings', (SELECT json_object_agg(lower(name), json_build_array(setting, coalesce(unit, ''), context, source,
                                                                    coalesce(sourcefile, ''))) FROM pg_settings),
  'slots', (SELECT json_agg(json_build_array(slot_name, slot_type = 'logical', CASE WHEN pg_is_in_recovery() THEN 0
              ELSE coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END))
            FROM pg_replication_slots),
  'home', EXISTS (SELECT FROM pg_database WHERE datname = 'postgres' AND datallowconn),
  'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  'rules', (SELECT json_agg(json_build_array(line_number, type, database, user_name, coalesce(address, ''),
                                             coalesce(netmask, ''), auth_method))
            FROM pg_hba_file_rules WHERE error IS NULL),
  'roles', (SELECT json_agg(rolname) FROM pg_roles),
  'available', (SELECT json_agg(name) FROM pg_available_extensions))
"""
_MADE = {
    Role.RECOVERY: "a superuser",
    Role.REPLICATION: "for replication",
    Role.CHECK: "for health checks",
}
_NO_KEY = ClusterKey(bytes(32))
"""A rehearsal shows no secret, so it needs none."""


def explain() -> None:
    """Raise UsageError where it is a refusal that keeps this node without configuration; ClusterError as `rehearse`."""
    if _may_ask():
        raise_refused(rehearse())


def _may_ask() -> bool:
    return os.geteuid() in (0, hands.postgres())


def rehearse() -> list[Finding]:
    """Return what the installation would do on this server; raises ClusterError where that cannot be told."""
    if not _may_ask():
        raise ServerError("pgpoolctl check --before asks PostgreSQL as postgres", hint="run it as root")
    cluster, me, _ = server.this_node_looked_up()
    facts = server.facts(cluster, me, standbys_came=False)
    return _findings(cluster, me, facts, configuration.render(cluster, _NO_KEY, me, facts, paths.templates()))


def refuse(cluster: Cluster, me: Node, facts: configuration.Server, rendered: Iterable[File]) -> None:
    """Raise UsageError where a first installation would take something away; later ones are not looked at."""
    if not paths.FINGERPRINT.exists():
        raise_refused(_findings(cluster, me, facts, rendered))


def raise_refused(found: Iterable[Finding]) -> None:
    """Raise UsageError with all that is refused; does nothing where nothing is."""
    refused = [one for one in found if one.kind is Kind.REFUSED]
    if refused:
        reasons = "; ".join(f"{one.area}: {one.what}" for one in refused)
        fixes = "; ".join(dict.fromkeys(one.fix for one in refused))
        raise UsageError(f"nothing is changed on this server: {reasons}", hint=f"{fixes}; then pgpoolctl apply")


def _findings(cluster: Cluster, me: Node, facts: configuration.Server, rendered: Iterable[File]) -> list[Finding]:
    instance = None
    if Service.POSTGRESQL in me.runs:
        instance = Instance(facts.postgresql, me.port, Path(facts.data_directory))
    return findings(_seen(cluster, me, facts, instance), _plan(cluster, me, instance, rendered))


def _plan(cluster: Cluster, me: Node, instance: Instance | None, rendered: Iterable[File]) -> Plan:
    ports: dict[str, str] = {}
    if Service.PGPOOL in me.runs:
        ports = {f"{cluster.pool_port}/tcp": "pgpool-II", f"{PCP_PORT}/tcp": "pcp"}
        if len(cluster.pgpools) > 1:
            ports |= {f"{WATCHDOG_PORT}/tcp": "the watchdog", f"{HEARTBEAT_PORT}/udp": "its heartbeat"}
    if instance is None:
        return Plan({}, ports=ports, streams=cluster.mode.streams)
    drop_in = configuration.drop_in(instance.name)
    text = next(file.content.decode() for file in rendered if Path(file.path) == drop_in)
    return Plan(
        dict(own.lines(text)),
        wished=frozenset(one.name.lower() for one in cluster.postgresql_conf),
        streams=cluster.mode.streams,
        own_certificate=cluster.tls is not None and cluster.tls.ca is not None,
        ports=ports,
        nodes=tuple(node.address for node in cluster.pgpools if plain.address(node.address) is not None),
        slots=frozenset(node.slot for node in cluster.databases),
        roles={role.value: what for role, what in _MADE.items()},
        folder=str(instance.configuration),
        file=str(paths.CLUSTER_YML),
    )


def _seen(cluster: Cluster, me: Node, facts: configuration.Server, instance: Instance | None) -> Seen:
    held = _held() if os.geteuid() == 0 else {}
    kept_out = _kept_out(cluster, me) if os.geteuid() == 0 else ()
    if instance is None:
        return Seen(held=held, kept_out=kept_out)
    said, silent = _asked(instance)
    available = said.get("available") or []
    return Seen(
        running=bool(said),
        silent=silent,
        home=bool(said.get("home", True)),
        own=facts.own,
        settings={name: Setting(*map(str, values)) for name, values in (said.get("settings") or {}).items()},
        slots=tuple(Slot(str(name), bool(logical), int(size)) for name, logical, size in said.get("slots") or ()),
        prepared=int(said.get("prepared", 0)),
        rules=tuple(map(_rule, said.get("rules") or ())),
        roles=tuple(map(str, said.get("roles") or ())),
        lacking=tuple(name for name in _EXTENSIONS if said and name not in available),
        faults=tuple(filter(None, [pg.fault(instance)])),
        held=held,
        kept_out=kept_out,
        data_bytes=_data_bytes(instance) if said else None,
        free_bytes=shutil.disk_usage(next(one for one in (instance.data, *instance.data.parents) if one.exists())).free,
    )


def _rule(values: list[Any]) -> Rule:
    line, kind, databases, users, address, mask, method = values
    return Rule(int(line), str(kind), tuple(databases or ()), tuple(users or ()), str(address), str(mask), str(method))


def _asked(instance: Instance) -> tuple[Mapping[str, Any], str]:
    """Return what the server says of itself, {} where it does not answer; and why, if it takes connections."""
    why = ""
    for database in _DATABASES:
        try:
            found = json.loads(_psql(instance, database, _SQL, _SECONDS))
        except ClusterError as error:
            why = why or error.message
            continue
        except ValueError:
            continue
        if isinstance(found, dict):
            return found, ""
    return {}, why if _is_ready(instance) else ""


def _is_ready(instance: Instance) -> bool:
    words = [instance.program("pg_isready"), "-q", "-h", pg.SOCKETS, "-p", str(instance.port), "-t", "1"]
    try:
        server.run([*as_postgres(), *words], seconds=_SECONDS)
    except ServerError:
        return False
    return True


def _data_bytes(instance: Instance) -> int | None:
    """Return the bytes of all tablespaces; None where counting them takes too long."""
    try:
        said = _psql(instance, "postgres", "SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace", _SIZE_SECONDS)
        return int(said)
    except (ClusterError, ValueError):
        return None


def _psql(instance: Instance, database: str, sql: str, seconds: float) -> str:
    options = f"-c statement_timeout={seconds * 1000:.0f} -c log_min_error_statement=panic"
    database = f"dbname={database} options='{options}'"
    where = ("-h", pg.SOCKETS, "-p", str(instance.port), "-U", "postgres", "-d", database)
    return server.run([*as_postgres(), instance.program("psql"), "-XAtq", "-w", *where, "-c", sql],
                      seconds=seconds + 0.5)  # fmt: skip


_LISTENING = re.compile(r'(tcp|udp)\s.*?:(\d+)\s+\S+\s+users:\(\("([^"]+)"')


def _held() -> dict[str, str]:
    """Return the ports that programs other than pgpool-II listen on, `9999/tcp`, each with the program."""
    try:
        said = server.run(["ss", "-Hlntup"], seconds=_SECONDS)
    except ServerError:
        return {}
    found = (_LISTENING.match(line) for line in said.splitlines())
    return {f"{one[2]}/{one[1]}": one[3] for one in found if one and not one[3].startswith("pgpool")}


def _kept_out(cluster: Cluster, me: Node) -> tuple[Fault, ...]:
    """Return what keeps the other nodes from logging in here as postgres; nothing where sshd does not say."""
    try:
        return tuple(doors.faults(cluster, me, configured=False))
    except ServerError:
        return ()
