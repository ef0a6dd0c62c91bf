"""Connection strings for other nodes: the one place that defines how a server must authenticate itself.

With `channel_binding=require`, libpq uses only SCRAM-SHA-256-PLUS, which only the cluster's own servers can answer. A
host that requests a clear-text password gets none, whatever its certificate. Every libpq since 13 supports this, so
`require_auth` (16) adds nothing. Once every server of the cluster has a certificate that can be verified, the nodes
also use `sslmode=verify-full`, and a host without the cluster key does not even see the start of a login.
"""

from __future__ import annotations

from ..definition.cluster import Cluster, Node
from ..ground import paths

SUPERUSER = "postgres"
"""PostgreSQL's superuser on every node."""
APPLICATION = "pgpoolctl"
"""application_name of the sessions that collect facts or administer a server; a standby's is the name of its node."""


def own_authority(cluster: Cluster) -> str:
    """Return the path of cluster.yml's `ca`, which then signs all servers' certificates; "" if it is not given."""
    return cluster.tls.ca or "" if cluster.tls is not None else ""


def root_certificate(cluster: Cluster, proven: str) -> str:
    """Return the path of the root certificate for servers, "" while a server may lack a certificate to verify.

    `proven`: the authority with which every server's certificate has been verified once (record.py).
    """
    ca = own_authority(cluster)
    if ca:
        return ca if proven == ca else ""
    return str(paths.AUTHORITIES) if proven and not proven.startswith("/") else ""


def proof() -> dict[str, str]:
    """Return the parameters that make the server authenticate itself, by this node's applied configuration."""
    root = paths.root_certificate()
    verified = {"sslmode": "verify-full", "sslrootcert": root} if root else {"sslmode": "require"}
    return {**verified, "channel_binding": "require"}


def local(port: int, database: str) -> dict[str, str]:
    """Return the parameters for a server of this machine: as its superuser, through its Unix socket."""
    return {"host": paths.SOCKETS, "port": str(port), "user": SUPERUSER, "dbname": database}


def conninfo(upstream: Node, user: str, application_name: str, *, database: str = "") -> str:
    """Return the conninfo of `user` for a node's PostgreSQL, without quotes; .pgpass has the password.

    `database`: "" for a connection that needs none, or whose program names it.
    """
    words = {
        "host": upstream.address,
        "port": str(upstream.port),
        "user": user,
        "application_name": application_name,
        "passfile": str(paths.HOME / paths.PGPASS),
        **proof(),
        "connect_timeout": "5",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
        **({"dbname": database} if database else {}),
    }
    return " ".join(f"{name}={value}" for name, value in words.items())
