"""Paths and unit names on a server."""

from __future__ import annotations

import hashlib
from pathlib import Path

CLUSTER_YML = Path("/etc/pgpool2/cluster.yml")
CLUSTER_KEY = Path("/etc/pgpool2/cluster.key")
DERIVED_KEY = Path("/etc/pgpool2/cluster/derived_key")
"""The key derived from the words in cluster.key; only root can read it."""
FINGERPRINT = Path("/etc/pgpool2/cluster/fingerprint")
"""Fingerprint of the key with which this node's configuration was applied."""
HOSTS = Path("/etc/pgpool2/cluster/hosts")
"""The addresses in force for the host names in cluster.yml."""
LAID_FILE = Path("/etc/pgpool2/cluster/laid")
"""Hash of the cluster.yml that was applied last, written when all files had been written."""
AUTHORITIES = Path("/etc/pgpool2/cluster/authorities/3442880f.0")
"""The authorities that sign the nodes' certificates.

The name is what OpenSSL looks for in a folder: the hash from `openssl x509 -subject_hash`.
"""
SERVER_CERTIFICATE = Path("/etc/pgpool2/cluster/server.pem")
"""The certificate of this node's PostgreSQL, with its private key."""
ROOT_CERTIFICATE = Path("/etc/pgpool2/cluster/sslrootcert")
"""The path of the root certificate for other servers; empty until every server has a certificate to verify."""
DATABASE = Path("/etc/pgpool2/cluster/database")
"""The name of the database that the cluster's own roles log in to."""
PEERS_NFT = Path("/etc/pgpool2/cluster/peers.nft")
MEMORY = Path("/etc/pgpool2/cluster/applied.json")
"""The files that `apply` has written; only root can read and change it."""
SSH_CONFIG = Path("/etc/pgpool2/cluster/ssh_config")
PGPOOL_CONF = Path("/etc/pgpool2/cluster/pgpool.conf")

STATE = Path("/var/lib/pgpool2-cluster")
"""State that survives a reboot (StateDirectory= of the unit)."""
RECORD = STATE / "record.json"
USERS = STATE / "users.json"
OLD_MEMORY = STATE / "applied.json"
"""Where older packages kept MEMORY; postgres owns the folder and could change the file."""

ARCHIVE = Path("/var/lib/postgresql-archive")
"""The WAL archive, in the modes in which every node is a primary."""

RUN = Path("/run/pgpool2-cluster")
"""State that ends with a reboot (RuntimeDirectory= of the unit)."""
AGENT = RUN / "agent"
"""The agent's socket, on which `pgpoolctl converge` listens."""
SERVE = RUN / "serve"
"""Exists while there is a primary, so that pgpool-II may start (ConditionPathExists= in its drop-in)."""
STOPPED = RUN / "stopped"
"""Exists if the cluster, not an administrator, has stopped PostgreSQL."""
ROOTS_RUN = Path("/run/pgpool2-cluster-root")
"""State of root that ends with a reboot; other users can read it."""
KEY_OF_PGPOOL = ROOTS_RUN / "key-of-pgpool"
"""Fingerprint of the cluster key with which pgpool-II was started (hooks/before-pgpool)."""
OLD_KEY_OF_PGPOOL = RUN / "key-of-pgpool"
"""Where older packages kept KEY_OF_PGPOOL; postgres owns the folder and could change the file."""
CONTROL = Path("/run/pgpool2-cluster-control")
"""The socket through which the postgres user starts and stops units."""

UNIT = "pgpool2-cluster.service"
PGPOOL_UNIT = "pgpool2.service"
FIREWALL_UNIT = "pgpool2-cluster-firewall.service"


def laid_fingerprint() -> str:
    """Return the fingerprint of the key with which the configuration was applied, "" before the first time."""
    try:
        return FINGERPRINT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def root_certificate() -> str:
    """Return the path of the root certificate for other servers, "" while not all of them can be verified."""
    try:
        return ROOT_CERTIFICATE.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def database() -> str:
    """Return the database that the cluster's own roles log in to: `postgres` until every server has the roles' own."""
    try:
        return DATABASE.read_text(encoding="ascii").strip() or "postgres"
    except OSError:
        return "postgres"


def laid_file() -> str:
    """Return the hash of the cluster.yml that was applied last, "" before the first time."""
    try:
        return LAID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def file_hash() -> str:
    """Return the hash of the current cluster.yml, "" if it cannot be read."""
    try:
        return hashlib.sha256(CLUSTER_YML.read_bytes()).hexdigest()
    except OSError:
        return ""


def templates() -> Path:
    """Return the folder of the configuration templates: beside this package, or in a checkout beside `scripts`."""
    here = Path(__file__).resolve().parents[1]
    return next(path for path in (here / "config-templates", here.parent / "config-templates") if path.is_dir())
