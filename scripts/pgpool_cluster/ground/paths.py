"""Paths, unit names and the system user on a server, each in this one place."""

from __future__ import annotations

import hashlib
from pathlib import Path

POSTGRES = "postgres"
"""The system user as which PostgreSQL, pgpool-II and the agent run."""
HOME = Path("/var/lib/postgresql")
"""The home of POSTGRES."""
PGPASS = ".pgpass"
"""The file in the home of POSTGRES with the passwords for PostgreSQL."""
PCPPASS = ".pcppass"
"""The file in the home of POSTGRES with the password for pcp commands."""
SOCKETS = "/var/run/postgresql"
"""The folder of the Unix sockets of PostgreSQL and pgpool-II."""
POOL_PID = Path(SOCKETS, "pgpool.pid")
POSTGRESQL_CONFIGURATION = Path("/etc/postgresql")
POSTGRESQL_PROGRAMS = Path("/usr/lib/postgresql")
POSTGRESQL_SHARE = Path("/usr/share/postgresql")
SBIN = Path("/usr/sbin")
"""The programs of pgpool-II, nftables and sshd, by their full path, whatever the PATH is."""
PGPOOLCTL = Path("/usr/bin/pgpoolctl")
PG_CTLCLUSTER = Path("/usr/bin/pg_ctlcluster")
POSTGRESQL_LOGS = Path("/var/log/postgresql")
LOCALES = Path("/usr/share/locale")
"""The message catalogs of gettext."""
PATCHES = Path("/usr/share/pgpool2/patches.json")
"""The patches in our own pgpool2; Debian's pgpool2 has no such file."""
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key.pub")
SSHD = Path("/etc/ssh/sshd_config")
SSHD_INCLUDED = "/etc/ssh/sshd_config.d/*.conf"
SHADOW = Path("/etc/shadow")

ETC = Path("/etc/pgpool2")
FOLDER = ETC / "cluster"
"""The files that `apply` writes, other than those in the folders of other packages."""
CLUSTER_YML = ETC / "cluster.yml"
CLUSTER_KEY = ETC / "cluster.key"
DERIVED_KEY = FOLDER / "derived_key"
"""The key derived from the words in cluster.key; only root can read it."""
FINGERPRINT = FOLDER / "fingerprint"
"""Fingerprint of the key with which this node's configuration was applied."""
HOSTS = FOLDER / "hosts"
"""The addresses in force for the host names in cluster.yml."""
LAID_FILE = FOLDER / "laid"
"""Hash of the cluster.yml that was applied last, written when all files had been written."""
AUTHORITIES = FOLDER / "authorities" / "3442880f.0"
"""The authorities that sign the nodes' certificates.

The name is what OpenSSL looks for in a folder: the hash from `openssl x509 -subject_hash`.
"""
SERVER_CERTIFICATE = FOLDER / "server.pem"
"""The certificate of this node's PostgreSQL, with its private key."""
ROOT_CERTIFICATE = FOLDER / "sslrootcert"
"""The path of the root certificate for other servers; empty until every server has a certificate to verify."""
DATABASE = FOLDER / "database"
"""The name of the database that the cluster's own roles log in to."""
HEARTBEAT_KEY = FOLDER / "heartbeat_key"
"""The keys that authenticate the heartbeats between agents, one a line, the newest first; postgres can read it."""
PEERS_NFT = FOLDER / "peers.nft"
MEMORY = FOLDER / "applied.json"
"""The files that `apply` has written; only root can read and change it."""
SSH_CONFIG = FOLDER / "ssh_config"
PGPOOL_CONF = FOLDER / "pgpool.conf"

STATE = Path("/var/lib/pgpool2-cluster")
"""State that survives a reboot (StateDirectory= of the unit)."""
RECORD = STATE / "record.json"
USERS = STATE / "users.json"
DIVERGED = STATE / "diverged"
"""WAL that only this node had, kept before its data was replaced."""
HISTORY = STATE / "history.jsonl"
"""The events of this node. `history.jsonl.1` has those before the last rotation."""
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
PARTNERS = RUN / "partners"
"""The nodes that send heartbeats, one a line, as the last agent knew them."""
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
JOURNAL = Path("/run/systemd/journal/socket")
"""The socket on which systemd's journal receives structured entries."""

UNIT = "pgpool2-cluster.service"
PGPOOL_UNIT = "pgpool2.service"
FIREWALL_UNIT = "pgpool2-cluster-firewall.service"
CONTROL_UNIT = "pgpool2-cluster-control.socket"
CONTROL_REQUESTS = "pgpool2-cluster-control@*.service"
"""The units that carry out the requests of postgres as root, one for each request."""
PACKAGE = "pgpool2-cluster"
"""The Debian package of the agent and of pgpoolctl."""
CONTAINER = Path("/run/systemd/container")
"""Exists in a container, whose clock is that of its host."""
NOLOGIN = (Path("/run/nologin"), Path("/etc/nologin"))
"""While one of them exists, pam_nologin(8) lets only root log in."""


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
    here = Path(__file__).resolve().parents[2]
    return next(path for path in (here / "config-templates", here.parent / "config-templates") if path.is_dir())
