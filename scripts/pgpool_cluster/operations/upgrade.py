"""Upgrade to a new major version of PostgreSQL with pg_upgradecluster(1), which creates a server beside the old one.

pg_upgradecluster runs pg_upgradecluster.d/pgpool2-cluster before it copies the data. From then on, `apply` configures
the new server, so that it starts as part of the cluster. At the end it gets the old server's port, from which the agent
recognizes the upgrade. docs/how-to/upgrade-postgresql.md describes the procedure.
"""

from __future__ import annotations

from pathlib import Path

from ..definition.cluster import PostgresqlCluster, Service
from ..ground import log, paths, programs
from ..ground.errors import OperationError, ServerError
from ..machine import server, units
from ..machine.record import Record
from ..node.node import Here
from ..postgresql import postgresql as pg

_GUIDE = "/usr/share/doc/pgpool2-cluster/README.Debian describes the procedure"


def begin(old: PostgresqlCluster, new: PostgresqlCluster) -> None:
    """Prepare the upgrade of `old` to `new`; raises ClusterError, to abort it, if the upgrade would break the cluster.

    Does nothing for a server that does not belong to the cluster.
    """
    record = Record.load(paths.RECORD)
    if record.system is None or not paths.CLUSTER_YML.exists():
        return
    cluster, me = server.this_node()
    if Service.POSTGRESQL not in me.runs:
        return
    instance = server.choose_instance(cluster, server.instances(me.port), me)
    if instance.name != old:
        return
    if cluster.postgresql is not None:
        hint = f"remove `postgresql: {cluster.postgresql}` from {paths.CLUSTER_YML}: the port identifies the server"
        raise OperationError(f"cluster.yml names PostgreSQL {old}", hint=hint)
    if record.copying or record.led < record.term:
        hint = f"upgrade the primary, then let it be copied to this node: {_GUIDE}"
        raise OperationError(f"{me.name} is not the primary", hint=hint)
    if units.state(paths.UNIT).active not in ("inactive", "failed"):
        hint = f"on every node: systemctl stop pgpool2-cluster pgpool2; {_GUIDE}"
        raise OperationError("the cluster would fail over to another node meanwhile", hint=hint)
    if not extension_of(new).exists():
        hint = f"apt install postgresql-{new.major}-pgpool2"
        raise ServerError(f"PostgreSQL {new.major} has no extension pgpool_recovery", hint=hint)
    record = record.with_changes(standbys_came=False)
    record.save(paths.RECORD)
    units.control("apply")
    if (instance.data / "postmaster.pid").exists():  # the upgrade writes to it, and no standby is left to acknowledge
        programs.run([instance.program("pg_ctl"), "reload", "--pgdata", str(instance.data)])
    record.with_changes(upgrading=str(new)).save(paths.RECORD)
    units.control("apply")


def extension_of(name: PostgresqlCluster) -> Path:
    """Return the control file of the extension pgpool_recovery, which shows that postgresql-N-pgpool2 is installed."""
    return paths.POSTGRESQL_SHARE / str(name.major) / "extension" / "pgpool_recovery.control"


def finish(here: Here) -> None:
    """Record at the start of the agent that the server was upgraded: from now on, the new server's data counts.

    An upgrade that failed is cleared from the record. Raises ServerError if the new data cannot be read.
    """
    if not here.record.upgrading:
        return
    instance = here.server.instance
    if here.record.upgrading != str(instance.name):
        log.warning(f"PostgreSQL was not upgraded to {here.record.upgrading}: {instance.name} stays in use")
        here.remember(upgrading="")
    else:
        system = pg.control_data(instance).get("Database system identifier", "")
        if not system.isdecimal():
            hint = f"pg_controldata {instance.data} shows why"
            raise ServerError(f"{instance.data} cannot be read after the upgrade", hint=hint)
        log.info(f"PostgreSQL was upgraded to {instance.name}: the cluster now uses its data")
        here.remember(upgrading="", system=int(system))
    units.control("apply")
