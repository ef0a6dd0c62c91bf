"""Small packages with the names and versions of ours, as build-deb leaves them in dist/<release>/.

Benches and tests of repositories have thousands of them, so they are written here and not by dpkg-deb, which takes ten
milliseconds for each.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

_CONTROL = """Package: {package}
Version: {version}
Architecture: {architecture}
Source: {source}
Section: database
Maintainer: A Test <test@example.org>
Depends: libc6 (>= 2.36), libpq5 (>= 15), {package}-common | other
Description: one of many
 It is here to be indexed, with a text as long as many have, and a few files.
"""
_DSC = """Format: 3.0 (native)
Source: {source}
Binary: {source}
Architecture: any
Version: {version}
Maintainer: A Test <test@example.org>
Checksums-Sha256:
{sha256}Files:
 {md5} {size} {name}
"""
_BUILDINFO = """Format: 1.0
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
_FILES = 20


def deb(folder: Path, package: str, version: str, *, source: str = "pgpool2", text: str = "as built\n") -> Path:
    """Write a .deb with twenty files, one of which holds `text`, and return its path."""
    architecture = "amd64" if source == "pgpool2" else "all"
    control = _CONTROL.format(package=package, version=version, architecture=architecture, source=source)
    files = {f"./usr/share/{package}/{number}": f"{package} {number}".encode() for number in range(1, _FILES)}
    files[f"./usr/share/{package}/text"] = text.encode()
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar": _tar({"./control": control.encode()}),
        "data.tar": _tar(files),
    }
    made = b"!<arch>\n"
    for name, data in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        made += head.encode() + data + b"\n" * (len(data) % 2)
    path = folder / f"{package}_{version}_{architecture}.deb"
    path.write_bytes(made)
    return path


def upload(
    folder: Path, version: str, *, source: str = "pgpool2", binaries: tuple[str, ...] = (), text: str = ""
) -> Path:
    """Write what the build of a source package leaves, and return its .changes; other `text`, other bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / f"{source}_{version}.tar.xz"
    tar.write_bytes(_tar({"debian/patches/one.patch": b"a patch", "debian/rules": f"{version}{text}".encode()}))
    dsc = folder / f"{source}_{version}.dsc"
    md5 = hashlib.md5(tar.read_bytes()).hexdigest()  # noqa: S324 - a field of the format
    own = _DSC.format(
        source=source, version=version, sha256=_sums(tar), md5=md5, size=tar.stat().st_size, name=tar.name
    )
    dsc.write_text(own, encoding="utf-8")
    debs = [deb(folder, name, version, source=source, text=text or version) for name in binaries or (source,)]
    info = folder / f"{source}_{version}_amd64.buildinfo"
    info.write_text(_BUILDINFO.format(source=source, version=version, sums=_sums(dsc, *debs)), encoding="utf-8")
    changes = folder / f"{source}_{version}_amd64.changes"
    sums = _sums(dsc, tar, info, *debs)
    changes.write_text(
        f"Format: 1.8\nSource: {source}\nVersion: {version}\nChecksums-Sha256:\n{sums}", encoding="utf-8"
    )
    return changes


def _sums(*files: Path) -> str:
    rows = ((hashlib.sha256(data := file.read_bytes()).hexdigest(), len(data), file.name) for file in files)
    return "".join(f" {sha256} {size} {name}\n" for sha256, size, name in rows)


def _tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()
