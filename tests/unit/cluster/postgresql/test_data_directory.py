"""Facts about a server from its data directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgpool_cluster.postgresql.data_directory import received_timeline


@pytest.mark.parametrize(
    ("names", "timeline"),
    [
        ((), 0),
        (("000000010000000000000007", "000000010000000000000008"), 1),
        (("000000010000000000000008", "00000002.history", "000000020000000000000008"), 2),
        (("000000090000000000000008", "0000000A0000000000000008"), 10),
        (("000000010000000000000008", "00000002.history", "archive_status"), 1),
        (("000000010000000000000008", "000000020000000000000008.partial", "xlogtemp.7"), 1),
    ],
)
def test_the_timeline_of_a_standby_is_that_of_its_latest_wal(
    tmp_path: Path, names: tuple[str, ...], timeline: int
) -> None:
    """The history of a timeline without WAL, and files set aside by a promotion, do not count."""
    (tmp_path / "pg_wal").mkdir()
    for name in names:
        (tmp_path / "pg_wal" / name).touch()
    assert received_timeline(tmp_path) == timeline
