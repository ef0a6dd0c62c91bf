"""The misconfigurations that `pgpoolctl check` must find: how each is made, which check fails, and the fix it names.

pg1 is the primary. The commands are for sh, with PRELUDE before them. None of them stops a service. Where a program can
carry out the fix that `check` names, `undo` is that fix.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

PRELUDE = """
conf=$(echo /etc/postgresql/*/main)
data=$(echo /var/lib/postgresql/*/main)
unit=postgresql@$(ls /etc/postgresql)-main.service
folder=/etc/pgpool2/cluster
cert=/etc/ssl/certs/ssl-cert-snakeoil.pem
key=/etc/ssl/private/ssl-cert-snakeoil.key
sql() { runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -p 5432 -c "$1" postgres; }
reload() { sql 'SELECT pg_reload_conf()' >/dev/null; }
keep() { cp -a "$1" "/root/kept-$(basename "$1")"; }
restore() { cp -a "/root/kept-$(basename "$1")" "$1"; }
block() {
    nft add table inet mine
    nft add chain inet mine input '{ type filter hook input priority -10; }'
    nft add rule inet mine input iif != lo "$@" 'tcp flags & (syn | ack) == syn drop'
}
"""
"""Shell functions. `block` drops new connections only, so that no service that is connected is disturbed."""
ALL = ("pg1", "pg2", "pg3")
APPLIED = "the applied configuration matches cluster.yml and cluster.key"
SSHD = "sshd accepts logins of the other nodes as postgres"
OVERRIDES = "nothing overrides the cluster's parameters"
NEW_LOGIN = "a new login over ssh to pg3 works"
RIGHTS = "the cluster's roles have their rights"
USERS = "pgpool-II's users can log in"
APPLY = "pgpoolctl apply"


@dataclass(frozen=True, slots=True)
class Misconfiguration:
    """A fault on one host.

    `fails`: a regular expression for the whole subject of the check that fails. `fix`: a part of the fix it names.
    """

    name: str
    host: str
    inject: str
    undo: str
    fails: str
    fix: str
    nodes: tuple[str, ...] = ()
    """The nodes whose check must fail; by default the host."""
    also: tuple[str, ...] = ()
    """Regular expressions for `NODE: SUBJECT` of other checks that may fail with it, because of the same fault."""
    by_root: bool = False
    """Only `pgpoolctl check` on the host itself, as root, can see it."""
    briefly: bool = False
    """It is also in a run without a named release."""


def _file(name: str, inject: str, undo: str, fails: str, fix: str, *, briefly: bool = False) -> Misconfiguration:
    """Return a fault in a file that only root can read."""
    return Misconfiguration(name, "pg3", inject, undo, fails, fix, by_root=True, briefly=briefly)


def _edited(name: str, path: str, edit: str, fix: str) -> Misconfiguration:
    """Return an edit of a file that belongs to the cluster."""
    fails = rf".*/{path.rpartition('/')[2]} is as rendered".replace(".conf", r"\.conf")
    return _file(name, edit, f'rm "{path}"; pgpoolctl apply', fails, fix)


def _door(name: str, inject: str, undo: str, fix: str) -> Misconfiguration:
    """Return an obstacle to the logins of the other nodes; their present connections continue."""
    return Misconfiguration(name, "pg3", inject, undo, SSHD, fix, also=(f"pg[12]: {NEW_LOGIN}",), by_root=True)


def _shut(name: str, inject: str, undo: str, fix: str, *, also: str = SSHD, briefly: bool = False) -> Misconfiguration:
    """Return an obstacle to the logins of the other nodes, as these find it."""
    nodes, others = ("pg1", "pg2"), (f"pg3: {also}",)
    return Misconfiguration(name, "pg3", inject, undo, NEW_LOGIN, fix, nodes, others, briefly=briefly)


def _sshd(name: str, line: str, fix: str) -> Misconfiguration:
    """Return a line of sshd's configuration that is not loaded yet."""
    file = "/etc/ssh/sshd_config.d/00-mine.conf"
    return _door(name, f"echo '{line}' >{file}", f"rm {file}", fix)


