"""The guarantees of each mode of a cluster, which the checker holds a history against."""

from __future__ import annotations

from dataclasses import dataclass, replace

FENCED_SECONDS = 3.0
"""A primary that is cut off answers no read through pgpool-II after this time."""
STUCK_SECONDS = 45.0
"""A standby that makes no progress gets no reads after this time; docs/explanation/decide.md."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The anomalies that a mode excludes.

    Excluded in every mode: lost acknowledged writes, values that were never written, reads that are not a prefix of the
    final list, and cycles of dependencies within one node.
    """

    forks: bool
    """Whether reads on different nodes may see two independent appends in different orders (a long fork)."""
    stale_primary: float
    """Seconds after its acknowledgement from which every read on a primary sees an append."""
    stale_standby: float
    """The same for reads on a standby."""
    own_writes: bool = True
    """Whether a session sees its own appends: the drill sets `disable_load_balance_on_write: always`."""

    def allowing(self, pause: float) -> Promise:
        """Return the promise for a history in which a node may have stood still for `pause` seconds.

        A node that wakes up answers reads until its agent has found out, so they are older by the pause.
        """
        return replace(self, stale_primary=self.stale_primary + pause, stale_standby=self.stale_standby + pause)


PROMISES = {
    "streaming_replication": Promise(forks=True, stale_primary=FENCED_SECONDS, stale_standby=STUCK_SECONDS),
    "native_replication": Promise(forks=True, stale_primary=FENCED_SECONDS, stale_standby=FENCED_SECONDS),
    "snapshot_isolation": Promise(forks=False, stale_primary=FENCED_SECONDS, stale_standby=FENCED_SECONDS),
}
