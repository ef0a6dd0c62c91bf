"""Check the files of this machine that only root can read, and what they govern."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...configuration import changes, key_file
from ...configuration.rehearsal import doors
from ...definition import key as keys
from ...ground import paths
from ...ground.check import Check
from ...ground.errors import ClusterError
from ...ground.waiting import poll
from ...machine import server, unit_files
from ...machine.network import firewall
from .checklist import of_faults

_APPLY_SECONDS = 2.0
"""Time for an apply that the agent has requested, for example because all certificates have been verified."""
_BUSY_APPLY_SECONDS = 5.0
"""Further time for an apply that still runs then, as it may on an overloaded machine."""
_APPLY_PAUSE_SECONDS = 0.5
_EDITS = {
    "pgpool.conf": "put the change under pgpool: in cluster.yml; ",
    "pgpool2-cluster.conf": "put the change under postgresql_conf: in cluster.yml; ",
    "pool_hba.conf": "put networks under clients: in cluster.yml; ",
}
"""Where a change of an edited file belongs."""


def of_files() -> Iterator[Check]:
    """Yield the checks of the files; none for a user other than root."""
    name = server.host_name()
    if os.geteuid() != 0:
        return
    what = "the applied configuration matches cluster.yml and cluster.key"
    if _has_another_key():
        why = f"{paths.CLUSTER_KEY} is not the key in use on this node"
        fix = f"copy {paths.CLUSTER_KEY} from another node; if the new key is meant for every node: pgpoolctl apply"
        yield Check(name, what, False, why, fix)
        return
    try:
        planned = _planned()
    except ClusterError as error:
        yield Check(name, what, False, error.message, error.hint)
        return
    others = ", ".join(_unlaid(planned))
    if others or not planned.refused:
        yield Check(name, what, not others, f"{others} differ", "pgpoolctl apply")
    for path in planned.edited:
        yield Check(
            name,
            f"{path} is as rendered",
            False,
            "edited by hand",
            f"{_EDITS.get(path.name, '')}rm {path}; pgpoolctl apply",
        )
    for refused in planned.refused:
        yield Check(name, what, False, refused.message, refused.hint)
    key = paths.CLUSTER_KEY.stat()
    closed = key.st_uid == 0 and key.st_mode & 0o077 == 0
    fix = f"chown root: {paths.CLUSTER_KEY}; chmod 0600 {paths.CLUSTER_KEY}"
    yield Check(name, f"only root can read {paths.CLUSTER_KEY}", closed, f"mode {key.st_mode & 0o777:04o}", fix)
    cheap = keys.is_cheap(key_file.text().strip())
    fix = "pgpoolctl key generate; put that line on every node (change-the-key.md in the documentation)"
    yield Check(
        name,
        f"{paths.CLUSTER_KEY} cannot be guessed",
        not cheap,
        "its words use the weak key derivation of older packages",
        fix,
    )
    yield from _doors(name)
    what = "watchdog, heartbeat and pcp ports are closed to other hosts"
    fix = f"systemctl restart {paths.FIREWALL_UNIT}"
    yield Check(name, what, not firewall.missing(), f"the table {' '.join(firewall.TABLE)} is not loaded", fix)


def _planned() -> changes.PlannedChanges:
    """Return the plan, after any `apply` that the agent has requested; raises ClusterError."""
    planned = poll(changes.plan, until=_is_laid, seconds=_APPLY_SECONDS, pause=_APPLY_PAUSE_SECONDS)
    if not _is_laid(planned) and unit_files.is_running(paths.CONTROL_REQUESTS):
        planned = poll(changes.plan, until=_is_laid, seconds=_BUSY_APPLY_SECONDS, pause=_APPLY_PAUSE_SECONDS)
    return planned


def _has_another_key() -> bool:
    """Return whether cluster.key is another key than the applied one; an unreadable one is reported by the plan."""
    laid = paths.laid_fingerprint()
    try:
        return laid not in ("", key_file.read().fingerprint)
    except ClusterError:
        return False


def _unlaid(planned: changes.PlannedChanges) -> list[str]:
    """Return the paths of the files that differ, without those that an administrator has edited."""
    return [str(change.path) for change in planned.changes if not change.edited]


def _is_laid(planned: changes.PlannedChanges) -> bool:
    return not _unlaid(planned)


def _doors(name: str) -> Iterator[Check]:
    """Check whether other nodes can log in as postgres; sshd shows its settings only to root."""
    what = "sshd accepts logins of the other nodes as postgres"
    try:
        faults = doors.faults(*server.this_node())
    except ClusterError as error:
        yield Check(name, what, False, error.message, "systemctl status ssh; sshd -T shows the settings in effect")
        return
    yield from of_faults(name, what, faults)
