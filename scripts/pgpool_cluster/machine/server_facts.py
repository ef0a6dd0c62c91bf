"""Define the facts about a machine for which its configuration is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..definition.cluster import PostgresqlCluster
from ..ground import paths
from . import certificates
from . import own as owns


@dataclass(frozen=True, slots=True, order=True)
class PgpoolVersion:
    """A version of pgpool-II without its patch level, such as 4.6; patch levels rename no parameter."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about the machine that the configuration is rendered for.

    `interface`: the interface with the node's address. `host_key`: the text of ssh_host_ed25519_key.pub.
    `standbys_came`: the `synchronous` number of standbys has been connected once. Before that, waiting for them would
    block every commit for ever, including those of applications older than the cluster.
    `dropped`: the standbys that commits do not wait for.
    `laid`: the certificates on this node. `certified`, `proven`: as in the record (record.py).
    `heartbeat_keys`: those on this node, the newest first.
    `own_database`: every database node has the roles' own database.
    `below_home`: PostgreSQL's data, a tablespace or the home of postgres is in /home, which ProtectHome= hides.
    `wal_disk_bytes`: total size of the file system that holds pg_wal; 0 without PostgreSQL.
    `own`: parameters from the server's other configuration files. `needs`, `libraries`, `logical`: as in the record.
    """

    postgresql: PostgresqlCluster
    pgpool: PgpoolVersion
    data_directory: str
    interface: str
    host_key: str
    standbys_came: bool = True
    home: str = str(paths.HOME)
    wal_disk_bytes: int = 0
    dropped: tuple[str, ...] = ()
    laid: certificates.Laid = certificates.NOTHING
    certified: str = ""
    proven: str = ""
    below_home: bool = False
    own: owns.Own = owns.NOTHING
    needs: Mapping[str, int] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    logical: bool = False
    own_database: bool = False
    heartbeat_keys: tuple[str, ...] = ()
