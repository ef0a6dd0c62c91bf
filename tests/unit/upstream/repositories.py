"""Real git repositories that look like upstream's."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

from tests.unit.upstream.tarballs import DAY

from pgpool_deb.upstream.local_source import from_path
from pgpool_deb.upstream.sources import Source


def git(root: Path, *arguments: str, date: int = DAY) -> str:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=master")
    environment = {**os.environ, "GIT_COMMITTER_DATE": f"{date} +0000", "GIT_AUTHOR_DATE": f"{date} +0000"}
    environment |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *who, *arguments], cwd=root, env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


@dataclasses.dataclass
class Repository:
    root: Path
    cache: Path
    lines: list[str] = dataclasses.field(default_factory=list)

    def commit(self, stated: str, *tags: str, date: int = DAY) -> str:
        (self.root / "configure.ac").write_text(f"AC_INIT([pgpool-II], [{stated}])\n")
        git(self.root, "add", ".")
        git(self.root, "commit", "-q", "--allow-empty", "-m", stated, date=date)
        for tag in tags:
            git(self.root, "tag", tag)
        return git(self.root, "rev-parse", "HEAD")

    def source(self, root: Path | None = None) -> Source:
        return from_path(root or self.root, self.cache, self.lines.append)
