"""Check the preconditions of a working cluster, and give the command or edit that fixes each failure."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509  # type: ignore[import-not-found,unused-ignore]

from . import (
    act,
    addresses,
    adopting,
    archive,
    certificates,
    changes,
    copying,
    doors,
    firewall,
    key_file,
    known_faults,
    libpq,
    locales,
    logins,
    paths,
    pgpool,
    plain,
    proof,
    reach,
    replay,
    restarts,
    server,
    server_log,
    turned_away,
    units,
    wal_space,
)
from . import key as keys
from .certificates import Laid
from .channel import ask
from .check import Check
from .cluster import WATCHDOG_PORT, Node, Service
from .errors import ClusterError
from .facts import NodeFacts, Postgresql
from .fault import Fault
from .key import Role
from .node import Here
from .postgresql import Database
from .protocol import CheckRequest, ClockRequest
from .rendered_paths import MACHINE_TLS, STUBS
from .roles import Roles
from .users import Users

MOST_SKEW = 2.0
"""Seconds that two nodes' clocks may differ. pgpool-II's watchdog compares times, and people compare logs."""
LEAST_FREE = 0.1
_CERTIFICATE_FIX = "put another one there, then pgpoolctl apply"
_LOST = "SELECT slot_name FROM pg_replication_slots WHERE wal_status = 'lost'"
_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
     - coalesce(current_setting('reserved_connections', true)::int, 0)
"""
_ARCHIVER = """
SELECT last_failed_wal FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""
_OVERRIDDEN = """
SELECT DISTINCT a.name FROM pg_file_settings a JOIN pg_file_settings b USING (name)
WHERE a.sourcefile LIKE '%/postgresql.auto.conf' AND b.sourcefile LIKE '%/conf.d/pgpool2-cluster.conf'
"""


def of_cluster() -> list[Check]:
    """Return the checks of this machine's files, then those of every reachable node."""
    found = list(_files())
    try:
        return [*found, *ask(CheckRequest(all=True), seconds=40).checks]
    except ClusterError as error:
        fix = f"systemctl start {paths.UNIT}"
        return [*found, Check(server.host_name(), f"{paths.UNIT} answers", False, error.message, fix)]


def unreadable(node: str) -> Check:
    """Return the failed check of a node whose answer does not contain checks."""
    fix = f"journalctl -u {paths.UNIT}, on {node}; the same version of pgpool2-cluster on every node"
    return Check(node, "it tells its checks", False, "what it sent are none", fix)


def _files() -> Iterator[Check]:
    name = server.host_name()
    if os.geteuid() != 0:
        return
    what = "configuration is laid down as cluster.yml and cluster.key have it"
    try:
        planned = changes.plan()
    except ClusterError as error:
        yield Check(name, what, False, error.message, error.hint)
        return
    others = ", ".join(str(change.path) for change in planned.changes if not change.edited)
    if others or not planned.refused:
        yield Check(name, what, not others, f"{others} differ", "pgpoolctl apply")
    for path in planned.edited:
        yield Check(name, f"{path} is as rendered", False, "edited by hand",
                    f"put it under pgpool: in cluster.yml, rm {path}, pgpoolctl apply")  # fmt: skip
    for refused in planned.refused:
        yield Check(name, what, False, refused.message, refused.hint)
    key = paths.CLUSTER_KEY.stat()
    closed = key.st_uid == 0 and key.st_mode & 0o077 == 0
    fix = f"chown root: {paths.CLUSTER_KEY}; chmod 0600 {paths.CLUSTER_KEY}"
    yield Check(name, f"{paths.CLUSTER_KEY} is root's alone", closed, f"mode {key.st_mode & 0o777:04o}", fix)
    cheap = keys.is_cheap(key_file.text().strip())
    fix = "pgpoolctl key generate, and that line on every node: change-the-key.md in the documentation"
    yield Check(name, f"{paths.CLUSTER_KEY} cannot be guessed", not cheap, "words, as cheap as in older packages", fix)
    yield from _doors(name)
    what = "watchdog and pcp ports are closed for strangers"
    fix = f"systemctl restart {paths.FIREWALL_UNIT}"
    yield Check(name, what, not firewall.missing(), f"the table {' '.join(firewall.TABLE)} is not loaded", fix)


