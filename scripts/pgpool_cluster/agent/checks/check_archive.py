"""Check this node's WAL archive."""

from __future__ import annotations

from ...ground import paths
from ...machine.wal import archive
from ...node.node import Here
from .checklist import LEAST_FREE, Checklist

_ARCHIVER = """
SELECT last_failed_wal FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""


def of_archive(here: Here, checks: Checklist) -> None:
    """Check whether the archive is there, has space, and gets all WAL."""
    usage = archive.usage(paths.ARCHIVE)
    checks.add(
        f"the WAL archive {paths.ARCHIVE} exists", usage is not None, "postgres cannot read it", "pgpoolctl apply"
    )
    if usage is not None:
        checks.add(
            f"postgres can write to {paths.ARCHIVE}",
            archive.is_writable(paths.ARCHIVE),
            "PostgreSQL could not archive its WAL, and would keep all of it",
            "pgpoolctl apply; if it is mounted read-only: mount -o remount,rw",
        )
        free = 1 - usage.used
        checks.add(
            "the WAL archive has free space",
            free >= LEAST_FREE,
            f"{free:.0%} of its disk is free",
            f"mount a larger disk at {paths.ARCHIVE}; or set compress: true, or lower keep_hours, under archive: in "
            f"{paths.CLUSTER_YML}, then pgpoolctl apply",
        )
    if here.look().up:
        failed = [str(name) for (name,) in here.query(_ARCHIVER)]
        checks.add(
            "PostgreSQL archives its WAL",
            not failed,
            f"{', '.join(failed)} could not be archived",
            f"see its log (pg_lsclusters shows the path); df {paths.ARCHIVE}; ls -ld {paths.ARCHIVE}",
        )
