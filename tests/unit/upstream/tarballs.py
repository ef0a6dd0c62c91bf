"""Tarballs as upstream would make them, and pins of some."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

from pgpool_deb.upstream.download import Patience
from pgpool_deb.upstream.pins import Pins

CHECKOUT = Path(__file__).parents[3]
QUICK = Patience(connect=1, stall=1, tries=1, pause=0.01)
DAY = 1748736000  # 2025-06-01


def quiet(_line: str) -> None:
    """Ignore the message."""


def release(
    path: Path, version: str, stated: str | None = None, *, top: str | None = None, configure: bool = True
) -> Path:
    """Write a tarball as upstream would, with the compression that its name implies."""
    plain = io.BytesIO()
    files = {"configure.ac": f"AC_INIT([pgpool-II], [{stated or version}])\n", "src/main.c": f"/* {version} */\n"}
    if configure:
        files["configure"] = f"PACKAGE_NAME='pgpool-II'\nPACKAGE_VERSION='{stated or version}'\n"
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top or f'pgpool-II-{version}'}/{name}")
            info.size, info.mtime = len(text), DAY
            archive.addfile(info, io.BytesIO(text.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xz":
        path.write_bytes(lzma.compress(plain.getvalue()))
    elif path.suffix == ".bz2":
        path.write_bytes(bz2.compress(plain.getvalue()))
    else:
        path.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return path


VERSIONS = ("4.3.5", "4.6.1", "4.7.3", "4.10.0")


def pooled(tmp_path: Path, version: str) -> Path:
    return tmp_path / "pool" / f"pgpool2_{version}.orig.tar.gz"


def loaded(tmp_path: Path, text: str) -> Pins:
    (tmp_path / "sources.toml").write_text(text)
    return Pins.load(tmp_path / "sources.toml")
