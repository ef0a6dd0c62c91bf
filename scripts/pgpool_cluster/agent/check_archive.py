"""Check this node's WAL archive."""

from __future__ import annotations

from ..ground import paths
from ..machine import archive
from ..node.node import Here
from .checklist import LEAST_FREE, Checklist

_ARCHIVER = """
SELECT last_failed_wal FROM pg_stat_archiver
WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""


def of_archive(here: Here, checks: Checklist) -> None:
    """Check whether the archive is there, has space, and gets all WAL."""
    usage = archive.usage(paths.ARCHIVE)
    checks.add(
        f"the archive {paths.ARCHIVE} is there", usage is not None, "postgres cannot look into it", "pgpoolctl apply"
    )
    if usage is not None:
        free = 1 - usage.used
        checks.add(
            "the archive has space",
            free >= LEAST_FREE,
            f"{free:.0%} of its disk are free",
            f"a larger disk at {paths.ARCHIVE}; or compress: true, or fewer keep_hours, under archive: in "
            f"{paths.CLUSTER_YML}, then pgpoolctl apply",
        )
    if here.look().up:
        failed = [str(name) for (name,) in here.query(_ARCHIVER)]
        checks.add(
            "archiving goes on",
            not failed,
            f"{', '.join(failed)} could not be archived",
            f"its log (pg_lsclusters names it) has why; df {paths.ARCHIVE}; ls -ld {paths.ARCHIVE}",
        )
