"""Predict what an installation would do to an existing server, before it changes anything. Pure; before.py has the I/O.

1. Input: the server's current state (`Seen`) and the cluster's configuration for it (`Plan`). Output: findings.
2. kept: a value of the server that is higher than the cluster's or overrides it, and everything that stays the same.
3. changed, restart: a parameter with its old and new value, a pg_hba line that loses its effect, a new role.
4. missing: something the cluster needs and the machine lacks. Nothing is lost, so the installation proceeds.
5. refused: something would be lost, or PostgreSQL would not start again; `fix` is the line to write.
6. While anything is refused, `apply` writes nothing on a new node, and the agent says so. `check --before` shows all.
7. A parameter that cluster.yml sets under postgresql_conf is the administrator's decision. It is refused only if
   PostgreSQL would not start with it.
8. A server that is not running is judged by its files alone: less is known then, and nothing is guessed.
9. Rendering uses the higher of two values (keep.py), so a rehearsal sees that value as kept.
10. `unstartable` runs again before the one restart, with the values that the server would then start with.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from . import keep, paths, plain
from .fault import Fault
from .own import NOTHING, Own
from .rendered_paths import MACHINE_TLS

_KEPT = frozenset(
    (
        "wal_level",
        "max_connections",
        "max_wal_senders",
        "max_replication_slots",
        "max_slot_wal_keep_size",
        "wal_keep_size",
        "archive_command",
        "archive_mode",
    )
)
"""Parameters that a rehearsal mentions if the server's own value is kept."""
_VITAL = ("listen_addresses", "ssl", "hot_standby", "max_wal_senders", "max_replication_slots", "primary_slot_name")
"""Parameters that need the cluster's value, or a higher one; otherwise no standby can follow."""
_PASSWORDS = ("scram-sha-256", "md5", "password")
_OVERRIDES = ("command line", "environment variable", "override")
_AUTO = "postgresql.auto.conf"
_HOST_TYPES = ("host", "hostssl")


class Kind(StrEnum):
    """The effect of the installation on a part of the server."""

    KEPT = "kept"
    CHANGED = "changed"
    RESTART = "restart"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a rehearsal, given by str(); `fix`: what to write or type."""

    kind: Kind
    area: str
    what: str
    fix: str = ""

    @property
    def lost(self) -> bool:
        """Whether it makes a rehearsal fail."""
        return self.kind in (Kind.MISSING, Kind.REFUSED)

    @property
    def json(self) -> dict[str, str]:
        """The format in docs/reference/pgpoolctl.md."""
        values = {"kind": str(self.kind), "area": self.area, "what": self.what}
        return {**values, "fix": self.fix} if self.fix else values

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.area}: {self.what}" + (f"; fix: {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of the running server, from pg_settings."""

    value: str
    unit: str = ""
    context: str = "sighup"
    source: str = "default"
    file: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot; `held`: how many bytes of WAL it keeps."""

    name: str
    logical: bool
    held: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of pg_hba.conf, from pg_hba_file_rules."""

    line: int
    type: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    mask: str
    method: str

    def __str__(self) -> str:
        address = f"{self.address}/{self.mask}" if self.mask else self.address
        words = (self.type, ",".join(self.databases), ",".join(self.users), address, self.method)
        return f"line {self.line}, `{' '.join(filter(None, words))}`"


