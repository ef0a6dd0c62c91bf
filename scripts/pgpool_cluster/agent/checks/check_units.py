"""Check whether this node's services start at boot, and whether anything keeps the agent from starting them."""

from __future__ import annotations

from ...definition.cluster import Service
from ...ground import paths
from ...machine import unit_files
from ...node.node import Here
from ...postgresql import data_directory
from .checklist import Checklist

_CLOCKS = ("chrony.service", "systemd-timesyncd.service", "ntpsec.service", "openntpd.service")
"""The services in Debian that synchronize the clock."""
_CLOCK_FIX = "apt install chrony"


def of_units(here: Here, checks: Checklist) -> None:
    """Check the units of the agent and of the services that it starts; raises ServerError without systemd."""
    at_boot = (paths.UNIT, paths.CONTROL_UNIT, paths.FIREWALL_UNIT)
    started = [paths.PGPOOL_UNIT] if Service.PGPOOL in here.me.runs else []
    started += [here.server.instance.unit] if Service.POSTGRESQL in here.me.runs else []
    found = unit_files.states([*at_boot, *started, *_CLOCKS])
    masked = [name for name in (*at_boot, *started) if found[name].masked]
    checks.add(
        "systemd may start the cluster's units",
        not masked,
        f"{', '.join(masked)} masked",
        f"systemctl unmask {' '.join(masked)}",
    )
    disabled = [name for name in at_boot if not found[name].starts_at_boot and name not in masked]
    checks.add(
        "the cluster's units start at boot",
        not disabled,
        f"{', '.join(disabled)} not enabled",
        f"systemctl enable {' '.join(disabled)}",
    )
    if paths.CONTROL_UNIT not in masked:
        checks.add(
            "the agent can start and stop PostgreSQL and pgpool-II",
            found[paths.CONTROL_UNIT].active == "active",
            f"{paths.CONTROL_UNIT} is {found[paths.CONTROL_UNIT].active}",
            f"systemctl start {paths.CONTROL_UNIT}",
        )
    if Service.POSTGRESQL in here.me.runs:
        _of_postgresql(here, checks)
    if not paths.CONTAINER.exists() and not any(found[name].active == "active" for name in _CLOCKS):
        checks.note("its clock is set by the hypervisor, or not at all", "no program synchronizes it", _CLOCK_FIX)


def _of_postgresql(here: Here, checks: Checklist) -> None:
    instance = here.server.instance
    file = instance.configuration / "start.conf"
    checks.add(
        "PostgreSQL starts at boot",
        data_directory.starts_by_itself(instance),
        f"{file} does not say auto",
        f"echo auto >{file}",
    )
