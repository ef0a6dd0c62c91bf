"""Name the places of the files that a node's configuration consists of."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ...definition.cluster import PostgresqlCluster, Tls
from ...ground import paths
from ...machine import own as owns

FOLDER = PurePosixPath(paths.FOLDER)
PROGRAMS = PurePosixPath("/usr/lib/pgpool2-cluster")
MACHINE_TLS = Tls("/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key", None)
"""The certificate that ssl-cert creates on every Debian machine; the postgres user is in its group."""
STUBS = {
    "recovery_1st_stage": "recovery-1st-stage",
    "recovery_2nd_stage": "recovery-2nd-stage",
    "pgpool_remote_start": "pgpool-remote-start",
}
"""Files in the data directory, where pgpool_recovery looks for them, and the programs that they start."""
PGPOOL_DROP_IN = PurePosixPath("/etc/systemd/system/pgpool2.service.d/pgpool2-cluster.conf")
UNIT_FILE = str(PGPOOL_DROP_IN)
SSHD_CONF = PurePosixPath("/etc/ssh/sshd_config.d/pgpool2-cluster.conf")
DROP_INS = tuple(
    f"/etc/systemd/system/{unit}.service.d/pgpool2-cluster.conf"
    for unit in ("pgpool2-cluster", "pgpool2-cluster-control@")
)
"""Drop-ins for our own units if they have to see /home."""
IN_ROOTS_FOLDERS = (str(SSHD_CONF), str(paths.AUTHORITIES))
"""Files owned by root that are rendered outside of FOLDER, besides pgpool-II's drop-in."""
IN_OTHERS_FOLDERS = frozenset(
    {"pgpool2-cluster.conf", "pg_hba.conf", paths.PGPASS, paths.PCPPASS, ".pgpoolkey", "authorized_keys", *STUBS}
)
"""Names of the files in folders of postgres: its home, its servers' configuration and their data."""


def drop_in(postgresql: PostgresqlCluster) -> Path:
    """Return the path of the cluster's file in the conf.d of a PostgreSQL cluster."""
    return Path(paths.POSTGRESQL_CONFIGURATION, str(postgresql.major), postgresql.name, "conf.d", owns.DROP_IN)
