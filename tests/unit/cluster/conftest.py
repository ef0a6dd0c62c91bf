from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def archive_folder(tmp_path: Path) -> Path:
    found = tmp_path / "archive"
    found.mkdir()
    return found


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    found = tmp_path / "pg_wal"
    found.mkdir()
    return found
