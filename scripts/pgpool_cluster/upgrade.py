"""A new major version of PostgreSQL by pg_upgradecluster(1), which makes a server beside the one that is in use.

It runs pg_upgradecluster.d/pgpool2-cluster before it copies the data. What is laid down then is for the new server, so
that it starts as the cluster's; in the end it gets the old one's port, and the agent knows by that what happened.
docs/how-to/upgrade-postgresql.md has the whole procedure.
"""

from __future__ import annotations

from pathlib import Path

from . import log, paths, server, units
from . import postgresql as pg
from .cluster import PostgresqlCluster, Service
from .errors import OperationError, ServerError
from .node import Here
from .record import Record

_GUIDE = "/usr/share/doc/pgpool2-cluster/README.Debian has the whole procedure"


def begin(old: PostgresqlCluster, new: PostgresqlCluster) -> None:
    """Prepare the upgrade of `old` to `new`; raises ClusterError, and so ends it, where the cluster would break.

    A server that is not the cluster's is none of its business.
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
        hint = f"take `postgresql: {cluster.postgresql}` out of {paths.CLUSTER_YML}: the port says which one it is"
        raise OperationError(f"cluster.yml names PostgreSQL {old}", hint=hint)
    if record.copying or record.led < record.term:
        hint = f"upgrade the primary, and let this node be copied from it: {_GUIDE}"
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
    if (instance.data / "postmaster.pid").exists():  # it is written in, too, and no standby receives that any more
        server.run([instance.program("pg_ctl"), "reload", "--pgdata", str(instance.data)])
    record.with_changes(upgrading=str(new)).save(paths.RECORD)
    units.control("apply")


def extension_of(name: PostgresqlCluster) -> Path:
    """Return the file of the extension pgpool_recovery, by which postgresql-N-pgpool2 is known to be installed."""
    return Path(f"/usr/share/postgresql/{name.major}/extension/pgpool_recovery.control")


def finish(here: Here) -> None:
    """Take note, when the agent starts, that the server was upgraded: it is another one now, and its data counts.

    An upgrade that came to nothing is forgotten. Raises ServerError where the new data cannot be read.
    """
    if not here.record.upgrading:
        return
    instance = here.server.instance
    if here.record.upgrading != str(instance.name):
        log.warning(f"PostgreSQL was not upgraded to {here.record.upgrading}: {instance.name} goes on")
        here.remember(upgrading="")
    else:
        system = pg.control_data(instance).get("Database system identifier", "")
        if not system.isdecimal():
            hint = f"pg_controldata {instance.data} shows why"
            raise ServerError(f"{instance.data} cannot be read after the upgrade", hint=hint)
        log.info(f"PostgreSQL was upgraded to {instance.name}: its data is the cluster's")
        here.remember(upgrading="", system=int(system))
    units.control("apply")
