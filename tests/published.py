"""Publish the built packages, and later versions of them, to a repository for the servers of tests."""

from __future__ import annotations

import hashlib
import html
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from debian.deb822 import Changes

from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import Release
from pgpool_deb.repository import publish
from pgpool_deb.repository.tree import Repository

_SUM = re.compile(r"^ ([0-9a-f]{32,64}) \d+ ((?:\S+ \S+ )?)(\S+)$", re.MULTILINE)
_HASHES = {32: "md5", 40: "sha1", 64: "sha256"}
HOW_TO = Path("docs") / "how-to" / "publish-a-repository.md"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes packages of one release to the repository below `place`, with its own key."""

    project: Project
    release: Release
    place: Path
    url: str

    @classmethod
    @contextmanager
    def at(cls, project: Project, release: Release, place: Path, url: str) -> Iterator[Publisher]:
        """Yield a publisher whose key is below `place`; it does not use the key of this machine's user."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", str(place / "data"))
            yield cls(project, release, place, url)

    @property
    def folder(self) -> Path:
        """The folder of the repository, for a web server."""
        return self.place / "repository"

    @property
    def repository(self) -> Repository:
        """The current repository."""
        return Repository.open(self.folder)

    def publish(self, packages: Path, suite: str, *, age: int = 0) -> str:
        """Publish the packages of a folder, dated `age` seconds ago; returns the name of the new state."""
        checkout = self.place / "checkout"
        if not checkout.exists():
            shutil.copytree(self.project.path / "packaging", checkout / "packaging", ignore=_all_but_tables)
            (checkout / "dist").mkdir()
        dist = checkout / "dist" / self.release.name
        dist.unlink(missing_ok=True)
        dist.symlink_to(packages)
        request = publish.PublishRequest(self.folder, suite, (self.release.name,), url=self.url, unproved=True)
        with pytest.MonkeyPatch.context() as patch:
            if age:
                patch.setenv("SOURCE_DATE_EPOCH", str(int(time.time()) - age))
            else:
                patch.delenv("SOURCE_DATE_EPOCH", raising=False)
            publish.run(Project(checkout), request, print)
        return self.repository.states[-1].name

    def lines(self, suite: str) -> list[str]:
        """Return the lines to paste that index.html shows for a suite."""
        return self._code(suite, r"<pre><code>(.*?)</code></pre>").splitlines()

    def older(self, suite: str, version: str) -> str:
        """Return the command of index.html that installs an older version of pgpool-II."""
        return self._code(suite, r"<code>(apt install [^<]*=VERSION)</code>").replace("VERSION", version)

    def _code(self, suite: str, pattern: str) -> str:
        page = (self.folder / "index.html").read_text(encoding="utf-8")
        section = page.partition(f'<h2 id="{suite}">')[2].partition("<h2")[0]
        found = re.search(pattern, section, re.DOTALL)
        assert found, page
        return html.unescape(found[1]).strip()


def _all_but_tables(_: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".toml")]


def later(version: str, times: int = 1) -> str:
    """Return the version of a later rebuild: +deb13+2 after +deb13+1."""
    stem, _, number = version.rpartition("+")
    return f"{stem}+{int(number) + times}"


def rebuilt(origin: Path, place: Path) -> Path:
    """Write the packages of a folder to `place` with the version of a rebuild, and return `place`.

    The .debs are repacked with another version; nothing else in them changes.
    """
    place.mkdir(parents=True)
    for path in origin.glob("*.changes"):
        changes = Changes(path.read_text(encoding="utf-8"))
        before = str(changes["Version"])
        names = [str(row["name"]) for row in changes["Checksums-Sha256"]]
        records = [name for name in names if name.endswith((".dsc", ".buildinfo"))]
        for name in sorted(set(names) - set(records)):
            _rebuilt(origin / name, place / name.replace(before, later(before)), before)
        for name in (*sorted(records, key=lambda name: name.endswith(".buildinfo")), path.name):
            text = (origin / name).read_text(encoding="utf-8").replace(before, later(before))
            (place / name.replace(before, later(before))).write_text(_summed(text, place), encoding="utf-8")
    return place


def _rebuilt(file: Path, target: Path, before: str) -> None:
    """Write a .deb with the next version; copy any other file unchanged."""
    if file.suffix != ".deb":
        shutil.copyfile(file, target)
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        subprocess.run(["dpkg-deb", "-R", str(file), str(tree)], check=True)
        control = tree / "DEBIAN" / "control"
        control.write_text(control.read_text(encoding="utf-8").replace(before, later(before)), encoding="utf-8")
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(target)]
        subprocess.run(command, check=True, capture_output=True)


def _summed(text: str, folder: Path) -> str:
    """Return the text of a .dsc, .buildinfo or .changes with the checksums and sizes of the files in `folder`."""

    def line(found: re.Match[str]) -> str:
        data = (folder / found[3]).read_bytes()
        return f" {hashlib.new(_HASHES[len(found[1])], data).hexdigest()} {len(data)} {found[2]}{found[3]}"

    return _SUM.sub(line, text)


def of_the_how_to(project: Project, path: str) -> list[str]:
    """Return the how-to's blocks for a file of a server; each begins with the file's path in a comment."""
    text = (project.path / HOW_TO).read_text(encoding="utf-8")
    blocks = re.findall(rf"^    (?:#|//) {re.escape(path)}\n((?:(?:    .*)?\n)+)", text, re.MULTILINE)
    return ["\n".join(line.removeprefix("    ") for line in block.splitlines()).strip() + "\n" for block in blocks]
