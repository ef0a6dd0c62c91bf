"""`pgpoolctl check --before`: examine the server and compare it with what `apply` would write (rehearsal.py).

Nothing is written. psql runs the queries as postgres, because both root and the agent can start a rehearsal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from psycopg2.extensions import make_dsn  # type: ignore[import-untyped,unused-ignore]

from ...definition.cluster import Cluster, Node, Service
from ...definition.key import ClusterKey, Role
from ...ground import paths, plain, ports, programs
from ...ground.errors import ClusterError, ServerError, UsageError
from ...ground.fault import Fault
from ...machine import hands, own, server, server_facts
from ...machine.server import Instance, as_postgres
from ...postgresql import libpq
from ...postgresql import postgresql as pg
from ..rendering import rendered_paths, rendering
from ..rendering.rendered_file import File
from . import doors
from .existing_server import ExistingServer, PlannedConfiguration, Rule, Setting
from .finding import Finding, Kind
from .rehearsal import findings
from .startable import Slot

_QUERY_SECONDS = 2.0
_SIZE_QUERY_SECONDS = 1.0
_CANCEL_SECONDS = 0.5
"""Time for PostgreSQL to report that it has cancelled a query at its time limit."""
_DATABASES = ("postgres", "template1")
"""Databases to try in turn: an administrator may have renamed or closed the first."""
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
_ROLE_PURPOSES = {
    Role.RECOVERY: "a superuser",
    Role.REPLICATION: "for replication",
    Role.CHECK: "for health checks",
}
_NO_KEY = ClusterKey(bytes(32))
"""A rehearsal shows no secret, so any key will do."""


def explain() -> None:
    """Raise UsageError if a refusal keeps this node without configuration; raises ClusterError as `rehearse` does."""
    if _may_query():
        raise_refused(rehearse())


def _may_query() -> bool:
    return os.geteuid() in (0, hands.postgres())


def rehearse() -> list[Finding]:
    """Return what the installation would do on this server; raises ClusterError if that cannot be determined."""
    if not _may_query():
        raise ServerError("pgpoolctl check --before queries PostgreSQL as postgres", hint="run it as root")
    cluster, me, _ = server.this_node_looked_up()
    facts = server.facts(cluster, me, standbys_came=False)
    return _findings(cluster, me, facts, rendering.render(cluster, _NO_KEY, me, facts, paths.templates()))


def refuse(cluster: Cluster, me: Node, facts: server_facts.ServerFacts, rendered: Iterable[File]) -> None:
    """Raise UsageError if a first installation would take something away; later ones are not checked."""
    if not paths.FINGERPRINT.exists():
        raise_refused(_findings(cluster, me, facts, rendered))


def raise_refused(found: Iterable[Finding]) -> None:
    """Raise UsageError that names every refused finding; returns if there is none."""
    refused = [finding for finding in found if finding.kind is Kind.REFUSED]
    if refused:
        reasons = "; ".join(f"{finding.area}: {finding.what}" for finding in refused)
        fixes = "; ".join(dict.fromkeys(finding.fix for finding in refused))
        raise UsageError(f"nothing is changed on this server: {reasons}", hint=f"{fixes}; then pgpoolctl apply")


def _findings(cluster: Cluster, me: Node, facts: server_facts.ServerFacts, rendered: Iterable[File]) -> list[Finding]:
    instance = None
    if Service.POSTGRESQL in me.runs:
        instance = Instance(facts.postgresql, me.port, Path(facts.data_directory))
    return findings(_seen(cluster, me, facts, instance), _plan(cluster, me, instance, rendered))


def _plan(cluster: Cluster, me: Node, instance: Instance | None, rendered: Iterable[File]) -> PlannedConfiguration:
    needed: dict[str, str] = {}
    if len(cluster.nodes) > 1:
        needed |= {f"{ports.AGENT_HEARTBEAT}/udp": "the heartbeats between agents"}
    if Service.PGPOOL in me.runs:
        needed |= {f"{cluster.pool_port}/tcp": "pgpool-II", f"{ports.PCP}/tcp": "pcp"}
        if cluster.uses_watchdog:
            needed |= {f"{ports.WATCHDOG}/tcp": "the watchdog", f"{ports.HEARTBEAT}/udp": "its heartbeat"}
    if instance is None:
        return PlannedConfiguration({}, ports=needed, streams=cluster.mode.streams)
    drop_in = rendered_paths.drop_in(instance.name)
    text = next(file.content.decode() for file in rendered if Path(file.path) == drop_in)
    return PlannedConfiguration(
        dict(own.lines(text)),
        wished=frozenset(parameter.name.lower() for parameter in cluster.postgresql_conf),
        streams=cluster.mode.streams,
        own_certificate=cluster.tls is not None and cluster.tls.ca is not None,
        ports=needed,
        nodes=tuple(node.address for node in cluster.pgpools if plain.address(node.address) is not None),
        slots=frozenset(node.slot for node in cluster.databases),
        roles={role.value: what for role, what in _ROLE_PURPOSES.items()},
        folder=str(instance.configuration),
        file=str(paths.CLUSTER_YML),
    )


def _seen(cluster: Cluster, me: Node, facts: server_facts.ServerFacts, instance: Instance | None) -> ExistingServer:
    held = _held() if os.geteuid() == 0 else {}
    kept_out = _kept_out(cluster, me) if os.geteuid() == 0 else ()
    if instance is None:
        return ExistingServer(held=held, kept_out=kept_out)
    said, silent = _queried(instance)
    available = said.get("available") or []
    return ExistingServer(
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
        free_bytes=_free_bytes(instance.data),
    )


def _free_bytes(folder: Path) -> int:
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(nearest).free


def _rule(values: list[Any]) -> Rule:
    line, kind, databases, users, address, mask, method = values
    return Rule(int(line), str(kind), tuple(databases or ()), tuple(users or ()), str(address), str(mask), str(method))


def _queried(instance: Instance) -> tuple[Mapping[str, Any], str]:
    """Return the result of _SQL, {} if the server does not answer; then, if it accepts connections, the reason why."""
    why = ""
    for database in _DATABASES:
        try:
            found = json.loads(_psql(instance, database, _SQL, _QUERY_SECONDS))
        except ClusterError as error:
            why = why or error.message
            continue
        except ValueError:
            continue
        if isinstance(found, dict):
            return found, ""
    return {}, why if _is_ready(instance) else ""


def _is_ready(instance: Instance) -> bool:
    words = [instance.program("pg_isready"), "-q", "-h", paths.SOCKETS, "-p", str(instance.port), "-t", "1"]
    try:
        programs.run([*as_postgres(), *words], seconds=_QUERY_SECONDS)
    except ServerError:
        return False
    return True


def _data_bytes(instance: Instance) -> int | None:
    """Return the size of all tablespaces in bytes; None if summing it up takes too long."""
    sql = "SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace"
    try:
        return int(_psql(instance, "postgres", sql, _SIZE_QUERY_SECONDS))
    except (ClusterError, ValueError):
        return None


def _psql(instance: Instance, database: str, sql: str, seconds: float) -> str:
    options = f"-c statement_timeout={seconds * 1000:.0f} -c log_min_error_statement=panic"
    dsn = make_dsn(**libpq.local(instance.port, database), options=options)
    command = [*as_postgres(), instance.program("psql"), "-XAtq", "-w", "-d", dsn, "-c", sql]
    return programs.run(command, seconds=seconds + _CANCEL_SECONDS)


_LISTENING = re.compile(r'(tcp|udp)\s.*?:(\d+)\s+\S+\s+users:\(\("([^"]+)"')


def _held() -> dict[str, str]:
    """Return the ports that programs other than pgpool-II listen on, such as `9999/tcp`, with the program's name."""
    try:
        output = programs.run(["ss", "-Hlntup"], seconds=_QUERY_SECONDS)
    except ServerError:
        return {}
    matches = (_LISTENING.match(line) for line in output.splitlines())
    return {f"{match[2]}/{match[1]}": match[3] for match in matches if match and not match[3].startswith("pgpool")}


def _kept_out(cluster: Cluster, me: Node) -> tuple[Fault, ...]:
    """Return what keeps the other nodes from logging in here as postgres; nothing if sshd -T fails."""
    try:
        return tuple(doors.faults(cluster, me, configured=False))
    except ServerError:
        return ()
