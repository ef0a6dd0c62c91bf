"""Where things are on a server."""

from __future__ import annotations

import hashlib
from pathlib import Path

CLUSTER_YML = Path("/etc/pgpool2/cluster.yml")
CLUSTER_KEY = Path("/etc/pgpool2/cluster.key")
DERIVED_KEY = Path("/etc/pgpool2/cluster/derived_key")
"""What the words in cluster.key became, for root alone."""
FINGERPRINT = Path("/etc/pgpool2/cluster/fingerprint")
"""Of the key that this node's configuration was laid down with."""
HOSTS = Path("/etc/pgpool2/cluster/hosts")
"""The addresses of the host names in cluster.yml that are in force."""
LAID_FILE = Path("/etc/pgpool2/cluster/laid")
"""Hash of the cluster.yml that this node's configuration was laid down from, written when all of it lay there."""
AUTHORITIES = Path("/etc/pgpool2/cluster/authorities/3442880f.0")
"""The authorities that sign the nodes' certificates.

OpenSSL looks for a name in a folder by its hash: `openssl x509 -subject_hash`.
"""
SERVER_CERTIFICATE = Path("/etc/pgpool2/cluster/server.pem")
"""The certificate that this node's PostgreSQL shows, with its private key."""
ROOT_CERTIFICATE = Path("/etc/pgpool2/cluster/sslrootcert")
"""The path of what the other servers' certificates are checked with; empty until all have one that can be checked."""
DATABASE = Path("/etc/pgpool2/cluster/database")
"""The name of the database that the cluster's own roles log in to."""
PEERS_NFT = Path("/etc/pgpool2/cluster/peers.nft")
MEMORY = Path("/etc/pgpool2/cluster/applied.json")
"""What `apply` laid down, for root alone."""
SSH_CONFIG = Path("/etc/pgpool2/cluster/ssh_config")
PGPOOL_CONF = Path("/etc/pgpool2/cluster/pgpool.conf")

STATE = Path("/var/lib/pgpool2-cluster")
"""What must outlive a reboot (StateDirectory= of the unit)."""
RECORD = STATE / "record.json"
USERS = STATE / "users.json"
OLD_MEMORY = STATE / "applied.json"
"""Where versions before had MEMORY: in a folder of postgres', so it is postgres' word."""

ARCHIVE = Path("/var/lib/postgresql-archive")
"""WAL files, in the modes in which every node is a primary."""

RUN = Path("/run/pgpool2-cluster")
"""What ends with the boot (RuntimeDirectory= of the unit)."""
AGENT = RUN / "agent"
"""The socket of `pgpoolctl converge`."""
SERVE = RUN / "serve"
"""There is a primary, so pgpool-II may start (ConditionPathExists= in its drop-in)."""
STOPPED = RUN / "stopped"
"""PostgreSQL was stopped by the cluster, not by an administrator."""
ROOTS_RUN = Path("/run/pgpool2-cluster-root")
"""What ends with the boot and is root's; others read in it."""
KEY_OF_PGPOOL = ROOTS_RUN / "key-of-pgpool"
"""Fingerprint of the cluster key that pgpool-II was started with (hooks/before-pgpool)."""
OLD_KEY_OF_PGPOOL = RUN / "key-of-pgpool"
"""Where versions before had it: in a folder of postgres', so it is postgres' word."""
CONTROL = Path("/run/pgpool2-cluster-control")
"""The socket that starts and stops units for the postgres user."""

UNIT = "pgpool2-cluster.service"
PGPOOL_UNIT = "pgpool2.service"
FIREWALL_UNIT = "pgpool2-cluster-firewall.service"


def laid_fingerprint() -> str:
    """Return the fingerprint of the key that configuration was laid down with, "" before the first time."""
    try:
        return FINGERPRINT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def root_certificate() -> str:
    """Return the path of the authorities that servers are checked with, "" before all can be checked."""
    try:
        return ROOT_CERTIFICATE.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def database() -> str:
    """Return the database that the cluster's own roles log in to: `postgres` until every server has one of theirs."""
    try:
        return DATABASE.read_text(encoding="ascii").strip() or "postgres"
    except OSError:
        return "postgres"


def laid_file() -> str:
    """Return the hash of the cluster.yml that configuration was laid down from, "" before the first time."""
    try:
        return LAID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def file_hash() -> str:
    """Return the hash of cluster.yml as it is now, "" where it cannot be read."""
    try:
        return hashlib.sha256(CLUSTER_YML.read_bytes()).hexdigest()
    except OSError:
        return ""


def templates() -> Path:
    """Return the folder of the configuration templates: beside this package, or beside its folder in a checkout."""
    here = Path(__file__).resolve().parents[1]
    return next(path for path in (here / "config-templates", here.parent / "config-templates") if path.is_dir())
