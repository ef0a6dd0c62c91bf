"""A new major version of PostgreSQL by pg_upgradecluster(1), which makes a server beside the one that is in use.

It runs pg_upgradecluster.d/pgpool2-cluster before it copies the data. What is laid down then is for the new server, so
that it starts as the cluster's; in the end it gets the old one's port, and the agent knows by that what happened.
docs/how-to/upgrade-postgresql.md has the whole procedure.
"""

from __future__ import annotations

from pathlib import Path

from . import cluster_file, paths, server, units
from . import postgresql as pg
from .cluster import PostgresqlCluster, Service, own_node
from .errors import OperationError, ServerError
from .node import log
from .record import Record
from .server import Instance

_GUIDE = "/usr/share/doc/pgpool2-cluster/README.Debian has the whole procedure"


def begin(old: PostgresqlCluster, new: PostgresqlCluster) -> None:
    """Prepare the upgrade of `old` to `new`; raises ClusterError, and so ends it, where the cluster would break.

    A server that is not the cluster's is none of its business.
    """
    record = Record.load(paths.RECORD)
    if record.system is None or not paths.CLUSTER_YML.exists():
        return
    cluster = cluster_file.load(paths.CLUSTER_YML, server.host_name())
    me = own_node(cluster, [server.host_name()], str(paths.CLUSTER_YML))
    if Service.POSTGRESQL not in me.runs:
        return
    instance = server.choose_instance(cluster, server.instances(), me)
    if instance.name != old:
        return
    if cluster.postgresql is not None:
        hint = f"take `postgresql: {cluster.postgresql}` out of {paths.CLUSTER_YML}: the port says which one it is"
        raise OperationError(f"cluster.yml names PostgreSQL {old}", hint=hint)
    if record.copying or record.led < record.term:
        hint = f"upgrade the primary, and let this node be copied from it: {_GUIDE}"
        raise OperationError(f"{me.name} is not the primary", hint=hint)
    if units.state(paths.UNIT).active not in ("inactive", "failed"):
        hint = f"on every node: systemctl stop pgpool2-cluster pgpool2; {_GUIDE}"
        raise OperationError("the cluster would fail over to another node meanwhile", hint=hint)
    if not Path(f"/usr/share/postgresql/{new.major}/extension/pgpool_recovery.control").exists():
        hint = f"apt install postgresql-{new.major}-pgpool2"
        raise ServerError(f"PostgreSQL {new.major} has no extension pgpool_recovery", hint=hint)
    record = record.with_changes(standbys_came=False)
    record.save(paths.RECORD)
    units.control("apply")
    # pg_upgradecluster writes in the old server, too, which no standby receives from any more.
    server.run([instance.program("pg_ctl"), "reload", "--pgdata", str(instance.data)])
    record.with_changes(upgrading=str(new)).save(paths.RECORD)
    units.control("apply")


def adopted(record: Record, instance: Instance) -> Record:
    """Return the record of a node whose server may have been upgraded: then it is `instance`, and its data counts.

    An upgrade that came to nothing is forgotten. Raises ServerError where the new data cannot be read.
    """
    if not record.upgrading:
        return record
    if record.upgrading != str(instance.name):
        log(f"PostgreSQL was not upgraded to {record.upgrading}: {instance.name} goes on")
        return record.with_changes(upgrading="")
    system = pg.control_data(instance).get("Database system identifier", "")
    if not system.isdecimal():
        hint = f"pg_controldata {instance.data} shows why"
        raise ServerError(f"{instance.data} cannot be read after the upgrade", hint=hint)
    log(f"PostgreSQL was upgraded to {instance.name}: its data is the cluster's")
    return record.with_changes(upgrading="", system=int(system))
