"""Fixtures that several modules of this level share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.unit.upstream.repositories import Repository, git
from tests.unit.upstream.tarballs import VERSIONS, loaded, pooled, release

from pgpool_deb.upstream.pins import Pins

# A busy machine is slow, and that is not the code's fault.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest.fixture
def pins(tmp_path: Path) -> Pins:
    """Pin four versions, all of them in the pool, in a file like the real one."""
    rows = ['addresses = ["{mirror}/pool/pgpool2_{version}.orig.tar.gz"]']
    for version in VERSIONS:
        data = release(pooled(tmp_path, version), version).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        rows.append(f'[pgpool."{version}"]\nsha256 = "{sha256}"\nsize = {len(data)}\ndate = 2025-06-01')
    rows.append('[[advisory]]\ncves = ["CVE-2026-9999"]\nsummary = "s"\nfixed_in = "4.7.3"\nbackports = ["4.6.1"]')
    return loaded(tmp_path, "\n".join(rows))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.c").write_text("int main;\n")
    git(root, "init", "-q")
    return Repository(root, tmp_path / "cache")