@dataclass(frozen=True, slots=True)
class Seen:
    """The current state of a server and its machine; unknown values are empty.

    `silent`: why a running server did not answer queries of postgres. `home`: the database postgres accepts
    connections. `own`: its configuration files. `roles`: the existing roles. `lacking`: extensions that are not
    installed. `faults`: PostgreSQL's errors in its own files. `held`: ports in use by other programs, with the
    program. `kept_out`: what keeps other nodes from logging in as postgres (doors.py).
    """

    running: bool = False
    silent: str = ""
    home: bool = True
    own: Own = NOTHING
    settings: Mapping[str, Setting] = field(default_factory=dict)
    slots: tuple[Slot, ...] = ()
    prepared: int = 0
    rules: tuple[Rule, ...] = ()
    roles: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)
    kept_out: tuple[Fault, ...] = ()
    data_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The configuration that `apply` would write.

    `parameters`: those in the cluster's file; `wished`: the ones among them that cluster.yml itself sets. `ports`: the
    cluster's ports, such as `9999/tcp`, with their purpose. `nodes`: addresses whose TLS connections match the
    cluster's lines in pg_hba.conf. `slots`: slots of the cluster's nodes, which may be limited. `roles`: the cluster's
    roles with their purpose. `folder`: the server's configuration folder.
    """

    parameters: Mapping[str, str]
    wished: frozenset[str] = frozenset()
    streams: bool = True
    own_certificate: bool = False
    ports: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    slots: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/etc/postgresql"
    file: str = str(paths.CLUSTER_YML)


def written(name: str, value: str, file: str) -> str:
    """Return the line of cluster.yml that sets a parameter."""
    shown = json.dumps(value) if any(sign in value for sign in ",:#{}[]'\" ") else value
    return f"postgresql_conf: {{{name}: {shown}}} in {file}"


def findings(seen: Seen, plan: Plan) -> list[Finding]:
    """Return all findings, the refused ones first."""
    subjects = (
        _included,
        _readable,
        _faults,
        _startable,
        _slots_cut_short,
        _precious,
        _parameters,
        _archive,
        _rules,
        _roles,
        _machine,
    )
    every = [finding for subject in subjects for finding in subject(seen, plan)]
    order = list(reversed(Kind))
    return sorted(dict.fromkeys(every), key=lambda finding: order.index(finding.kind))


def _included(seen: Seen, plan: Plan) -> Iterator[Finding]:
    if not seen.own.includes:
        what = "it does not include conf.d, so the cluster's parameters are not read"
        fix = f"add the line include_dir = 'conf.d' at the end of {plan.folder}/postgresql.conf"
        yield Finding(Kind.REFUSED, "postgresql.conf", what, fix)


def _readable(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Refuse a server that answers no queries, because it may have settings that must be kept."""
    if seen.silent:
        fix = f"local all postgres peer as the first line of {plan.folder}/pg_hba.conf; pg_ctlcluster reload"
        yield Finding(Kind.REFUSED, "PostgreSQL", f"it is running, but postgres cannot query it: {seen.silent}", fix)
    if not seen.home:
        fix = "CREATE DATABASE postgres, or ALTER DATABASE postgres ALLOW_CONNECTIONS true"
        yield Finding(Kind.REFUSED, "the database postgres", "it does not exist, or accepts no connections", fix)


def _faults(seen: Seen, _: Plan) -> Iterator[Finding]:
    for fault in seen.faults:
        what = f"PostgreSQL would not start again: {fault}"
        yield Finding(Kind.REFUSED, "postgresql.conf", what, "correct that file")


def _startable(seen: Seen, plan: Plan) -> Iterator[Finding]:
    yield from unstartable(_values(seen, plan), seen.slots, seen.prepared, plan.file)


STARTING = ("wal_level", "max_replication_slots", "max_prepared_transactions")
"""The parameters that `unstartable` checks."""


def unstartable(
    values: Mapping[str, str], slots: Sequence[Slot], prepared: int, file: str = str(paths.CLUSTER_YML)
) -> Iterator[Finding]:
    """Yield what would keep a server from starting with these values; other parameters are not checked."""
    wal_level = values.get("wal_level", "")
    logical = [slot.name for slot in slots if slot.logical]
    if logical and wal_level and wal_level != "logical":
        what = f"replication slot {', '.join(logical)} needs logical, and it would be {wal_level}"
        yield Finding(Kind.REFUSED, "wal_level", what, written("wal_level", "logical", file))
    if wal_level == "minimal":
        what = "it would be minimal, and no standby could follow"
        fix = "ALTER SYSTEM RESET wal_level, and no wal_level in a line after include_dir"
        yield Finding(Kind.REFUSED, "wal_level", what, fix)
    for name, needed, reason in (
        ("max_replication_slots", len(slots), "replication slots exist"),
        ("max_prepared_transactions", prepared, "prepared transactions exist"),
    ):
        value = values.get(name, "")
        if value.isdigit() and int(value) < needed:
            what = f"{needed} {reason}, and it would be {value}"
            yield Finding(Kind.REFUSED, name, what, written(name, str(needed), file))


def _values(seen: Seen, plan: Plan) -> dict[str, str]:
    """Return the values that the server would start with: those that stay, and those that `apply` writes."""
    now = {name: setting.value for name, setting in seen.settings.items()}
    laid = {name: value for name, value in plan.parameters.items() if not _stays(seen, name)}
    return {**seen.own.values, **now, **laid}