def _doors(name: str) -> Iterator[Check]:
    """Check whether other nodes can log in as postgres; sshd shows its settings only to root."""
    what = "sshd lets the other nodes in as postgres"
    try:
        faults = doors.faults(*server.this_node())
    except ClusterError as error:
        yield Check(name, what, False, error.message, "systemctl status ssh; sshd -T shows what is wrong")
        return
    yield from _of_faults(name, what, faults)


def _of_faults(node: str, what: str, faults: Iterable[Fault]) -> list[Check]:
    """Return a failed check for each fault, so that each has its own fix, or a passed one if there is none."""
    return [Check(node, what, False, fault.why, fault.fix) for fault in faults] or [Check(node, what, True)]


def run(here: Here) -> list[Check]:
    """Return the checks of this node that its agent can run as postgres."""
    found: list[Check] = []

    def check(what: str, ok: bool, why: str = "", fix: str = "") -> None:
        found.append(Check(here.me.name, what, ok, why, fix))

    _peers(here, check)
    _addresses(here, check)
    _others(here, check)
    _certificate(here, check)
    check("a node may fail", len(here.cluster.nodes) != _TWO, "of two nodes, the one that is left is no majority",
          "add a third to cluster.yml; one with runs: [pgpool] is enough")  # fmt: skip
    if Service.POSTGRESQL in here.me.runs:
        _postgresql(here, check)
    if here.cluster.archives(here.me):
        _archive(here, check)
    if Service.PGPOOL in here.me.runs:
        _pgpool(here, check)
        found += _known_faults(here)
    return found


def _known_faults(here: Here) -> list[Check]:
    """Return the checks for known faults of the installed pgpool2.

    A missing patch that the cluster relies on is a failure; an advisory is a note.
    """
    installed = known_faults.installed()
    if installed is None:
        return []
    name, version, table = here.me.name, installed.version, known_faults.table()
    lacks = known_faults.missing(installed, table)
    found = [
        Check(name, f"pgpool2 {version} has the patch {patch}", False, f"without it, {without}", known_faults.FIX)
        for patch, without in lacks
    ]
    if not lacks:
        found.append(Check(name, "pgpool2 has the patches that the cluster relies on", True))
    for advisory in known_faults.advisories(installed, table):
        advice = known_faults.ADVICE if installed.own else known_faults.ADVICE_DEBIAN
        found.append(Check(name, f"pgpool2 {version} has known advisories", True, advisory, advice, note=True))
    return found


_Say = Callable[..., None]
_TWO = 2


def _say(check: _Say, what: str, faults: Iterable[Fault]) -> None:
    for one in _of_faults("", what, faults):
        check(one.what, one.ok, one.why, one.fix)


def _reaches(address: str, port: int) -> str:
    """Return the reason why a TCP port does not accept a connection within 3 s, "" if it does."""
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _peers(here: Here, check: _Say) -> None:
    before = time.time()
    clocks = here.peers.ask_all(ClockRequest(), seconds=2.5)
    after = time.time()
    mine = here.look().key
    for name, peer in here.peers.peers.items():
        check(f"{name} answers over ssh", name in clocks, peer.problem or "no answer", reach.fix(peer.problem, name))
        if name in clocks:
            same = clocks[name].key == mine
            check(f"{name} has this node's cluster.key", same, "it has another one, or it is not laid down yet",
                  f"put {paths.CLUSTER_KEY} of this node there, then pgpoolctl apply on both")  # fmt: skip
            other = clocks[name].file not in ("", here.cluster.fingerprint)
            check(f"{name} has this node's cluster.yml", not other, "nodes, mode or synchronous differ there",
                  f"the same {paths.CLUSTER_YML} on both, then pgpoolctl apply on both")  # fmt: skip
            skew = max(before - clocks[name].clock, clocks[name].clock - after, 0.0)
            check(f"the clock of {name} agrees", skew <= MOST_SKEW, f"{skew:.1f} s apart",
                  "apt install chrony, on both")  # fmt: skip


def _addresses(here: Here, check: _Say) -> None:
    """Check that host names have the addresses in use, and that nodes see this node at its address in cluster.yml."""
    named = [node for node in here.cluster.nodes if node.host]
    found = addresses.look_up(node.host for node in named)
    for node in named:
        why = addresses.changed(node, found, mine=node == here.me)
        fix = "/etc/hosts or DNS, on every node; then pgpoolctl apply on every node, and systemctl restart pgpool2"
        check(f"{node.host} is the address of {node.name} that is in force", not why, why, fix)
    for node in here.cluster.nodes:
        address = plain.address(node.address)
        source = addresses.toward(address) if address is not None and node != here.me else None
        if source is not None:
            right = str(source) == here.me.address
            check(f"{node.name} sees this node at its own address", right, f"it sees {source}, not {here.me.address}",
                  f"ip route get {node.address} shows why: another address of this machine goes first. Put {source} "
                  f"into {paths.CLUSTER_YML}, or set the source of the route")  # fmt: skip