def _altered(parameter: str, value: str) -> Misconfiguration:
    """Return a parameter that ALTER SYSTEM sets; it is not loaded."""
    return Misconfiguration(
        f"{parameter} by ALTER SYSTEM", "pg2", f"sql \"ALTER SYSTEM SET {parameter} = '{value}'\"",
        f"sql 'ALTER SYSTEM RESET {parameter}'; reload", OVERRIDES, f"ALTER SYSTEM RESET {parameter}",
    )  # fmt: skip


def _later(parameter: str, value: str, *, briefly: bool = False) -> Misconfiguration:
    """Return a parameter that a later file sets; it is not loaded."""
    file = "$conf/conf.d/zz-mine.conf"
    return Misconfiguration(
        f"{parameter} in a later file", "pg2", f"echo \"{parameter} = '{value}'\" >\"{file}\"",
        f'sed -i "1s/^/#/" "{file}"; reload; rm "{file}"', OVERRIDES, "sed -i '1s/^/#/' /etc/postgresql/",
        briefly=briefly,
    )  # fmt: skip


def _right(name: str, statement: str, mend: str, *also: str, briefly: bool = False) -> Misconfiguration:
    """Return a lost right of one of the cluster's roles; standbys get it by replication."""
    fix = shlex.quote(mend).strip("'")
    return Misconfiguration(name, "pg1", f'sql "{statement}"', f'sql "{mend}"', RIGHTS, fix, also=also, briefly=briefly)


def _user(name: str, statement: str, undo: str, fix: str) -> Misconfiguration:
    return Misconfiguration(name, "pg1", f'sql "{statement}"', undo, USERS, fix)


def _unit(name: str, inject: str, undo: str, fails: str, fix: str, *, briefly: bool = False) -> Misconfiguration:
    return Misconfiguration(name, "pg3", inject, undo, fails, fix, briefly=briefly)


def _blocked(port: int) -> Misconfiguration:
    """Return a packet filter on pg3 that drops the other nodes' new connections to a port."""
    return Misconfiguration(
        f"{port}/tcp blocked", "pg3", f"block tcp dport {port}", "nft delete table inet mine",
        f"pg3 answers on {port}/tcp", f"open {port}/tcp between the nodes", nodes=("pg1", "pg2"),
    )  # fmt: skip


