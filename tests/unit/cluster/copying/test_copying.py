"""The checks of a copy before it deletes anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgpool_cluster.copying import copy_target
from pgpool_cluster.ground.errors import ServerError


def test_two_tablespaces_share_the_space_of_their_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them fits alone, but both together do not."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 << 20))
    copy_target.refuse_small_disks({tmp_path / "one": 60 << 20})
    with pytest.raises(ServerError, match="the copy needs 120 MB, and 100 MB are free"):
        copy_target.refuse_small_disks({tmp_path / "one": 60 << 20, tmp_path / "two": 60 << 20})


@pytest.mark.parametrize("mounted", ["pg_wal", "base"])
def test_a_mount_point_below_the_data_is_named_before_data_is_removed(
    mounted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "pg_wal"):
        (tmp_path / name).mkdir()
    copy_target.refuse_mounts(tmp_path)
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == mounted)
    with pytest.raises(ServerError, match=f"{mounted} is a mount point") as refusal:
        copy_target.refuse_mounts(tmp_path)
    assert "symbolic link" in refusal.value.hint


def test_the_top_folder_of_a_file_system_behind_pg_wal_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pg_wal").symlink_to(tmp_path / "disk")
    with pytest.raises(ServerError, match=r"lost\+found"):
        copy_target.refuse_mounts(tmp_path / "data")
