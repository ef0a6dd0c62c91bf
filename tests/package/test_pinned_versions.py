"""Every pinned version builds with the patches that series.in picks for it.

That a patch applies proves little: a hunk may apply at a wrong place and fail only in the compiler.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.package.builds import copy_of, started

from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable, machine_release
from pgpool_deb.upstream.pins import Pins

SOURCES = Path("packaging", "sources.toml")
OTHERS = [pin.version for pin in Pins.load(SOURCES).pins if pin.proved is None]
NOT_SERVED = "cannot be downloaded: "


@pytest.mark.thorough
@pytest.mark.parametrize("version", OTHERS)
def test_a_pinned_version_compiles_with_all_of_its_patches(version: str, project: Project, tmp_path: Path) -> None:
    (release,) = ReleaseTable.load(project.releases).select([], machine_release())
    checkout = copy_of(project.path, tmp_path / "checkout")
    with started(checkout, Cache.open(), "--release", release.name, "--pgpool", version, "--strict") as process:
        output, _ = process.communicate()
    if process.returncode == ExitStatus.ENVIRONMENT and NOT_SERVED in output:
        pytest.skip(f"no reachable address serves pgpool-II {version}")
    assert process.returncode == ExitStatus.GOOD, output
    (cell,) = json.loads((checkout / "dist" / "summary.json").read_text(encoding="utf-8"))["cells"]
    assert (cell["state"], cell["left_out"]) == ("built", [])