def _hint(here: Here, otherwise: str) -> str:
    """Return the hint of this node's own note, or `otherwise` if it has none."""
    return here.note.rpartition("hint: ")[2] or otherwise


def _others(here: Here, check: _Say) -> None:
    """Check the network connections to other nodes that this node needs."""
    for node in here.cluster.nodes:
        if node == here.me:
            continue
        if Service.POSTGRESQL in node.runs:
            why = copying.refusal(node, Role.RECOVERY if Service.POSTGRESQL in here.me.runs else Role.CHECK)
            major = here.database.instance.name.major if here.database is not None else 0
            check(f"PostgreSQL of {node.name} lets this node in", not why, why, turned_away.fix(why, node, major))
            if not why:
                _proves_itself(here, node, check)
        ports = (pgpool.port(here.cluster), WATCHDOG_PORT) if Service.PGPOOL in node.runs else ()
        for port in ports:
            why = _reaches(node.address, port)
            check(f"{node.name} answers on {port}/tcp", not why, why,
                  f"on {node.name}: systemctl status pgpool2; open {port}/tcp between the nodes")  # fmt: skip


def _proves_itself(here: Here, node: Node, check: _Say) -> None:
    why = proof.refused_here(here.cluster, node)
    fix = _CERTIFICATE_FIX if libpq.own_authority(here.cluster) else "pgpoolctl apply"
    check(f"PostgreSQL of {node.name} proves itself by its certificate", not why, why,
          f"on {node.name}: {fix}; an older pgpool2-cluster there is to be upgraded")  # fmt: skip


def _certificate(here: Here, check: _Say) -> None:
    path = (here.cluster.tls or MACHINE_TLS).certificate
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
        left = (certificates.ends(found) - datetime.now(UTC)).days
        why = f"it ends in {left} days" if left < certificates.LEAST_DAYS else ""
    except (OSError, ValueError) as error:
        why = str(error)
    own = "make-ssl-cert generate-default-snakeoil --force-overwrite"
    check(f"the certificate {path} is good", not why, why, _CERTIFICATE_FIX if here.cluster.tls else own)
    if Service.POSTGRESQL in here.me.runs:
        _server_certificate(here, check)


def _server_certificate(here: Here, check: _Say) -> None:
    """Check the certificate that PostgreSQL presents to the other nodes."""
    ca, laid = libpq.own_authority(here.cluster), Laid.here()
    why = "" if ca else certificates.faults(laid.server, laid.authorities, here.me)
    if not why and here.look().up:
        why = proof.refused_here(here.cluster, here.me)
    fix = _CERTIFICATE_FIX if ca else f"no ssl_cert_file under postgresql_conf: in {paths.CLUSTER_YML}; pgpoolctl apply"
    check("the other nodes can check the certificate of PostgreSQL", not why, why, fix)
    known = not here.record.proven or laid.count < _TWO
    check("no former cluster.key is trusted", known, "a node has shown no certificate of the present one yet",
          "put the key on the nodes that other lines name, then pgpoolctl apply there")  # fmt: skip


