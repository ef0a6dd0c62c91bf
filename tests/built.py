"""The packages that `./invoke build-deb` built for one release, as listed in dist/summary.json."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgpool_deb.ground.errors import ExitStatus, MachineError
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release


@dataclass(frozen=True, slots=True)
class Built:
    """The packages of one release, in `folder`. `version` is upstream's.

    `files` are those of pgpool2, and `cluster_files` those of pgpool2-cluster.
    """

    release: Release
    version: str
    debian_version: str
    majors: tuple[int, ...]
    folder: Path
    files: tuple[str, ...]
    cluster_files: tuple[str, ...]

    @property
    def debs(self) -> str:
        """The .debs that a server installs, as words of a shell command, with `folder` at /dist."""
        names = [name for name in self.files if name.endswith(".deb") and "-dbgsym_" not in name]
        return " ".join(f"/dist/{name}" for name in names)

    @property
    def every_deb(self) -> str:
        """All .debs, including debug symbols, as words of a shell command, with `folder` at /dist."""
        return " ".join(f"/dist/{name}" for name in self.files if name.endswith(".deb"))

    @property
    def cluster_deb(self) -> str:
        """The cluster package's .deb, as a word of a shell command, with `folder` at /dist."""
        (name,) = [name for name in self.cluster_files if name.endswith(".deb")]
        return f"/dist/{name}"

    def one(self, suffix: str) -> Path:
        """Return the only file of pgpool2 whose name ends with `suffix`."""
        return self._one(self.files, suffix)

    def one_of_cluster(self, suffix: str) -> Path:
        """Return the only file of the cluster package whose name ends with `suffix`."""
        return self._one(self.cluster_files, suffix)

    def _one(self, files: Sequence[str], suffix: str) -> Path:
        (name,) = [name for name in files if name.endswith(suffix)]
        return self.folder / name


def build(project: Project, releases: Sequence[Release], *, install: bool) -> dict[str, dict[str, Any]]:
    """Build for `releases` as the README says, and return the cells of dist/summary.json by release.

    Raises MachineError if the machine failed. The cell of a release states whether its packages failed.
    """
    command = [str(project.path / "invoke"), "build-deb", "--release", ",".join(release.name for release in releases)]
    status = subprocess.run([*command, *([] if install else ["--no-install"])], check=False).returncode
    if status not in (ExitStatus.GOOD, ExitStatus.FAILED):
        raise MachineError(f"build-deb ended with status {status}", hint="./invoke build-deb shows the error")
    summary = json.loads((project.dist / "summary.json").read_text(encoding="utf-8"))
    return {cell["release"]: cell for cell in summary["cells"]}


def built(project: Project, release: Release, cell: dict[str, Any]) -> Built:
    """Return the packages for `release`. The test fails if they were not built."""
    assert cell["state"] in ("built", "unchanged"), f"{release.name}: {cell.get('error')} (log {cell['log']})"
    names = [str(file["name"]) for file in cell["files"]]
    cluster = tuple(name for name in names if name.startswith("pgpool2-cluster"))
    own = tuple(name for name in names if name not in cluster)
    folder = project.dist / release.name
    return Built(release, cell["pgpool"], cell["version"], tuple(cell["majors"]), folder, own, cluster)
