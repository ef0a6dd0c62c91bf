"""Define a server before the installation, and the configuration that `apply` would give it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ground import paths
from ...ground.fault import Fault
from ...machine.own import NOTHING, Own
from .startable import Slot

_OVERRIDES = ("command line", "environment variable", "override")
_AUTO = "postgresql.auto.conf"


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of the running server, from pg_settings."""

    value: str
    unit: str = ""
    context: str = "sighup"
    source: str = "default"
    file: str = ""


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
class ExistingServer:
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
class PlannedConfiguration:
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
    folder: str = str(paths.POSTGRESQL_CONFIGURATION)
    file: str = str(paths.CLUSTER_YML)


def values_after(seen: ExistingServer, plan: PlannedConfiguration) -> dict[str, str]:
    """Return the values that the server would start with: those that stay, and those that `apply` writes."""
    now = {name: setting.value for name, setting in seen.settings.items()}
    laid = {name: value for name, value in plan.parameters.items() if not overriding(seen, name)}
    return {**seen.own.values, **now, **laid}


def overriding(seen: ExistingServer, name: str) -> str:
    """Return what sets a parameter so that it overrides the cluster's file; "" if nothing does."""
    there = seen.settings.get(name)
    if there is not None and there.file.endswith(_AUTO):
        return "ALTER SYSTEM"
    if there is not None and there.source in _OVERRIDES:
        return f"the {there.source}"
    return "a line after include_dir" if name in seen.own.later else ""
