"""What an installation would do to a server as it is, told before anything is changed. Pure; before.py has the edge.

1. In: the server as it is (`Seen`) and what is laid down on it (`Plan`). Out: findings, each of one kind.
2. kept: a value of the server's that is higher than the cluster's, or wins over it, and what goes on as before.
3. changed, restart: a parameter with its old and new value, a pg_hba line with another answer, a role that is made.
4. missing: what the cluster needs and the machine has not; nothing is lost, so the installation goes on and says so.
5. refused: what would be lost, or would keep PostgreSQL from starting again; `fix` is the line to write.
6. `apply` lays nothing down on a new node while anything is refused, and the agent says it; `check --before` says all.
7. A parameter that cluster.yml names under postgresql_conf is the administrator's word, and refused only where
   PostgreSQL would not start with it.
8. A server that does not run is judged by its files alone: less is known then, and nothing is guessed.
9. The higher of two values is taken where configuration is rendered (keep.py), so a rehearsal sees it as kept.
10. `unstartable` is asked once more before the one restart, with the values that the server would then start with.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from . import keep, paths, plain
from .configuration import MACHINE_TLS
from .fault import Fault
from .own import NOTHING, Own

_KEPT = frozenset(
    ("wal_level", "max_connections", "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size",
     "wal_keep_size", "archive_command", "archive_mode")
)  # fmt: skip
"""Parameters whose own value is worth a word where it is kept."""
_VITAL = ("listen_addresses", "ssl", "hot_standby", "max_wal_senders", "max_replication_slots", "primary_slot_name")
"""Without the cluster's value, or a higher one, no standby can follow."""
_PASSWORDS = ("scram-sha-256", "md5", "password")
_OVERRIDES = ("command line", "environment variable", "override")
_AUTO = "postgresql.auto.conf"
_HOST_TYPES = ("host", "hostssl")


class Kind(StrEnum):
    """What becomes of something."""

    KEPT = "kept"
    CHANGED = "changed"
    RESTART = "restart"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a rehearsal; `fix`: what to write or type. str() is the line."""

    kind: Kind
    area: str
    what: str
    fix: str = ""

    @property
    def lost(self) -> bool:
        """Whether a rehearsal fails for it."""
        return self.kind in (Kind.MISSING, Kind.REFUSED)

    @property
    def json(self) -> dict[str, str]:
        """The shape in docs/reference/pgpoolctl.md."""
        found = {"kind": str(self.kind), "area": self.area, "what": self.what}
        return {**found, "fix": self.fix} if self.fix else found

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.area}: {self.what}" + (f"; fix: {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of the running server, as pg_settings has it."""

    value: str
    unit: str = ""
    context: str = "sighup"
    source: str = "default"
    file: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot, with the bytes of WAL that it holds back."""

    name: str
    logical: bool
    held: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of pg_hba.conf, as pg_hba_file_rules has it."""

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
    """A server and its machine as they are; empty where nothing is known.

    `silent`: why a server that takes connections did not let postgres ask. `home`: the database postgres takes
    connections. `own`: its configuration files. `roles`: those of the cluster's that exist. `lacking`: extensions that
    are not installed. `faults`: what PostgreSQL says against its own files. `held`: other programs' ports, with the
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
    """What is laid down: the cluster's `parameters`, of which cluster.yml itself names the `wished` ones.

    `ports`: `9999/tcp` with what it is for. `nodes`: addresses whose TLS connections the cluster's lines of pg_hba.conf
    answer. `slots`: those of the cluster's nodes, whose limit that is. `roles`: what is made of which role. `folder`:
    that of the server's configuration.
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
    """Return all findings, what is refused first."""
    works = (_included, _askable, _faults, _startable, _slots_cut_short, _precious, _parameters, _archive, _rules,
             _roles, _machine)  # fmt: skip
    found = [one for work in works for one in work(seen, plan)]
    order = list(reversed(Kind))
    return sorted(dict.fromkeys(found), key=lambda one: order.index(one.kind))


def _included(seen: Seen, plan: Plan) -> Iterator[Finding]:
    if not seen.own.includes:
        yield Finding(
            Kind.REFUSED, "postgresql.conf", "it does not include conf.d, so the cluster's parameters are not read",
            f"add the line include_dir = 'conf.d' at the end of {plan.folder}/postgresql.conf",
        )  # fmt: skip


