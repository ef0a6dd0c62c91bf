"""`./invoke verify` on the built packages, and on a package with one changed byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.built import Built
from tests.chroot import Chroot

from pgpool_deb.boxes.roots import Roots
from pgpool_deb.ground.command import Runner
from pgpool_deb.ground.errors import ExitStatus
from pgpool_deb.ground.project import Project
from pgpool_deb.runs.deb_differences import DIFFOSCOPE
from pgpool_deb.upstream.download import sha256_of

CHANGED = "usr/share/doc/pgpool2-cluster/copyright"
CHANGE = f"""
dpkg-deb -R /files/{{name}} /changed
printf f | dd of=/changed/{CHANGED} bs=1 conv=notrunc status=none
dpkg-deb -b /changed /files/{{name}}
"""


def verify(project: Project, what: Path) -> subprocess.CompletedProcess[str]:
    command = [str(project.path / "invoke"), "verify", str(what)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(packages: Built, roots: Roots, systems: Path, tmp_path: Path) -> Path:
    """The cluster package with one changed letter, beside its source package and a .buildinfo with its new SHA-256."""
    for name in packages.cluster_files:
        shutil.copyfile(packages.folder / name, tmp_path / name)
    (deb,) = tmp_path.glob("*.deb")
    sha256 = sha256_of(deb)
    root = roots.obtain(packages.release, (), Runner(systems / "changed.log"))
    chroot = Chroot(root, systems / f"changed-{packages.release.name}", ((tmp_path, "/files"),))
    chroot.run(f"export SOURCE_DATE_EPOCH={_epoch(tmp_path)}\n{CHANGE.format(name=deb.name)}")
    chroot.remove()
    (info,) = tmp_path.glob("*.buildinfo")
    info.write_text(info.read_text().replace(sha256, sha256_of(deb)))
    return deb


def _epoch(folder: Path) -> int:
    (info,) = folder.glob("*.buildinfo")
    (line,) = [line for line in info.read_text().splitlines() if "SOURCE_DATE_EPOCH=" in line]
    return int(line.partition("=")[2].strip('"'))


def test_every_package_has_the_same_bytes(project: Project, packages: Built) -> None:
    answer = verify(project, packages.folder)
    assert answer.returncode == ExitStatus.GOOD, answer.stdout + answer.stderr
    for name in (*packages.files, *packages.cluster_files):
        assert not name.endswith(".deb") or f"{name}: the same bytes\n" in answer.stdout


def test_package_file_and_byte_are_named(project: Project, changed: Path) -> None:
    answer = verify(project, changed)
    assert answer.returncode == ExitStatus.FAILED, answer.stdout + answer.stderr
    assert f"{changed.name}: data.tar.xz: ./{CHANGED}: byte 0\n" in answer.stdout
    if shutil.which(DIFFOSCOPE):
        report = answer.stdout.partition("all differences: ")[2].splitlines()[0]
        assert f"./{CHANGED}" in Path(report).read_text(encoding="utf-8")
    else:
        assert "apt-get install diffoscope-minimal" in answer.stdout