def _stays(seen: Seen, name: str) -> str:
    """Return what sets a parameter so that it overrides the cluster's file; "" if nothing does."""
    there = seen.settings.get(name)
    if there is not None and there.file.endswith(_AUTO):
        return "ALTER SYSTEM"
    if there is not None and there.source in _OVERRIDES:
        return f"the {there.source}"
    return "a line after include_dir" if name in seen.own.later else ""


def _slots_cut_short(seen: Seen, plan: Plan) -> Iterator[Finding]:
    name = "max_slot_wal_keep_size"
    most = keep.quantity(_values(seen, plan).get(name, ""), "MB")
    for slot in seen.slots:
        if most is not None and 0 <= most < slot.held and slot.name not in plan.slots:
            what = f"replication slot {slot.name} keeps {slot.held >> 20} MB, and would become invalid"
            fix = f"{written(name, '-1', plan.file)}, or let its subscriber catch up"
            yield Finding(Kind.REFUSED, name, what, fix)


def _precious(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Yield deliberate settings in the server's own files that the cluster's file would override."""
    known = {name: value for name, value in seen.own.values.items() if name not in plan.wished}
    if not plan.streams:
        yield from _archived_by_alter_system(seen, plan)
    own = {name: value for name, value in known.items() if name not in seen.own.later}
    names = own.get("synchronous_standby_names", "")
    if names and plan.streams:
        line = written("synchronous_standby_names", names, plan.file)
        fix = f"remove it, since `synchronous` in {plan.file} makes commits wait for the nodes, or {line}"
        what = f"commits wait for {names}, and no longer would"
        yield Finding(Kind.REFUSED, "synchronous_standby_names", what, fix)
    certificate = own.get("ssl_cert_file", MACHINE_TLS.certificate)
    if certificate != MACHINE_TLS.certificate and not plan.own_certificate:
        key = own.get("ssl_key_file", "KEY")
        what = f"clients that verify {certificate} would get the cluster's own certificate"
        tls = f"tls: {{certificate: {certificate}, key: {key}, ca: FILE OF ITS AUTHORITY}}"
        yield Finding(Kind.REFUSED, "ssl_cert_file", what, f"{tls} in {plan.file}, or remove it")
    if known.get("archive_library") and not plan.streams:
        what = f"{known['archive_library']} and the cluster's archive_command exclude each other"
        fix = "an archive_command in its place, which runs after the cluster's"
        yield Finding(Kind.REFUSED, "archive_library", what, fix)


def _archived_by_alter_system(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Yield settings by ALTER SYSTEM that override the cluster's archive, which recovery reads."""
    for name in ("archive_command", "archive_library", "archive_mode", "restore_command"):
        there = seen.settings.get(name)
        if there is None or name in plan.wished or not there.value or _stays(seen, name) != "ALTER SYSTEM":
            continue
        if name != "archive_mode" or there.value == "off":
            what = f"{there.value}, by ALTER SYSTEM, would keep the cluster's archive empty"
            line = f" and {name} = '{there.value}' in {plan.folder}/conf.d/00-archive.conf" if "command" in name else ""
            yield Finding(Kind.REFUSED, name, what, f"ALTER SYSTEM RESET {name}{line}")


def _parameters(seen: Seen, plan: Plan) -> Iterator[Finding]:
    for name, new in plan.parameters.items():
        there = seen.settings.get(name.lower())
        if there is None:
            if seen.settings and name in plan.wished and "." not in name:
                what = "this PostgreSQL has no such parameter, and would not start with it"
                yield Finding(Kind.REFUSED, name, what, f"remove it from postgresql_conf: in {plan.file}")
            continue
        by = _stays(seen, name)
        same = _same(there, new)
        if same and name in _KEPT and name in seen.own.values and _is_own(seen, name, new):
            yield Finding(Kind.KEPT, name, there.value + there.unit)
        elif by and not same:
            yield _overridden(name, there, new, by, plan)
        elif not same:
            kind = Kind.RESTART if there.context == "postmaster" else Kind.CHANGED
            yield Finding(kind, name, f"{_shown(there)} to {new or 'none'}")
    preload = keep.libraries(seen.settings["shared_preload_libraries"].value) if seen.settings else []
    if preload:
        text = ", ".join(preload)
        yield Finding(Kind.KEPT, "shared_preload_libraries", f"{text}; every node needs the packages of these")


def _is_own(seen: Seen, name: str, new: str) -> bool:
    return _comparable(seen.own.values.get(name, ""), "MB") == _comparable(new, "MB")


def _overridden(name: str, there: Setting, new: str, by: str, plan: Plan) -> Finding:
    own, ours = keep.quantity(there.value, there.unit), keep.quantity(new, there.unit)
    enough = own is not None and ours is not None and own >= ours
    if name not in _VITAL or enough:
        return Finding(Kind.KEPT, name, f"{_shown(there)}, by {by}; the cluster's would be {new}")
    fix = f"ALTER SYSTEM RESET {name}" if by == "ALTER SYSTEM" else f"remove it from {plan.folder}"
    return Finding(Kind.MISSING, name, f"{_shown(there)} by {by}, but the cluster needs {new}", fix)


def _shown(there: Setting) -> str:
    unit = f" x {there.unit}" if there.unit[:1].isdigit() else there.unit
    return there.value + (unit if there.value.isdigit() else "") or "none"


def _same(there: Setting, new: str) -> bool:
    return _comparable(there.value, there.unit) == _comparable(new, there.unit)


def _comparable(text: str, unit: str) -> float | str:
    found = keep.quantity(text, unit)
    word = text.strip().lower()
    return found if found is not None else {"true": "on", "yes": "on", "false": "off", "no": "off"}.get(word, text)


def _archive(seen: Seen, plan: Plan) -> Iterator[Finding]:
    command = keep.archiver(seen.own) or seen.own.values.get("archive_library", "")
    if not command or {"archive_command", "archive_library"} & plan.wished:
        return
    if plan.streams:
        line = f"postgresql_conf: {{archive_mode: on, archive_command: {json.dumps(command)}}} in {plan.file}"
        yield Finding(Kind.KEPT, "archive", f"{command}; other nodes archive after a failover only with {line}")
    else:
        yield Finding(Kind.KEPT, "archive", f"{command}, run after the cluster's own")


def _rules(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Yield the lines of pg_hba.conf that lose their effect to the cluster's lines at the top."""
    for node in plan.nodes:
        for rule in seen.rules:
            if rule.type not in _HOST_TYPES or not _covers(rule, node):
                continue
            if rule.method not in _PASSWORDS:
                what = f"{rule}: connections over TLS from nodes are asked for a password in its place"
                yield Finding(Kind.CHANGED, "pg_hba.conf", what)
            if "all" in rule.databases and "all" in rule.users:
                break
    for rule in seen.rules:
        if rule.type == "local" and {"all", "postgres"} & set(rule.users):
            if rule.method != "peer":
                what = f"{rule}: the role postgres is authenticated by its system user in its place (peer)"
                yield Finding(Kind.CHANGED, "pg_hba.conf", what)
            break


def _covers(rule: Rule, node: str) -> bool:
    if rule.address in ("all", "samenet", "samehost"):
        return True
    address, mask = plain.address(node), rule.mask
    try:
        return address in ipaddress.ip_network(f"{rule.address}/{_prefix(mask)}" if mask else rule.address, False)
    except ValueError:
        return False


def _prefix(mask: str) -> str:
    """Return a mask in the format of ip_network, which accepts an IPv6 mask only as a number of bits."""
    return str(int(ipaddress.ip_address(mask)).bit_count()) if ":" in mask else mask


def _roles(seen: Seen, plan: Plan) -> Iterator[Finding]:
    for name, what in plan.roles.items():
        is_there = name in seen.roles
        yield Finding(Kind.CHANGED, "roles", f"{name}, {what}, {'gets another password' if is_there else 'is created'}")


def _machine(seen: Seen, plan: Plan) -> Iterator[Finding]:
    for port, program in seen.held.items():
        if port in plan.ports:
            what = f"{port}, for {plan.ports[port]}, is taken by {program}"
            yield Finding(Kind.MISSING, "ports", what, f"stop {program}, or another port in {plan.file}")
    for name in seen.lacking:
        yield Finding(Kind.MISSING, "extensions", f"{name} is not installed", "apt install postgresql-N-pgpool2")
    for fault in seen.kept_out:
        yield Finding(Kind.MISSING, "login over ssh", fault.why, fault.fix)
    if seen.free_bytes is not None:
        size = f"a copy of its data needs {seen.data_bytes >> 20} MB on every other node; " if seen.data_bytes else ""
        yield Finding(Kind.KEPT, "disk", f"{size}{seen.free_bytes >> 20} MB are free here")
