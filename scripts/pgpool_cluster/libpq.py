"""How libpq connects to another node: the one place that says how the server has to prove itself.

`channel_binding=require` has libpq send nothing but SCRAM-SHA-256-PLUS, which the cluster's own servers alone can
answer: no password goes to a host that asks for it in clear text, with whatever certificate. Every libpq since 13 has
it, so `require_auth` (16) adds nothing. Once every server of the cluster has a certificate that can be checked,
`sslmode=verify-full` comes to it, and a host without the cluster key does not even see the start of a login.
"""

from __future__ import annotations

from pathlib import Path

from . import paths
from .cluster import Cluster, Node


def own_authority(cluster: Cluster) -> str:
    """Return the path of cluster.yml's `ca`, which signs all servers' certificates where it is given; "" if not."""
    return cluster.tls.ca or "" if cluster.tls is not None else ""


def root_certificate(cluster: Cluster, proven: str) -> str:
    """Return the path of what servers are checked with, "" while one of them may have nothing that can be checked.

    `proven`: what every server's certificate was checked with once (record.py).
    """
    ca = own_authority(cluster)
    if ca:
        return ca if proven == ca else ""
    return str(paths.AUTHORITIES) if proven and not proven.startswith("/") else ""


def proof() -> dict[str, str]:
    """Return the parameters by which the server has to prove itself, as they are laid down on this node now."""
    root = paths.root_certificate()
    verified = {"sslmode": "verify-full", "sslrootcert": root} if root else {"sslmode": "require"}
    return {**verified, "channel_binding": "require"}


def conninfo(upstream: Node, user: str, application_name: str, home: Path) -> str:
    """Return how `user` connects to a node's PostgreSQL; the password is in `home`. No value needs quotes."""
    words = {
        "host": upstream.address,
        "port": str(upstream.port),
        "user": user,
        "application_name": application_name,
        "passfile": str(home / ".pgpass"),
        **proof(),
        "connect_timeout": "5",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
    return " ".join(f"{name}={value}" for name, value in words.items())
