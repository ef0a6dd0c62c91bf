"""Small packages with the names and versions of ours, as build-deb leaves them in dist/<release>/."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

CONTROL = """Package: {package}
Version: {version}
Architecture: {architecture}
Source: {source}
Maintainer: A Test <test@example.org>
Description: a test
 It has one file.
"""
DSC = """Format: 3.0 (native)
Source: {source}
Binary: {source}
Architecture: any
Version: {version}
Maintainer: A Test <test@example.org>
Checksums-Sha256:
 {sha256} {size} {tar}
Files:
 {md5} {size} {tar}
"""


INFO = """Format: 1.0
Source: {source}
Binary: {source}
Architecture: amd64 source
Version: {version}
Checksums-Sha256:
{sums}Build-Origin: Debian
Build-Architecture: amd64
Build-Date: Mon, 30 Nov 2026 01:48:13 +0000
Build-Path: /build/{source}
Installed-Build-Depends:
 bash (= 5.2.37-2+b10)
Environment:
 LC_ALL="C.UTF-8"
"""


def deb(folder: Path, package: str, version: str, *, source: str = "pgpool2", text: str = "as built\n") -> Path:
    """Make a .deb with one file in it."""
    tree = folder / f".{package}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share" / package).write_text(text)
    architecture = "all" if source != "pgpool2" else "amd64"
    control = CONTROL.format(package=package, version=version, architecture=architecture, source=source)
    (tree / "DEBIAN/control").write_text(control)
    path = folder / f"{package}_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)]
    subprocess.run(command, check=True, capture_output=True, env={"SOURCE_DATE_EPOCH": "1", "PATH": "/usr/bin:/bin"})
    subprocess.run(["rm", "-r", str(tree)], check=True)
    return path


def upload(
    folder: Path, version: str, *, source: str = "pgpool2", binaries: tuple[str, ...] = (), text: str = ""
) -> Path:
    """Make what the build of a source package leaves, and return its .changes."""
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / f"{source}_{version}.tar.xz"
    with tarfile.open(tar, "w:xz") as packed:
        for name, content in (("debian/patches/one.patch", "a patch"), ("debian/rules", f"{version}{text}")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content.encode()))
    dsc = folder / f"{source}_{version}.dsc"
    md5 = hashlib.md5(tar.read_bytes()).hexdigest()  # noqa: S324 - a field of the format
    dsc.write_text(
        DSC.format(source=source, version=version, sha256=sha256(tar), size=tar.stat().st_size, tar=tar.name, md5=md5)
    )
    info = folder / f"{source}_{version}_amd64.buildinfo"
    debs = [deb(folder, name, version, source=source, text=text or version) for name in binaries or (source,)]
    sums = "".join(f" {sha256(file)} {file.stat().st_size} {file.name}\n" for file in (dsc, *debs))
    info.write_text(INFO.format(source=source, version=version, sums=sums))
    files = [dsc, tar, info, *debs]
    sums = "".join(f" {sha256(file)} {file.stat().st_size} {file.name}\n" for file in files)
    changes = folder / f"{source}_{version}_amd64.changes"
    changes.write_text(f"Format: 1.8\nSource: {source}\nVersion: {version}\nChecksums-Sha256:\n{sums}")
    return changes


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
