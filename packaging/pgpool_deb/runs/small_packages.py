"""Write small packages with the names and versions of ours, as build-deb writes them to dist/<release>/.

Benches and tests of repositories use thousands of them. dpkg-deb would take ten milliseconds for each, so this module
writes them itself.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
_DSC = """Format: 3.0 ({format})
Source: {source}
Binary: {source}
Architecture: any
Version: {version}
Maintainer: A Test <test@example.org>
Checksums-Sha256:
{sha256}Files:
{md5}"""
_COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2026 A Test
License: PostgreSQL and small

Files: src/parser/*
Copyright: 1984 Another
License: GPL-3+ with Bison exception

License: small
 Do as you like.
"""
_BUILDINFO = """Format: 1.0
Source: {source}
Binary: {source}
Architecture: {machine} source
Version: {version}
Checksums-Sha256:
{sums}Build-Origin: Debian
Build-Architecture: {machine}
Build-Date: Mon, 30 Nov 2026 01:48:13 +0000
Build-Path: /build/{source}
Installed-Build-Depends:
 bash (= 5.2.37-2+b10)
Environment:
 LC_ALL="C.UTF-8"
"""
_FILES = 20


def deb(  # noqa: PLR0913 - what a package is made of
    folder: Path,
    package: str,
    version: str,
    *,
    source: str = "pgpool2",
    text: str = "as built\n",
    machine: str = "amd64",
) -> Path:
    """Write a .deb with twenty files, one of which contains `text`, and return its path."""
    architecture = machine if source == "pgpool2" else "all"
    control = _CONTROL.format(package=package, version=version, architecture=architecture, source=source)
    files = {f"./usr/share/{package}/{number}": f"{package} {number}".encode() for number in range(1, _FILES)}
    files[f"./usr/share/{package}/text"] = text.encode()
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar": _tar({"./control": control.encode()}),
        "data.tar": _tar(files),
    }
    content = b"!<arch>\n"
    for name, data in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        content += head.encode() + data + b"\n" * (len(data) % 2)
    path = folder / f"{package}_{version}_{architecture}.deb"
    path.write_bytes(content)
    return path


def upload(  # noqa: PLR0913 - the parts of a package
    folder: Path,
    version: str,
    *,
    source: str = "pgpool2",
    binaries: tuple[str, ...] = (),
    text: str = "",
    upstream: bool = False,
    machine: str = "amd64",
) -> Path:
    """Write the files of a source package's build and return its .changes; the bytes depend on `text`.

    With `upstream`, the source consists of upstream's tarball and ours, else of one native tarball; pgpool2 is for
    `machine`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "debian/copyright": _COPYRIGHT.encode(),
        "debian/patches/one.patch": b"a patch",
        "debian/rules": f"{version}{text}".encode(),
    }
    tars = [folder / f"{source}_{version}.{'debian.' if upstream else ''}tar.xz"]
    tars[0].write_bytes(_tar(files))
    if upstream:
        tars.insert(0, folder / f"{source}_{version.partition('-')[0]}.orig.tar.gz")
        tars[0].write_bytes(_tar({"pgpool-II/src/main.c": b"int main;"}))
    dsc = folder / f"{source}_{version}.dsc"
    md5 = "".join(_row(hashlib.md5, tar) for tar in tars)  # a field of the format
    kind = "quilt" if upstream else "native"
    own = _DSC.format(format=kind, source=source, version=version, sha256=_sums(*tars), md5=md5)
    dsc.write_text(own, encoding="utf-8")
    debs = [
        deb(folder, name, version, source=source, text=text or version, machine=machine)
        for name in binaries or (source,)
    ]
    info = folder / f"{source}_{version}_{machine}.buildinfo"
    info.write_text(
        _BUILDINFO.format(source=source, version=version, machine=machine, sums=_sums(dsc, *debs)), encoding="utf-8"
    )
    changes = folder / f"{source}_{version}_{machine}.changes"
    sums = _sums(dsc, *tars, info, *debs)
    changes.write_text(
        f"Format: 1.8\nSource: {source}\nVersion: {version}\nChecksums-Sha256:\n{sums}", encoding="utf-8"
    )
    return changes


def _sums(*files: Path) -> str:
    return "".join(_row(hashlib.sha256, file) for file in files)


def _row(algorithm: Callable[[bytes], Any], file: Path) -> str:
    data = file.read_bytes()
    return f" {algorithm(data).hexdigest()} {len(data)} {file.name}\n"


def _tar(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()
