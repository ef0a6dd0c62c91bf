"""Index new packages with apt-ftparchive(1), and compress indexes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pgpool_deb.ground.errors import MachineError

from .stanzas import Indexed, PoolFile, parsed

_OPTIONS = [
    word
    for name in ("MD5", "SHA1", "SHA512")
    for word in ("-o", f"APT::FTPArchive::{name}=false")
]  # fmt: skip


def index(repository: Path, files: Iterable[PoolFile], architectures: Collection[str] = ()) -> Indexed:
    """Return the index of these files of the pool, for their architectures and the ones named.

    Raises MachineError if apt-ftparchive fails.
    """
    files = list(files)
    found = {file.path.removesuffix(".deb").rpartition("_")[2] for file in files if file.path.endswith(".deb")}
    names = sorted((found | set(architectures)) - {"all"}) or ["amd64"]
    with _pool_of(repository, files) as place, ThreadPoolExecutor() as pool:
        packages = pool.submit(_run, place, [*_OPTIONS, "packages", "pool"])
        texts = pool.map(partial(_contents, place), names)  # all start immediately
        sources = parsed(_run(place, [*_OPTIONS, "sources", "pool"]))
        return Indexed(parsed(packages.result()), sources, dict(zip(names, texts, strict=True)))


def contents(repository: Path, files: Iterable[PoolFile], architectures: Iterable[str]) -> dict[str, str]:
    """Return the Contents of these files of the pool by architecture; raises MachineError if apt-ftparchive fails."""
    names = sorted(architectures)
    with _pool_of(repository, list(files)) as place, ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(partial(_contents, place), names), strict=True))


def _contents(place: str, architecture: str) -> str:
    return _run(place, ["--arch", architecture, "contents", "pool"])


@contextmanager
def _pool_of(repository: Path, files: Collection[PoolFile]) -> Iterator[str]:
    """Yield a temporary folder whose pool/ has hard links to only these files."""
    with tempfile.TemporaryDirectory(prefix=".partial-index-", dir=repository) as place:
        for folder in {os.path.dirname(file.path) for file in files}:  # noqa: PTH120 - of thousands
            Path(place, folder).mkdir(parents=True, exist_ok=True)
        for file in files:
            os.link(f"{repository}/{file.path}", f"{place}/{file.path}")
        yield place


def compressed(text: str) -> bytes:
    """Return the text compressed by GNU gzip, whose output is identical on every Debian release."""
    answer = subprocess.run(["gzip", "-6n"], input=text.encode(), capture_output=True, check=True)
    return answer.stdout


def _run(place: str, words: Sequence[str]) -> str:
    command = ["apt-ftparchive", "-q", *words]
    # without the machine's configuration of apt, and in one language
    env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "APT_CONFIG": "/dev/null"}
    try:
        answer = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MachineError("apt-ftparchive is missing", hint="apt-get install apt-utils") from error
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines()
        raise MachineError(
            f"apt-ftparchive failed: {lines[-1] if lines else answer.returncode}",
            hint="check the .debs in dist/ with dpkg-deb --info",
        )
    return answer.stdout
