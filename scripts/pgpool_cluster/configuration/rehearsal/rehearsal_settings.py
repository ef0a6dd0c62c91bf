"""Find the parameters that an installation keeps, changes, or must not take away. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...decision.facts import quantities
from ..rendering import keep
from ..rendering.rendered_paths import MACHINE_TLS
from .existing_server import ExistingServer, PlannedConfiguration, Setting, overriding, values_after
from .finding import Finding, Kind, written

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


def slots_cut_short(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield the replication slots that would become invalid, because they keep more WAL than would be allowed."""
    name = "max_slot_wal_keep_size"
    most = quantities.quantity(values_after(seen, plan).get(name, ""), "MB")
    for slot in seen.slots:
        if most is not None and 0 <= most < slot.held and slot.name not in plan.slots:
            what = f"replication slot {slot.name} keeps {slot.held >> 20} MB, and would become invalid"
            fix = f"{written(name, '-1', plan.file)}, or let its subscriber catch up"
            yield Finding(Kind.REFUSED, name, what, fix)


def precious(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield deliberate settings in the server's own files that the cluster's file would override."""
    known = {name: value for name, value in seen.own.values.items() if name not in plan.wished}
    if not plan.streams:
        yield from _archived_by_alter_system(seen, plan)
    own = {name: value for name, value in known.items() if name not in seen.own.later}
    names = own.get("synchronous_standby_names", "")
    if names and plan.streams:
        line = written("synchronous_standby_names", names, plan.file)
        fix = f"remove it, since `synchronous` in {plan.file} makes commits wait for the nodes, or {line}"
        what = f"commits wait for {names}now, and would no longer do so"
        yield Finding(Kind.REFUSED, "synchronous_standby_names", what, fix)
    certificate = own.get("ssl_cert_file", MACHINE_TLS.certificate)
    if certificate != MACHINE_TLS.certificate and not plan.own_certificate:
        key = own.get("ssl_key_file", "KEY")
        what = f"clients that verify {certificate} would get the cluster's own certificate"
        tls = f"tls: {{certificate: {certificate}, key: {key}, ca: FILE OF ITS AUTHORITY}}"
        yield Finding(Kind.REFUSED, "ssl_cert_file", what, f"{tls} in {plan.file}, or remove it")
    if known.get("archive_library") and not plan.streams:
        what = f"{known['archive_library']} and the cluster's archive_command exclude each other"
        fix = "use archive_command instead, which runs after the cluster's"
        yield Finding(Kind.REFUSED, "archive_library", what, fix)


def _archived_by_alter_system(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield settings by ALTER SYSTEM that override the cluster's archive, which recovery reads."""
    for name in ("archive_command", "archive_library", "archive_mode", "restore_command"):
        there = seen.settings.get(name)
        if there is None or name in plan.wished or not there.value or overriding(seen, name) != "ALTER SYSTEM":
            continue
        if name != "archive_mode" or there.value == "off":
            what = f"{there.value}, by ALTER SYSTEM, would keep the cluster's archive empty"
            line = f" and {name} = '{there.value}' in {plan.folder}/conf.d/00-archive.conf" if "command" in name else ""
            yield Finding(Kind.REFUSED, name, what, f"ALTER SYSTEM RESET {name}{line}")


def parameters(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield the parameters that stay, change, or override what the cluster needs."""
    for name, new in plan.parameters.items():
        there = seen.settings.get(name.lower())
        if there is None:
            if seen.settings and name in plan.wished and "." not in name:
                what = "this PostgreSQL has no such parameter, and would not start with it"
                yield Finding(Kind.REFUSED, name, what, f"remove it from postgresql_conf: in {plan.file}")
            continue
        by = overriding(seen, name)
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


def _is_own(seen: ExistingServer, name: str, new: str) -> bool:
    return _comparable(seen.own.values.get(name, ""), "MB") == _comparable(new, "MB")


def _overridden(name: str, there: Setting, new: str, by: str, plan: PlannedConfiguration) -> Finding:
    own, ours = quantities.quantity(there.value, there.unit), quantities.quantity(new, there.unit)
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
    found = quantities.quantity(text, unit)
    word = text.strip().lower()
    return found if found is not None else {"true": "on", "yes": "on", "false": "off", "no": "off"}.get(word, text)


def archive(seen: ExistingServer, plan: PlannedConfiguration) -> Iterator[Finding]:
    """Yield the server's own archiving, if it continues."""
    command = keep.archiver(seen.own) or seen.own.values.get("archive_library", "")
    if not command or {"archive_command", "archive_library"} & plan.wished:
        return
    if plan.streams:
        line = f"postgresql_conf: {{archive_mode: on, archive_command: {json.dumps(command)}}} in {plan.file}"
        yield Finding(Kind.KEPT, "archive", f"{command}; other nodes archive after a failover only with {line}")
    else:
        yield Finding(Kind.KEPT, "archive", f"{command}, run after the cluster's own")