_FILES = (
    _file("cluster.key for other users", "chmod 0644 /etc/pgpool2/cluster.key",
          "chown root: /etc/pgpool2/cluster.key; chmod 0600 /etc/pgpool2/cluster.key",
          r"only root can read /etc/pgpool2/cluster\.key", "chmod 0600 /etc/pgpool2/cluster.key"),
    _file("another cluster.key", "keep /etc/pgpool2/cluster.key; pgpoolctl key generate >/etc/pgpool2/cluster.key",
          "restore /etc/pgpool2/cluster.key", APPLIED, "copy /etc/pgpool2/cluster.key from another node",
          briefly=True),
    _file("cluster.yml not applied",
          "keep /etc/pgpool2/cluster.yml; echo 'pgpool: {client_idle_limit: 3600}' >>/etc/pgpool2/cluster.yml",
          "restore /etc/pgpool2/cluster.yml", APPLIED, APPLY),
    _file("a tab in cluster.yml",
          "keep /etc/pgpool2/cluster.yml; printf 'nodes:\\n\\tpg1: 10.0.0.1\\n' >/etc/pgpool2/cluster.yml",
          "restore /etc/pgpool2/cluster.yml", APPLIED, "spaces"),
    _edited("pgpool.conf edited", "$folder/pgpool.conf", 'echo "# mine" >>"$folder/pgpool.conf"',
            "put the change under pgpool: in cluster.yml; rm /etc/pgpool2/cluster/pgpool.conf"),
    _edited("a reject line in pool_hba.conf", "$folder/pool_hba.conf",
            "sed -i '1i host all all 0.0.0.0/0 reject' \"$folder/pool_hba.conf\"",
            "rm /etc/pgpool2/cluster/pool_hba.conf; pgpoolctl apply"),
    _edited("the cluster's file in conf.d edited", "$conf/conf.d/pgpool2-cluster.conf",
            'echo "jit = off" >>"$conf/conf.d/pgpool2-cluster.conf"', "put the change under postgresql_conf:"),
    _file("a user missing in pool_passwd", "sed -i '/^app:/d' \"$folder/pool_passwd\"", APPLY, APPLIED, APPLY),
    _file("a reject line above the cluster's lines in pg_hba.conf",
          "sed -i '1i host all all all reject' \"$conf/pg_hba.conf\"",
          "pgpoolctl apply; sed -i '/^host all all all reject$/d' \"$conf/pg_hba.conf\"; reload", APPLIED, APPLY),
    Misconfiguration("ssh key for other users", "pg3", 'chmod 0644 "$folder/ssh_key"', APPLY,
                     r"a new login over ssh to pg[12] works", "pgpoolctl apply on this node",
                     also=(f"pg3: {APPLIED}",)),
)  # fmt: skip
_DOORS = (
    _door("login shell nologin", "chsh -s /usr/sbin/nologin postgres", "chsh -s /bin/bash postgres",
          "chsh -s /bin/bash postgres"),
    _door("expired account", "usermod --expiredate 1970-01-02 postgres", "usermod --expiredate '' postgres",
          "usermod --expiredate '' postgres"),
    _door("/etc/nologin", "touch /etc/nologin", "rm /etc/nologin", "rm /etc/nologin"),
    _door("~postgres/.ssh for the group", "chmod g+w /var/lib/postgresql/.ssh", "chmod go-w /var/lib/postgresql/.ssh",
          "chmod go-w /var/lib/postgresql/.ssh"),
    _door("sshd_config without Include",
          "keep /etc/ssh/sshd_config; sed -i 's/^Include/#Include/' /etc/ssh/sshd_config",
          "restore /etc/ssh/sshd_config", "add Include /etc/ssh/sshd_config.d/*.conf"),
    _sshd("AllowUsers", "AllowUsers admin", "add postgres to it"),
    _sshd("AuthorizedKeysFile", "AuthorizedKeysFile /etc/ssh/keys/%u", "set AuthorizedKeysFile .ssh/authorized_keys"),
    _sshd("PubkeyAuthentication", "PubkeyAuthentication no", "set PubkeyAuthentication yes"),
    _sshd("ForceCommand", "ForceCommand /usr/bin/true", "set ForceCommand none"),
    _sshd("ListenAddress", "ListenAddress 127.0.0.1", "add ListenAddress"),
    _shut("login shell nologin, from another node", "chsh -s /usr/sbin/nologin postgres",
          "chsh -s /bin/bash postgres", "on pg3: chsh -s /bin/bash postgres", briefly=True),
    _shut("authorized_keys without the nodes", ": >~postgres/.ssh/authorized_keys", APPLY,
          "use the same /etc/pgpool2/cluster.key and pgpoolctl apply on both", also=APPLIED),
    _shut("AllowUsers in force",
          "echo 'AllowUsers admin' >/etc/ssh/sshd_config.d/00-mine.conf; systemctl reload ssh",
          "rm /etc/ssh/sshd_config.d/00-mine.conf; systemctl reload ssh", "on pg3, as root: pgpoolctl check"),
    _shut("22/tcp blocked", "block tcp dport 22", "nft delete table inet mine", "22/tcp must be open between the nodes",
          briefly=True),
    _sshd("a mistake in sshd's configuration", "Nonsense yes", "sshd -T shows the settings in effect"),
)  # fmt: skip
_CERTIFICATES = (
    Misconfiguration(
        "a certificate that expires", "pg3", 'openssl req -x509 -key "$key" -days 3 -subj /CN=pg3 -out "$cert"',
        "make-ssl-cert generate-default-snakeoil --force-overwrite",
        r"the certificate /etc/ssl/certs/ssl-cert-snakeoil\.pem is valid",
        "make-ssl-cert generate-default-snakeoil --force-overwrite",
    ),
    Misconfiguration(
        "a private key that postgres cannot read", "pg3", 'chmod 0600 "$key"',
        'chgrp ssl-cert "$key"; chmod 0640 "$key"',
        r"the private key /etc/ssl/private/ssl-cert-snakeoil\.key is usable",
        "chmod 0640 /etc/ssl/private/ssl-cert-snakeoil.key", briefly=True,
    ),
    Misconfiguration(
        "a private key of another certificate", "pg3",
        'keep "$key"; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 >"$key"', 'restore "$key"',
        r"the private key /etc/ssl/private/ssl-cert-snakeoil\.key is usable", "use the key that belongs to",
    ),
)  # fmt: skip
_SETTINGS = (
    _altered("wal_level", "minimal"),
    _altered("max_replication_slots", "1"),
    _altered("wal_log_hints", "off"),
    _altered("synchronous_standby_names", ""),
    _later("ssl", "off", briefly=True),
    _later("listen_addresses", "localhost"),
    _later("hot_standby", "off"),
    _later("max_wal_senders", "1"),
    _later("max_connections", "50"),
    _later("password_encryption", "md5"),
    Misconfiguration(
        "postgresql.conf without include_dir", "pg2", "sed -i 's/^include_dir/#include_dir/' \"$conf/postgresql.conf\"",
        "sed -i 's/^#include_dir/include_dir/' \"$conf/postgresql.conf\"; reload",
        r"/etc/postgresql/.*/postgresql\.conf includes conf\.d", "include_dir = 'conf.d'",
    ),
    Misconfiguration(
        "a mistake in postgresql.conf", "pg2", "echo \"nonsense 'x\" >>\"$conf/postgresql.conf\"",
        "sed -i '$d' \"$conf/postgresql.conf\"; reload", "the configuration files of PostgreSQL have no errors",
        "correct line ",
    ),
    Misconfiguration(
        "a mistake in pg_hba.conf", "pg2", 'echo "hosst all all all trust" >>"$conf/pg_hba.conf"',
        "sed -i '$d' \"$conf/pg_hba.conf\"; reload", r"pg_hba\.conf has no errors", "correct line ", briefly=True,
    ),
)  # fmt: skip
_SERVER = (
    Misconfiguration(
        "extension without its files", "pg2", "mv /usr/share/postgresql/*/extension/pgpool_recovery.control /root",
        "mv /root/pgpool_recovery.control /usr/share/postgresql/*/extension/",
        "the extension pgpool_recovery is installed", "apt install --reinstall postgresql-",
    ),
    Misconfiguration(
        "extension of another version", "pg1",
        "sql \"UPDATE pg_extension SET extversion = '1.0' WHERE extname = 'pgpool_recovery'\"",
        "sql \"UPDATE pg_extension SET extversion = (SELECT default_version FROM pg_available_extensions "
        "WHERE name = 'pgpool_recovery') WHERE extname = 'pgpool_recovery'\"",
        "the extension pgpool_recovery has its version", "ALTER EXTENSION pgpool_recovery UPDATE",
    ),
    Misconfiguration(
        "a program of the recovery missing", "pg3", 'rm "$data/pgpool_remote_start"', APPLY,
        "pgpool_remote_start is in the data directory, owned by postgres", APPLY, also=(f"pg3: {APPLIED}",),
    ),
    Misconfiguration(
        "data directory for other users", "pg3", 'chmod 0755 "$data"', 'chmod g-w,o-rwx "$data"; chmod 0700 "$data"',
        "only postgres can write the data directory", "chmod g-w,o-rwx /var/lib/postgresql/",
    ),
)  # fmt: skip
_UNITS = (
    _unit("pgpool2 masked", "systemctl mask pgpool2.service", "systemctl unmask pgpool2.service",
          "systemd may start the cluster's units", "systemctl unmask pgpool2.service", briefly=True),
    _unit("PostgreSQL masked", 'systemctl mask "$unit"', 'systemctl unmask "$unit"',
          "systemd may start the cluster's units", "systemctl unmask postgresql@"),
    _unit("agent disabled", "systemctl disable pgpool2-cluster.service", "systemctl enable pgpool2-cluster.service",
          "the cluster's units start at boot", "systemctl enable pgpool2-cluster.service"),
    _unit("packet filter disabled", "systemctl disable pgpool2-cluster-firewall.service",
          "systemctl enable pgpool2-cluster-firewall.service", "the cluster's units start at boot",
          "systemctl enable pgpool2-cluster-firewall.service"),
    _unit("control socket stopped", "systemctl stop pgpool2-cluster-control.socket",
          "systemctl start pgpool2-cluster-control.socket", "the agent can start and stop PostgreSQL and pgpool-II",
          "systemctl start pgpool2-cluster-control.socket"),
    _unit("PostgreSQL set to manual", 'echo manual >"$conf/start.conf"', 'echo auto >"$conf/start.conf"',
          "PostgreSQL starts at boot", "echo auto >/etc/postgresql/"),
)  # fmt: skip
_ROLES = (
    _right("replication role without REPLICATION", "ALTER ROLE pgpool_replication NOREPLICATION",
           "ALTER ROLE pgpool_replication REPLICATION", briefly=True),
    _right("recovery role without LOGIN", "ALTER ROLE pgpool_recovery NOLOGIN", "ALTER ROLE pgpool_recovery LOGIN",
           r"pg\d: PostgreSQL of pg\d accepts logins from this node"),
    _right("recovery role without SUPERUSER", "ALTER ROLE pgpool_recovery NOSUPERUSER",
           "ALTER ROLE pgpool_recovery SUPERUSER"),
    _right("recovery role whose password has expired", "ALTER ROLE pgpool_recovery VALID UNTIL '2001-01-01'",
           "ALTER ROLE pgpool_recovery VALID UNTIL 'infinity'",
           r"pg\d: PostgreSQL of pg\d accepts logins from this node"),
    _right("replication role with a connection limit", "ALTER ROLE pgpool_replication CONNECTION LIMIT 9",
           "ALTER ROLE pgpool_replication CONNECTION LIMIT -1"),
    _right("check role without pg_monitor", "REVOKE pg_monitor FROM pgpool_check",
           "GRANT pg_monitor TO pgpool_check"),
    _user("a user without LOGIN", "ALTER ROLE app NOLOGIN", 'sql "ALTER ROLE app LOGIN"', 'ALTER ROLE "app" LOGIN'),
    _user("a user whose password has expired", "ALTER ROLE app VALID UNTIL '2001-01-01'",
          "sql \"ALTER ROLE app VALID UNTIL 'infinity'\"", 'ALTER ROLE "app" VALID UNTIL'),
    _user("a user without a role", "ALTER ROLE app RENAME TO former", 'sql "ALTER ROLE former RENAME TO app"',
          "pgpoolctl user set app, or pgpoolctl user remove app"),
    _user("a user without a password", "ALTER ROLE app PASSWORD NULL",
          "echo @password@ | pgpoolctl user set app --password-stdin", "pgpoolctl user set app"),
)  # fmt: skip
_NODES = (
    Misconfiguration(
        "another version of the package", "pg3",
        "keep /var/lib/dpkg/status; "
        "sed -i '/^Package: pgpool2-cluster$/,/^$/s/^Version: .*/Version: 0.0.1/' /var/lib/dpkg/status",
        "restore /var/lib/dpkg/status", r"pg\d has this node's version of pgpool2-cluster",
        "apt install pgpool2-cluster", nodes=ALL,
    ),
    Misconfiguration(
        "another pcp password", "pg3",
        "keep ~postgres/.pcppass; sed -i '/^[^#]/s/:[^:]*$/:wrong/' ~postgres/.pcppass", APPLY,
        "pgpool-II accepts the pcp password", APPLY, also=(f"pg3: {APPLIED}",),
    ),
    _blocked(9999),
    Misconfiguration(
        "5432/tcp blocked for one node", "pg3", "block ip saddr @pg1@ tcp dport 5432", "nft delete table inet mine",
        "PostgreSQL of pg3 accepts logins from this node", "5432/tcp must be open between the nodes", nodes=("pg1",),
        also=(r"pg\d: pgpool-II sends clients to pg3", r"pg1: pgpool-II runs"),
    ),
)  # fmt: skip
MISCONFIGURATIONS = (
    *_FILES, *_DOORS, *_CERTIFICATES, *_SETTINGS, *_SERVER, *_UNITS, *_ROLES, *_NODES
)  # fmt: skip