def _postgresql(here: Here, check: _Say) -> None:
    database = here.server
    instance, facts = database.instance, here.look()
    up = facts.postgresql is Postgresql.UP
    fix = _hint(here, f"systemctl start {instance.unit}")
    absent = "" if up else locales.refused(database.refused)
    if absent:
        fix = f"{locales.making([absent])}; systemctl restart {instance.unit}"
        check(f"PostgreSQL {instance.name} lets users log in", False, f"this machine has no locale {absent}", fix)
    else:
        check(f"PostgreSQL {instance.name} runs", up, _not_up(facts.postgresql, database), fix)
    check("it belongs to the cluster", facts.member, "it is not a member yet", _hint(here, "pgpoolctl status"))
    usage = shutil.disk_usage(instance.data if instance.data.exists() else "/var/lib")
    free = usage.free / usage.total
    check("its disk has space", free >= LEAST_FREE, f"{free:.0%} are free", f"free space below {instance.data}")
    owner = os.geteuid()
    for name in STUBS:
        path = instance.data / name
        good = path.exists() and path.stat().st_uid == owner and os.access(path, os.X_OK)
        check(f"{path.name} is in the data directory, owned by postgres", good or facts.postgresql is Postgresql.ABSENT,
              "missing, or not the cluster's", "pgpoolctl apply")  # fmt: skip
    if not up:
        return
    waiting = restarts.waiting(here)
    check("it runs with its configuration", not waiting, f"{', '.join(waiting.names)} want a restart", waiting.fix)
    room = int(act.query(here, _ROOM)[0][0])
    check("it has room for all connections that pgpool-II may keep", room >= here.cluster.pooled,
          f"{room} are left for {here.cluster.pooled}, and a health check without one takes it for dead",
          "num_init_children or max_pool lower under pgpool:, or max_connections higher under postgresql_conf:, in "
          f"{paths.CLUSTER_YML}; then pgpoolctl apply")  # fmt: skip
    check(f"{instance.configuration}/postgresql.conf includes conf.d", act.includes_drop_in(here),
          "the cluster's parameters are not read", act.INCLUDE_HINT.format(folder=instance.configuration))  # fmt: skip
    for extension in ("pgpool_recovery",):
        known = act.query(here, "SELECT 1 FROM pg_available_extensions WHERE name = %s", extension)
        check(f"the extension {extension} is installed", bool(known), "its files are missing",
              f"apt install postgresql-{instance.name.major}-pgpool2")  # fmt: skip
    overridden = [str(name) for (name,) in act.query(here, _OVERRIDDEN)]
    check("nothing overrides the cluster's parameters", not overridden, f"{', '.join(overridden)} by ALTER SYSTEM",
          "; ".join(f"ALTER SYSTEM RESET {name}" for name in overridden))  # fmt: skip
    check("commits wait for the standbys that they are to wait for", facts.laid, "synchronous_standby_names differ",
          "pgpoolctl apply")  # fmt: skip
    _sorting(here, check)
    lost = [str(name) for (name,) in act.query(here, _LOST)]
    check("no replication slot has lost its WAL", not lost, ", ".join(lost),
          "; ".join(f"pgpoolctl recover {name}" for name in lost))  # fmt: skip
    mount = os.statvfs(instance.data)
    check("programs can be run in its data directory, as pgpool-II's recovery does", not mount.f_flag & os.ST_NOEXEC,
          "it is mounted noexec", f"mount -o remount,exec the file system of {instance.data}")  # fmt: skip
    if facts.writable and facts.member:
        _roles(here, check)
    rewindable = act.query(
        here, "SELECT current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on'"
    )[0][0]
    check("pg_rewind can be used", bool(rewindable), "neither wal_log_hints nor data checksums are on",
          f"systemctl restart {instance.unit}")  # fmt: skip
    _replication(here, facts, check)


def _replication(here: Here, facts: NodeFacts, check: _Say) -> None:
    """Check the slots and WAL that a primary keeps for its standbys, or whether a standby follows and can take over."""
    if facts.writable and facts.member and here.cluster.mode.streams:
        wanted = {node.slot for node in here.cluster.databases if node != here.me}
        missing = ", ".join(sorted(wanted - facts.slots))
        what = "there is a replication slot for each standby"
        check(what, not missing, f"{missing} missing", "pgpoolctl converge --once")
        held = wal_space.held(here)
        check("no node that is away fills the disk with WAL", held is None, str(held), held.hint if held else "")
    if facts.in_recovery:
        why = here.note or "it does not stream"
        check("it receives from the primary", facts.streaming, why, _hint(here, "pgpoolctl status"))
        check("it replays what it receives", not facts.stalled, facts.stalled, replay.hint(facts))
    if facts.in_recovery and facts.follows:
        _as_its_primary(here, here.cluster.named(facts.follows), check)


