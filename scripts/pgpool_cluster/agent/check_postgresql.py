"""Check this node's PostgreSQL server: its state, its data directory, its settings and its roles."""

from __future__ import annotations

import os
import shutil

from ..configuration.rendered_paths import STUBS
from ..configuration.users import Users
from ..decision.facts import NodeFacts, Postgresql
from ..ground import paths
from ..machine.server import Instance
from ..node.node import Here
from ..operations import logins, restarts
from ..operations.roles import Roles
from ..postgresql import locales, server_log
from ..postgresql.database import Database
from .checklist import LEAST_FREE, Checklist

_LOST = "SELECT slot_name FROM pg_replication_slots WHERE wal_status = 'lost'"
_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
     - coalesce(current_setting('reserved_connections', true)::int, 0)
"""
_OVERRIDDEN = """
SELECT DISTINCT a.name FROM pg_file_settings a JOIN pg_file_settings b USING (name)
WHERE a.sourcefile LIKE '%/postgresql.auto.conf' AND b.sourcefile LIKE '%/conf.d/pgpool2-cluster.conf'
"""
_REWINDABLE = "SELECT current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on'"
_EXTENSION = "pgpool_recovery"


def of_server(here: Here, checks: Checklist) -> None:
    """Check the server; of one that is not up, only its state and its data directory."""
    facts = here.look()
    _state(here, facts, checks)
    _data_directory(here, facts, checks)
    if facts.postgresql is not Postgresql.UP:
        return
    _settings(here, facts, checks)
    _sorting(here, checks)
    lost = [str(name) for (name,) in here.query(_LOST)]
    fix = "; ".join(f"pgpoolctl recover {name}" for name in lost)
    checks.add("no replication slot has lost its WAL", not lost, ", ".join(lost), fix)
    _programs(here.server.instance, checks)
    if facts.writable and facts.member:
        _roles(here, checks)
    fix = f"systemctl restart {here.server.instance.unit}"
    rewindable = bool(here.query(_REWINDABLE)[0][0])
    checks.add("pg_rewind can be used", rewindable, "neither wal_log_hints nor data checksums are on", fix)


def _state(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    database, instance = here.server, here.server.instance
    up = facts.postgresql is Postgresql.UP
    absent = "" if up else locales.refused(database.refused)
    if absent:
        fix = f"{locales.making([absent])}; systemctl restart {instance.unit}"
        checks.add(f"PostgreSQL {instance.name} accepts logins", False, f"this machine has no locale {absent}", fix)
    else:
        fix = checks.hint(f"systemctl start {instance.unit}")
        checks.add(f"PostgreSQL {instance.name} runs", up, not_up(facts.postgresql, database), fix)
    checks.add(
        "this node is a member of the cluster", facts.member, "it is not a member yet", checks.hint("pgpoolctl status")
    )


def _data_directory(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    data = here.server.instance.data
    usage = shutil.disk_usage(data if data.exists() else "/var/lib")
    free = usage.free / usage.total
    checks.add(
        "the disk of PostgreSQL has free space", free >= LEAST_FREE, f"{free:.0%} is free", f"free space below {data}"
    )
    owner = os.geteuid()
    for name in STUBS:
        path = data / name
        good = path.exists() and path.stat().st_uid == owner and os.access(path, os.X_OK)
        what = f"{path.name} is in the data directory, owned by postgres"
        absent = facts.postgresql is Postgresql.ABSENT
        checks.add(what, good or absent, "it is missing, or has the wrong owner or mode", "pgpoolctl apply")


def _settings(here: Here, facts: NodeFacts, checks: Checklist) -> None:
    """Check whether the running server has the settings and the extension that the cluster needs."""
    instance = here.server.instance
    waiting = restarts.waiting(here)
    checks.add(
        "PostgreSQL runs with its configuration",
        not waiting,
        f"restart required for {', '.join(waiting.names)}",
        waiting.fix,
    )
    room = int(here.query(_ROOM)[0][0])
    checks.add(
        "max_connections covers all connections of pgpool-II",
        room >= here.cluster.pooled,
        f"{room} are available for {here.cluster.pooled}; pgpool-II detaches the node if a health check gets none",
        "lower num_init_children or max_pool under pgpool:, or raise max_connections under postgresql_conf:, in "
        f"{paths.CLUSTER_YML}; then pgpoolctl apply",
    )
    what, fix = f"{instance.configuration}/postgresql.conf includes conf.d", restarts.INCLUDE_HINT
    included = restarts.includes_drop_in(here)
    checks.add(what, included, "the cluster's parameters are not read", fix.format(folder=instance.configuration))
    known = here.query("SELECT 1 FROM pg_available_extensions WHERE name = %s", _EXTENSION)
    fix = f"apt install postgresql-{instance.name.major}-pgpool2"
    checks.add(f"the extension {_EXTENSION} is installed", bool(known), "its files are missing", fix)
    overridden = [str(name) for (name,) in here.query(_OVERRIDDEN)]
    why, fix = (
        f"{', '.join(overridden)} by ALTER SYSTEM",
        "; ".join(f"ALTER SYSTEM RESET {name}" for name in overridden),
    )
    checks.add("nothing overrides the cluster's parameters", not overridden, why, fix)
    what, why = "commits wait for the configured standbys", "synchronous_standby_names differs"
    checks.add(what, facts.laid, why, "pgpoolctl apply")


def _programs(instance: Instance, checks: Checklist) -> None:
    what = "programs can run in the data directory, as pgpool-II's recovery requires"
    executable = not os.statvfs(instance.data).f_flag & os.ST_NOEXEC
    fix = f"mount -o remount,exec the file system of {instance.data}"
    checks.add(what, executable, "it is mounted noexec", fix)


def not_up(state: Postgresql, database: Database) -> str:
    """Return the state of a server that is not up, with the server's own reason; "" if it is up."""
    if state is Postgresql.UP:
        return ""
    said = database.refused.splitlines()[:1] if state is Postgresql.STARTING else []
    reason = server_log.last_words(database.instance) if state is Postgresql.DOWN else "".join(said)
    return f"{state}: {reason}" if reason else str(state)


def _roles(here: Here, checks: Checklist) -> None:
    """Check whether the cluster's own roles, and pgpool-II's users, can log in to the primary."""
    checks.add(
        "the cluster's roles have the passwords derived from cluster.key",
        Roles.rendered().laid(here),
        "their passwords differ",
        "pgpoolctl apply on this node",
    )
    own = here.look().own_database
    checks.add(
        "the cluster's roles have their own database",
        own,
        "it is missing, or rejects their logins",
        "pgpoolctl converge --once creates it; pgpoolctl status shows any error",
    )
    checks.add_faults("pgpool-II's users can log in", logins.refused(here, Users.load(paths.USERS).entries))


def _sorting(here: Here, checks: Checklist) -> None:
    """Check whether indexes of texts have the sort order of this machine's C library or ICU."""
    names = [str(name) for (name,) in here.query(locales.versions(here.server.instance))]
    shown = ", ".join(names)
    if here.look().in_recovery:
        fix = "use one Debian release on this node and the primary; after an upgrade of both, REINDEX DATABASE there"
    else:
        fix = "; ".join(f'REINDEX DATABASE "{one}"; ALTER DATABASE "{one}" REFRESH COLLATION VERSION' for one in names)
    checks.add(
        "the indexes of the databases match the sort order of this node",
        not names,
        f"{shown}: the C library or ICU of this node sorts differently, so a query may miss rows",
        fix,
    )
