"""Check the configuration files of this node's PostgreSQL, and whether the server runs with them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...decision.facts.quantities import quantity
from ...ground.fault import Fault
from ...ground.paths import CLUSTER_YML
from ...node.node import Here
from ...operations import restarts
from ...postgresql import typed
from .checklist import Checklist

_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
     - coalesce(current_setting('reserved_connections', true)::int, 0)
"""
_OVERRIDDEN = """
WITH written AS (SELECT lower(name) AS name, setting, sourcefile, sourceline, seqno,
                        sourcefile LIKE '%/conf.d/pgpool2-cluster.conf' AS ours
                 FROM pg_file_settings WHERE name IS NOT NULL),
     ours AS (SELECT DISTINCT ON (name) * FROM written WHERE ours ORDER BY name, seqno DESC),
     last AS (SELECT DISTINCT ON (name) * FROM written ORDER BY name, seqno DESC)
SELECT ours.name, ours.setting, last.setting, last.sourcefile, last.sourceline, coalesce(s.unit, '')
FROM ours JOIN last USING (name) LEFT JOIN pg_settings s ON lower(s.name) = ours.name
WHERE NOT last.ours AND last.setting IS DISTINCT FROM ours.setting ORDER BY ours.name
"""
"""The parameters of the cluster's file that a later file sets to another value; the last value is in force."""
_ERRORS = """
SELECT sourcefile, sourceline, error FROM pg_file_settings f
WHERE error IS NOT NULL AND NOT EXISTS
      (SELECT FROM pg_settings s WHERE lower(s.name) = lower(f.name) AND s.context = 'postmaster')
"""
"""Lines that the server cannot read. For a parameter that requires a restart, the error may only be that restart."""
_HBA_ERRORS = """
SELECT current_setting('hba_file'), line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL
"""
_BY_ALTER_SYSTEM = "/postgresql.auto.conf"
_SWITCH = {"true": "on", "yes": "on", "false": "off", "no": "off"}


@dataclass(frozen=True, slots=True)
class _Override:
    """A parameter of the cluster's file that another file, at this line, sets to another value."""

    name: str
    ours: str
    value: str
    file: str
    line: int
    unit: str

    @property
    def is_harmless(self) -> bool:
        """Whether the value means the same as the cluster's, or is a higher limit."""
        if self.name == "wal_level":
            return self.value == "logical"
        if _SWITCH.get(self.ours, self.ours) == _SWITCH.get(self.value, self.value):
            return True
        ours, value = quantity(self.ours, self.unit), quantity(self.value, self.unit)
        if ours is None or value is None:
            return False
        return value == ours or (self.name.startswith("max_") and value > ours)


def of_settings(here: Here, checks: Checklist) -> None:
    """Check the files, the values in force, and the extension that pgpool-II calls."""
    instance = here.server.instance
    errors = list(_errors(here, _ERRORS))
    checks.add_faults("the configuration files of PostgreSQL have no errors", errors)
    checks.add_faults("pg_hba.conf has no errors", _errors(here, _HBA_ERRORS))
    included = not errors and restarts.includes_drop_in(here)
    if not errors:  # the server reads nothing after an error
        checks.add(
            f"{instance.configuration}/postgresql.conf includes conf.d",
            included,
            "the cluster's parameters are not read",
            restarts.INCLUDE_HINT.format(folder=instance.configuration),
        )
    rows = here.query(_OVERRIDDEN)
    overrides = [one for one in (_Override(*row) for row in rows) if not one.is_harmless]
    checks.add_faults("nothing overrides the cluster's parameters", _overridden(here, overrides))
    if included:
        _in_force(here, {one.name for one in overrides}, checks)
    room = int(here.query(_ROOM)[0][0])
    checks.add(
        "max_connections covers all connections of pgpool-II",
        room >= here.cluster.pooled,
        f"{room} are available for {here.cluster.pooled}; pgpool-II detaches the node if a health check gets none",
        "lower num_init_children or max_pool under pgpool:, or raise max_connections under postgresql_conf:, in "
        f"{CLUSTER_YML}; then pgpoolctl apply",
    )
    what, why = "commits wait for the configured standbys", "synchronous_standby_names differs"
    checks.add(what, here.look().laid, why, "pgpoolctl apply")


def _in_force(here: Here, overridden: set[str], checks: Checklist) -> None:
    """Check whether a restart is pending. A restart would not fix a parameter that is overridden."""
    waiting = restarts.waiting(here)
    names = tuple(name for name in waiting.names if name not in overridden)
    changes = {name: change for name, change in waiting.changes.items() if name in names}
    waiting = replace(waiting, names=names, changes=changes)
    checks.add(
        "PostgreSQL runs with its configuration",
        not waiting,
        f"restart required for {', '.join(waiting.names)}",
        waiting.fix,
    )


def _errors(here: Here, sql: str) -> Iterator[Fault]:
    reload = f"systemctl reload {here.server.instance.unit}"
    for file, line, error in here.query(sql):
        yield Fault(f"{file}, line {line}: {error}", f"correct line {line} of {file}; then {reload}")


def _overridden(here: Here, overrides: list[_Override]) -> Iterator[Fault]:
    instance = here.server.instance
    for one in overrides:
        why = f"{one.name} is {one.value}, not {one.ours}"
        if one.file.endswith(_BY_ALTER_SYSTEM):
            fix = typed.psql(instance.port, f"ALTER SYSTEM RESET {one.name}", "SELECT pg_reload_conf()")
            yield Fault(f"{why}, by ALTER SYSTEM", fix)
        else:
            fix = f"sed -i '{one.line}s/^/#/' {shlex.quote(one.file)}; systemctl reload {instance.unit}"
            yield Fault(f"{why}, by {one.file}", fix)