def _as_its_primary(here: Here, primary: Node, check: _Say) -> None:
    """Check whether a failover to this standby would lose settings that a copy does not include."""
    lost = adopting.lost(here, primary)
    names, write = ", ".join(lost.libraries), f"under postgresql_conf: in {paths.CLUSTER_YML}, on every node"
    check(f"it preloads what {primary.name} preloads", not names, f"{names} would be gone after a failover",
          f"apt install the packages of {names}; shared_preload_libraries {write}; pgpoolctl apply; "
          f"systemctl restart {here.server.instance.unit}")  # fmt: skip
    if here.cluster.mode.streams:
        check(f"it archives as {primary.name} does", not lost.archive,
              f"after a failover no server would run {lost.archive}",
              f"archive_mode and archive_command {write}; pgpoolctl apply; systemctl restart "
              f"{here.server.instance.unit}")  # fmt: skip


def _not_up(state: Postgresql, database: Database) -> str:
    """Return the state of a server that is not up, with the server's own reason; "" if it is up."""
    if state is Postgresql.UP:
        return ""
    said = database.refused.splitlines()[:1] if state is Postgresql.STARTING else []
    reason = server_log.last_words(database.instance) if state is Postgresql.DOWN else "".join(said)
    return f"{state}: {reason}" if reason else str(state)


def _roles(here: Here, check: _Say) -> None:
    """Check whether the cluster's own roles, and pgpool-II's users, can log in to the primary."""
    check("the cluster's roles have the key's passwords", Roles.rendered().laid(here), "they have others",
          "pgpoolctl apply, here")  # fmt: skip
    own = here.look().own_database
    check("the cluster's roles have a database of their own", own, "it is missing, or shut to them",
          "pgpoolctl converge --once makes it; pgpoolctl status tells why not")  # fmt: skip
    _say(check, "pgpool-II's users can log in", logins.refused(here, Users.load(paths.USERS).entries))


def _sorting(here: Here, check: _Say) -> None:
    """Check whether indexes of texts have the sort order of this machine's C library or ICU."""
    names = [str(name) for (name,) in act.query(here, locales.versions(here.server.instance))]
    shown = ", ".join(names)
    if here.look().in_recovery:
        fix = "the Debian release of the primary, here; else REINDEX DATABASE there once both have the new one"
    else:
        fix = "; ".join(f'REINDEX DATABASE "{one}"; ALTER DATABASE "{one}" REFRESH COLLATION VERSION' for one in names)
    check("texts sort here as in the indexes of the databases", not names,
          f"{shown}: the C library or ICU has another order here, so a query may miss rows", fix)  # fmt: skip


def _archive(here: Here, check: _Say) -> None:
    usage = archive.usage(paths.ARCHIVE)
    check(f"the archive {paths.ARCHIVE} is there", usage is not None, "postgres cannot look into it", "pgpoolctl apply")
    if usage is not None:
        free = 1 - usage.used
        check("the archive has space", free >= LEAST_FREE, f"{free:.0%} of its disk are free",
              f"a larger disk at {paths.ARCHIVE}; or compress: true, or fewer keep_hours, under archive: in "
              f"{paths.CLUSTER_YML}, then pgpoolctl apply")  # fmt: skip
    if here.look().up:
        failed = [str(name) for (name,) in act.query(here, _ARCHIVER)]
        check("archiving goes on", not failed, f"{', '.join(failed)} could not be archived",
              f"its log (pg_lsclusters names it) has why; df {paths.ARCHIVE}; ls -ld {paths.ARCHIVE}")  # fmt: skip


def _pgpool(here: Here, check: _Say) -> None:
    facts = here.look()
    state = units.state(paths.PGPOOL_UNIT)
    why = here.note or f"the unit is {state.active}"
    fix = _hint(here, f"systemctl status {paths.PGPOOL_UNIT}")
    check("pgpool-II runs", facts.pgpool is not None, why, fix)
    if facts.pgpool is None:
        return
    check("pgpool-II runs with cluster.key as it is laid down", not pgpool.of_another_key(facts.key),
          "it was started with another one",
          "pgpoolctl apply on the other nodes; it is restarted by itself then")  # fmt: skip
    entries = Users.load(paths.USERS).entries
    _say(check, "pgpool-II can read the passwords of its users", logins.unreadable(entries))
    check("the watchdog has its quorum", facts.pgpool.quorum, "too few pgpool-IIs see each other",
          "start pgpool-II on more nodes; 9000/tcp and 9694/udp must be open between them")  # fmt: skip
    for name, belief in facts.pgpool.backends.items():
        check(f"pgpool-II sends clients to {name}", belief == "up", f"it is {belief}",
              f"pgpoolctl attach {name}, or pgpoolctl recover {name}")  # fmt: skip
