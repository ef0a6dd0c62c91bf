"""The desk for tests of broken builds: a copy of the checkout, its cache, and runs of the command line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from debian.deb822 import Changes

from pgpool_deb.ground import compiler_caches
from pgpool_deb.ground.compiler_caches import trust_in
from pgpool_deb.upstream.download import sha256_of

CHECKOUT = Path(__file__).parents[2]
RELEASE = "trixie"
VERSION = "4.6.1"
BUILD = ("build-deb", "--release", RELEASE, "--engine", "chroot")
PINNED = (*BUILD, "--pgpool", VERSION)
TARBALL = f"pgpool2_{VERSION}.orig.tar.gz"
POOL = f"/pool/main/p/pgpool2/{TARBALL}"


@dataclass(frozen=True)
class Ended:
    """A finished run of the command line."""

    status: int
    out: str
    err: str

    def complains(self, status: int, message: str, hint: str) -> None:
        """Check that standard error has two lines and no traceback."""
        assert "Traceback" not in self.out + self.err
        lines = self.err.splitlines()
        assert len(lines) == 2, self.err
        assert re.search(message, lines[0]), lines[0]
        assert re.match(f"hint: .*{hint}", lines[1]), lines[1]
        assert self.status == status

    def failed_cell(self, status: int, stage: str, message: str, hint: str) -> str:
        """Check the closing lines of one failed cell; return the cell's name."""
        assert "Traceback" not in self.out + self.err
        assert self.err == ""
        closing = re.search(
            rf"^(?P<cell>\S+): failed, [\d.]+ s, at {stage}\n  error: (?P<message>.*)\n  hint:  (?P<hint>.*)\n"
            r"  log:   (?P<log>.*)\n",
            self.out,
            re.MULTILINE,
        )
        assert closing, self.out
        assert re.search(message, closing["message"]), closing["message"]
        assert re.search(hint, closing["hint"]), closing["hint"]
        assert Path(closing["log"]).is_file()
        assert self.status == status
        return closing["cell"]

    def succeeds(self, state: str) -> None:
        assert self.status == 0, self.out + self.err
        assert re.search(rf"^{RELEASE}-\S+: {state}, ", self.out, re.MULTILINE), self.out


@dataclass(frozen=True)
class Desk:
    """A copy of the checkout, and the cache that its runs use."""

    project: Path
    cache: Path
    env: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        main = self.project / "packaging" / "start.py"
        return subprocess.Popen(
            # a shell, possibly CI's, ignores SIGINT in background jobs
            ["env", "--default-signal=INT", sys.executable, str(main), *arguments],
            env={**os.environ, "PGPOOL_DEB_CACHE": str(self.cache), **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, stdin: str = "") -> Ended:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(stdin, timeout=900)
        finally:
            process.kill()
        return Ended(process.returncode, out, err)

    def with_env(self, **env: object) -> Desk:
        return replace(self, env={**self.env, **{name: str(value) for name, value in env.items()}})

    @property
    def dist(self) -> Path:
        return self.project / "dist"

    def hold(self, source: Path) -> Path:
        """While a file exists at this path, builds of the tree `sleeper` wait in a Makefile."""
        return self.cache / compiler_caches.NAME / RELEASE / trust_in(str(source.resolve())) / "cache" / "hold"

    def packages(self) -> dict[str, str]:
        """Return every visible file in dist/<release>/ with its SHA-256, after checking that packages are complete."""
        files = {path.name: sha256_of(path) for path in (self.dist / RELEASE).glob("[!.]*")}
        assert [str(path) for path in self.dist.rglob("*") if "partial" in path.name] == []
        named = set()
        for changes in (self.dist / RELEASE).glob("*.changes"):
            for entry in Changes(changes.read_text())["Checksums-Sha256"]:
                assert files[entry["name"]] == entry["sha256"]
                named.add(entry["name"])
        assert named >= {name for name in files if not name.endswith((".changes", "build.log"))}
        return files


def borrow(real: Path, cache: Path) -> None:
    """Give `cache` the release's roots from the user's cache: layers as links, the other files as copies."""
    (cache / "roots").mkdir(parents=True)
    for path in (real / "roots").glob(f"{RELEASE}-*"):
        if path.is_dir():
            (cache / "roots" / path.name).symlink_to(path)
        else:
            shutil.copy(path, cache / "roots")
    compiled = real / compiler_caches.NAME / RELEASE
    if compiled.is_dir():
        (cache / compiler_caches.NAME).mkdir()
        subprocess.run(["cp", "-a", compiled, cache / compiler_caches.NAME], check=True)
    if (real / "sources" / TARBALL).is_file():
        (cache / "sources").mkdir()
        shutil.copy(real / "sources" / TARBALL, cache / "sources")


def only_from_mirror(desk: Desk, place: Path, sha256: str | None = None) -> Desk:
    """Give the desk only one pin, which only the mirror has, optionally with another `sha256`."""
    text = (desk.project / "packaging" / "sources.toml").read_text()
    pin = re.search(rf'\[pgpool\."{re.escape(VERSION)}"\]\n(?:[^\n\[#].*\n)+', text)
    assert pin
    row = re.sub(r'sha256 = "\w+"', f'sha256 = "{sha256}"', pin[0]) if sha256 else pin[0]
    path = place / ("wrong.toml" if sha256 else "mirror.toml")
    path.write_text(f'addresses = ["{{mirror}}/pool/main/p/pgpool2/pgpool2_{{version}}.orig.tar.gz"]\n\n{row}')
    return desk.with_env(PGPOOL_DEB_SOURCES=path)
