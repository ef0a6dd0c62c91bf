"""Check the replication between a primary and its standbys, and whether a standby could replace the primary."""

from __future__ import annotations

from ...copying import adopting
from ...decision.facts import replay
from ...definition.cluster import Node
from ...ground import paths
from ...node.node import Here
from ...operations import wal_space
from .checklist import Checklist


def of_replication(here: Here, checks: Checklist) -> None:
    """Check the slots and WAL that a primary keeps for its standbys, or whether a standby follows and can take over."""
    facts = here.look()
    if not facts.up:
        return
    if facts.writable and facts.member and here.cluster.mode.streams:
        wanted = {node.slot for node in here.cluster.databases if node != here.me}
        missing = ", ".join(sorted(wanted - facts.slots))
        what = "each standby has a replication slot"
        checks.add(what, not missing, f"{missing} missing", "pgpoolctl converge --once")
        held = wal_space.held(here)
        checks.add(
            "no inactive replication slot fills the disk with WAL", held is None, str(held), held.hint if held else ""
        )
    if facts.in_recovery:
        why = here.note.value or "it does not stream"
        checks.add("it receives from the primary", facts.streaming, why, checks.hint("pgpoolctl status"))
        checks.add("it replays what it receives", not facts.stalled, facts.stalled, replay.hint(facts))
    if facts.in_recovery and facts.follows:
        _as_its_primary(here, here.cluster.named(facts.follows), checks)


def _as_its_primary(here: Here, primary: Node, checks: Checklist) -> None:
    """Check whether a failover to this standby would lose settings that a copy does not include."""
    lost = adopting.lost(here, primary)
    names, write = ", ".join(lost.libraries), f"under postgresql_conf: in {paths.CLUSTER_YML}, on every node"
    checks.add(
        f"it preloads what {primary.name} preloads",
        not names,
        f"{names} would be missing after a failover",
        f"apt install the packages of {names}; set shared_preload_libraries {write}; pgpoolctl apply; "
        f"systemctl restart {here.server.instance.unit}",
    )
    if here.cluster.mode.streams:
        checks.add(
            f"it archives as {primary.name} does",
            not lost.archive,
            f"after a failover no server would run {lost.archive}",
            f"set archive_mode and archive_command {write}; pgpoolctl apply; "
            f"systemctl restart {here.server.instance.unit}",
        )