def _askable(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """A server that answers no question may hold what has to be kept, so it is refused."""
    if seen.silent:
        fix = f"local all postgres peer as the first line of {plan.folder}/pg_hba.conf; pg_ctlcluster reload"
        yield Finding(Kind.REFUSED, "PostgreSQL", f"it runs, and postgres cannot ask it: {seen.silent}", fix)
    if not seen.home:
        fix = "CREATE DATABASE postgres, or ALTER DATABASE postgres ALLOW_CONNECTIONS true"
        yield Finding(Kind.REFUSED, "the database postgres", "it is not there, or takes no connections", fix)


def _faults(seen: Seen, _: Plan) -> Iterator[Finding]:
    for fault in seen.faults:
        what = f"PostgreSQL would not start again: {fault}"
        yield Finding(Kind.REFUSED, "postgresql.conf", what, "correct that file")


def _startable(seen: Seen, plan: Plan) -> Iterator[Finding]:
    yield from unstartable(_values(seen, plan), seen.slots, seen.prepared, plan.file)


STARTING = ("wal_level", "max_replication_slots", "max_prepared_transactions")
"""The parameters that `unstartable` judges."""


def unstartable(
    values: Mapping[str, str], slots: Sequence[Slot], prepared: int, file: str = str(paths.CLUSTER_YML)
) -> Iterator[Finding]:
    """Yield what keeps a server from starting with these values; a parameter that is not among them is not judged."""
    wal_level = values.get("wal_level", "")
    logical = [slot.name for slot in slots if slot.logical]
    if logical and wal_level and wal_level != "logical":
        what = f"replication slot {', '.join(logical)} needs logical, and it would be {wal_level}"
        yield Finding(Kind.REFUSED, "wal_level", what, written("wal_level", "logical", file))
    if wal_level == "minimal":
        what = "it would be minimal, with which no standby can follow"
        fix = "ALTER SYSTEM RESET wal_level, and no wal_level in a line behind include_dir"
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
    """Return the values that the server would start with: what stays, and what is laid down."""
    now = {name: setting.value for name, setting in seen.settings.items()}
    laid = {name: value for name, value in plan.parameters.items() if not _stays(seen, name)}
    return {**seen.own.values, **now, **laid}


def _stays(seen: Seen, name: str) -> str:
    """Return what sets a parameter in a place that wins over the cluster's file; "" if nothing does."""
    there = seen.settings.get(name)
    if there is not None and there.file.endswith(_AUTO):
        return "ALTER SYSTEM"
    if there is not None and there.source in _OVERRIDES:
        return f"the {there.source}"
    return "a line behind include_dir" if name in seen.own.later else ""


def _slots_cut_short(seen: Seen, plan: Plan) -> Iterator[Finding]:
    name = "max_slot_wal_keep_size"
    most = keep.quantity(_values(seen, plan).get(name, ""), "MB")
    for slot in seen.slots:
        if most is not None and 0 <= most < slot.held and slot.name not in plan.slots:
            what = f"replication slot {slot.name} holds back {slot.held >> 20} MB, and would lose its place"
            yield Finding(Kind.REFUSED, name, what, f"{written(name, '-1', plan.file)}, or let the slot be read")


def _precious(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Yield what the server's own files say on purpose, and the cluster's file would take away."""
    known = {name: value for name, value in seen.own.values.items() if name not in plan.wished}
    if not plan.streams:
        yield from _archived_by_alter_system(seen, plan)
    own = {name: value for name, value in known.items() if name not in seen.own.later}
    names = own.get("synchronous_standby_names", "")
    if names and plan.streams:
        yield Finding(
            Kind.REFUSED, "synchronous_standby_names", f"commits wait for {names}, and would no longer",
            f"remove it, as `synchronous` in {plan.file} has the nodes waited for, or "
            f"{written('synchronous_standby_names', names, plan.file)}",
        )  # fmt: skip
    certificate = own.get("ssl_cert_file", MACHINE_TLS.certificate)
    if certificate != MACHINE_TLS.certificate and not plan.own_certificate:
        key = own.get("ssl_key_file", "KEY")
        yield Finding(
            Kind.REFUSED, "ssl_cert_file", f"clients that check {certificate} would be shown the cluster's own",
            f"tls: {{certificate: {certificate}, key: {key}, ca: FILE OF ITS AUTHORITY}} in {plan.file}, or remove it",
        )  # fmt: skip
    if known.get("archive_library") and not plan.streams:
        yield Finding(
            Kind.REFUSED, "archive_library", f"{known['archive_library']} and the cluster's archive_command exclude "
            "each other", "an archive_command in its place, which goes on beside the cluster's",
        )  # fmt: skip


def _archived_by_alter_system(seen: Seen, plan: Plan) -> Iterator[Finding]:
    """Yield what wins over the cluster's archive, which recovery reads."""
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
                what = "this PostgreSQL knows no such parameter, and would not start with it"
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
    higher = keep.quantity(there.value, there.unit), keep.quantity(new, there.unit)
    enough = None not in higher and (higher[0] or 0) >= (higher[1] or 0)
    if name not in _VITAL or enough:
        return Finding(Kind.KEPT, name, f"{_shown(there)}, by {by}; the cluster's would be {new}")
    fix = f"ALTER SYSTEM RESET {name}" if by == "ALTER SYSTEM" else f"remove it from {plan.folder}"
    return Finding(Kind.MISSING, name, f"{_shown(there)} by {by}, and the cluster needs {new}", fix)


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
    """Yield the lines of pg_hba.conf that the cluster's lines at the top answer in place of."""
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
                what = f"{rule}: the role postgres is known by its system user in its place (peer)"
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
    """Return a mask as ip_network takes it: one of IPv6 as a number of bits."""
    return str(int(ipaddress.ip_address(mask)).bit_count()) if ":" in mask else mask


def _roles(seen: Seen, plan: Plan) -> Iterator[Finding]:
    for name, what in plan.roles.items():
        is_there = name in seen.roles
        yield Finding(Kind.CHANGED, "roles", f"{name}, {what}, {'gets another password' if is_there else 'is made'}")


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
