"""Roots: clean Debian file trees, made of layers, keyed by their packages, and never written to.

A root is a stack of layers. The lowest is a base (mmdebstrap, variant minbase); each further one contains the files
that an `apt-get satisfy` added. Commands run in a root through an overlay, so no layer is unpacked or installed twice.

`Roots.current` only reads records. `Roots.obtain` asks the archive if a root is missing or its record is older than a
week, and makes a new root only if the resolved packages have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from pgpool_deb.ground import apt_conf, atomic, namespaces
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.command import CommandFailed, CommandStalled, Runner
from pgpool_deb.ground.errors import MachineError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.releases import Release

from . import disk
from .archive import DebianArchive, preferences

MAX_AGE_SECONDS = 7 * 24 * 3600
FORGOTTEN_SECONDS = 30 * 24 * 3600
_BASE_BYTES = 500_000_000
_LAYER_BYTES = 700_000_000
"""The disk space for making a base, and for adding build dependencies to it, with apt's lists and packages."""
ENTER = Path(__file__).with_name("enter-root")
AT_PLAIN_PATH = Path(__file__).with_name("at-plain-path")
PLAIN = "/dev/shm/root"  # noqa: S108 - the script mounts an empty file system there
PLAIN_FILE = "/dev/shm/file"  # noqa: S108 - likewise
ROOT_USER = "0:0"
BUILD_USER = "1000:1000"
_INSTALLED = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+)")
_INSTALLING = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
# Without Delay=false, apt 2.6 hangs after a delayed retry (of an index that was sent only in part).
_APT_OPTIONS = {
    "Acquire::Retries": "3",
    "Acquire::Retries::Delay": "false",
    "Acquire::http::Timeout": "30",
    "Acquire::Languages": "none",
    "APT::Install-Recommends": "false",
    "Dpkg::Use-Pty": "false",
}
_APT = (*(word for name, value in _APT_OPTIONS.items() for word in ("-o", f"{name}={value}")), "-y", "-q")


@dataclass(frozen=True, slots=True)
class Root:
    """An existing root: `key` identifies its contents, `layers` are folders, lowest first."""

    release: str
    key: str
    layers: tuple[Path, ...]
    packages: tuple[str, ...]
    """`name=version` of every package, sorted."""


@dataclass(frozen=True, slots=True)
class _RootRecord:
    """The record of the current root of a release and purpose, stored as JSON."""

    key: str
    layers: list[str]
    packages: list[str]
    resolved_at: float

    def fresh(self) -> bool:
        return time.time() - self.resolved_at < MAX_AGE_SECONDS


@dataclass(slots=True)
class Roots:
    """The store of roots in the cache; it calls `archive` only when it must fetch packages."""

    cache: Cache
    architecture: str
    archive: Callable[[], DebianArchive]

    def current(self, release: Release, dependencies: Sequence[str] = ()) -> Root | None:
        """Return the root with `dependencies` as last resolved, None if there is none or its record is too old."""
        record = self._read(self._record_path(release, dependencies))
        if record is None or not record.fresh():
            return None
        return self._root(release, record)

    def obtain(self, release: Release, dependencies: Sequence[str], runner: Runner) -> Root:
        """Return the root of `release` with `dependencies` (as in Build-Depends) installed; make it if needed.

        Raises MachineError if the archive or the disk fails.
        """
        if root := self.current(release, dependencies):
            return root
        with self.cache.locked(f"root-{release.name}", _report_to(runner)):
            if root := self.current(release, dependencies):
                return root
            disk.check_overlays(self.cache.folder("roots"))
            try:
                base = self._base(release, runner)
                root = self._extended(release, base, dependencies, runner) if dependencies else base
            except CommandFailed as failure:
                raise root_failure(release, failure) from failure
            self._sweep()
            return root

    def _base(self, release: Release, runner: Runner) -> Root:
        path = self._record_path(release, ())
        record = self._read(path)
        if record is not None and (root := self._root(release, record)):
            if record.fresh() and self._lists_are_of_this_archive(release):
                return root
            if not self._outdated(release, root, runner):
                self._write(path, root)
                return root
        return self._bootstrap(release, path, runner)

    def _bootstrap(self, release: Release, path: Path, runner: Runner) -> Root:
        disk.check_room(self.cache.folder("roots"), _BASE_BYTES, f"the base of {release.name}")
        with self._left_to_nobody() as partial:
            lines = self.archive().sources(release)
            outside = self._apt(release, "outside.conf")
            _write_private(outside, apt_conf.read(self.archive().addresses(release)).outside)
            options = _mmdebstrap_options(self.architecture)
            words = ["mmdebstrap", *options, release.suites[0], PLAIN, *lines]
            runner.run([*namespaces.as_root(), str(AT_PLAIN_PATH), str(partial), str(outside), *words])
            lists = self._apt(release, "lists")
            script = (
                'set -eu; rm -rf "$2"; mkdir -p "$2"; cp -a "$1/var/lib/apt/lists/." "$2";'
                'rm -rf "$1"/var/lib/apt/lists/*;'
                'dpkg-query --admindir "$1/var/lib/dpkg" -W -f "\\${Package}=\\${Version}\\n" > "$3"'
            )
            listing = self._apt(release, "installed")
            runner.run([*namespaces.as_root(), "sh", "-c", script, "sh", str(partial), str(lists), str(listing)])
            packages = sorted(listing.read_text(encoding="utf-8").split())
            self._note_lists(release)
            return self._adopt(release, path, partial, (), packages)

    def _outdated(self, release: Release, base: Root, runner: Runner) -> bool:
        update = ["apt-get", *_APT, "update"]
        self.run_in(base, update, runner, binds=self.apt_binds(release))
        self._note_lists(release)
        return bool(self._simulate(release, base, ["dist-upgrade"], runner))

    def _extended(self, release: Release, base: Root, dependencies: Sequence[str], runner: Runner) -> Root:
        path = self._record_path(release, dependencies)
        packages = self._simulate(release, base, ["satisfy", *dependencies], runner)
        key = _key(release, self.architecture, [base.key, *packages])
        layer = self.cache.folder("roots") / key
        if layer.exists():
            root = Root(release.name, key, (*base.layers, layer), _together(base.packages, packages))
            self._write(path, root)
            return root
        disk.check_room(self.cache.folder("roots"), _LAYER_BYTES, f"the root of {release.name}")
        with self._left_to_nobody() as scratch:
            install = ["apt-get", *_APT, "satisfy", *dependencies]
            binds = self.apt_binds(release)
            try:
                self.run_in(base, install, runner, scratch=scratch, binds=binds)
            except CommandFailed as failure:
                if not any("404" in line for line in failure.lines):
                    raise
                # The mirror has dropped a version that apt's older lists name.
                namespaces.remove(scratch)
                self.run_in(base, ["apt-get", *_APT, "update"], runner, binds=binds)
                packages = self._simulate(release, base, ["satisfy", *dependencies], runner)
                key = _key(release, self.architecture, [base.key, *packages])
                self.run_in(base, install, runner, scratch=scratch, binds=binds)
            for package in self._apt(release, "archives").glob("*.deb"):
                package.unlink()
            together = _together(base.packages, packages)
            return self._adopt(release, path, scratch / "upper", base.layers, together, key)

    def _simulate(self, release: Release, base: Root, action: Sequence[str], runner: Runner) -> list[str]:
        """Return the packages that apt would install, as sorted `name=version`."""
        lines: list[str] = []
        listening, runner.on_line = runner.on_line, lines.append
        try:
            self.run_in(base, ["apt-get", *_APT, "-s", *action], runner, binds=self.apt_binds(release))
        finally:
            runner.on_line = listening
        return sorted(f"{match['name']}={match['version']}" for line in lines if (match := _INSTALLED.match(line)))

    def run_in(
        self,
        root: Root,
        argv: Sequence[str],
        runner: Runner,
        *,
        scratch: Path | None = None,
        binds: Iterable[tuple[Path, str]] = (),
    ) -> None:
        """Run a command as root in `root` with the network; keep the files that it writes only with a `scratch`."""
        place = scratch or self._partial()
        place.mkdir(parents=True, exist_ok=True)
        try:
            inside = entering(root, place, ROOT_USER, binds, confined=False)
            runner.run([*namespaces.as_root(), *inside, "env", "-i", *_INSTALLING, *argv])
        finally:
            if scratch is None:
                namespaces.remove(place)

    def _adopt(  # noqa: PLR0913, PLR0917 - a tree, its place and its key
        self, release: Release, path: Path, tree: Path, below: tuple[Path, ...], packages: Sequence[str], key: str = ""
    ) -> Root:
        """Move a finished tree to its key; an existing tree of that key has the same contents and stays."""
        key = key or _key(release, self.architecture, packages)
        layer = self.cache.folder("roots") / key
        root = Root(release.name, key, (*below, layer), tuple(sorted(packages)))
        self._write(path, root)  # first, because `_sweep` removes a layer that no record names
        if layer.exists():
            namespaces.remove(tree)
        else:
            tree.rename(layer)
        return root

    def _sweep(self) -> None:
        """Remove the partial roots of dead runs, and the layers that no record of the last month names."""
        folder = self.cache.folder("roots")
        for leftover in folder.glob(".partial-*"):
            if not Path("/proc", leftover.name.split("-")[1]).exists():
                namespaces.remove(leftover)
        named: set[str] = set()
        for path in folder.glob("*.json"):
            record = self._read(path)
            if record is None or time.time() - record.resolved_at > FORGOTTEN_SECONDS:
                path.unlink()
            else:
                named |= set(record.layers)
        for layer in folder.iterdir():
            if layer.is_dir() and not layer.name.startswith(".") and layer.name not in named:
                namespaces.remove(layer)

    @contextmanager
    def _left_to_nobody(self) -> Iterator[Path]:
        """Yield a folder for a new root, and remove in the end whatever `_adopt` has not moved out of it."""
        path = self._partial()
        try:
            yield path
        finally:
            namespaces.remove(path)

    def _partial(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix=f".partial-{os.getpid()}-", dir=self.cache.folder("roots")))
        path.chmod(0o755)
        return path

    def _apt(self, release: Release, what: str) -> Path:
        """Return the path of a part of apt's state for exactly this row of releases.toml."""
        return self.cache.folder("apt") / f"{release.name}-{_digest([repr(release)])[:8]}.{what}"

    def _note_lists(self, release: Release) -> None:
        atomic.write(self._apt(release, "listed"), "\n".join(self.archive().sources(release)))

    def _lists_are_of_this_archive(self, release: Release) -> bool:
        """Return whether apt's lists exist and come from the current mirror, which may differ from the last one."""
        try:
            listed = self._apt(release, "listed").read_text(encoding="utf-8")
        except OSError:
            return False
        return listed == "\n".join(self.archive().sources(release)) and self._apt(release, "lists").is_dir()

    def apt_binds(self, release: Release) -> list[tuple[Path, str]]:
        """Return the bind mounts that give apt in a root of `release` the current archive and its lists.

        They include sources.list, because the root may come from another mirror than the current one.
        """
        lists, archives = self._apt(release, "lists"), self._apt(release, "archives")
        for folder in (lists, archives):
            folder.mkdir(exist_ok=True)
        sources = self._apt(release, "list")
        atomic.write(sources, "\n".join(self.archive().sources(release)) + "\n")
        preferred = self._apt(release, "preferences")
        atomic.write(preferred, preferences(release))
        machine = self._apt(release, "machine")
        machine.mkdir(exist_ok=True)
        conf = apt_conf.read(self.archive().addresses(release))
        _write_private(machine / "apt.conf", conf.inside)
        return [
            (machine, apt_conf.FOLDER),
            (machine / "apt.conf", "/etc/apt/apt.conf.d/zz-machine"),
            *conf.binds,
            (preferred, "/etc/apt/preferences.d/releases-toml"),
            (lists, "/var/lib/apt/lists"),
            (archives, "/var/cache/apt/archives"),
            (sources, "/etc/apt/sources.list"),
        ]

    def _root(self, release: Release, record: _RootRecord) -> Root | None:
        layers = tuple(self.cache.path / "roots" / name for name in record.layers)
        if not all(layer.is_dir() for layer in layers):
            return None
        return Root(release.name, record.key, layers, tuple(record.packages))

    def _record_path(self, release: Release, dependencies: Sequence[str]) -> Path:
        # The key contains names from the code: a rename of Release, State or a field would make every root anew.
        purpose = _digest([repr(release), self.architecture, *dependencies])[:12]
        return self.cache.folder("roots") / f"{release.name}-{purpose}.json"

    def _read(self, path: Path) -> _RootRecord | None:
        try:
            return _RootRecord(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, path: Path, root: Root) -> None:
        record = _RootRecord(root.key, [layer.name for layer in root.layers], list(root.packages), time.time())
        atomic.write(path, json.dumps(asdict(record), indent=1))


def entering(root: Root, scratch: Path, user: str, binds: Iterable[tuple[Path, str]], *, confined: bool) -> list[str]:
    """Return the prefix that runs a command in `root`; it needs the namespace of `namespaces.as_root`.

    The first process of that namespace is a shell that stays root. The command may change its user, and then the
    kernel clears its parent-death signal (prctl(2), PR_SET_PDEATHSIG), so kill -9 would leave it running.
    """
    layers = "\n".join(str(layer) for layer in reversed(root.layers))
    lines = "\n".join(f"{source}\n{target}" for source, target in binds)
    stay = ["sh", "-c", '"$@"; exit $?', "sh"]
    return [*stay, str(ENTER), layers, str(scratch), user, "1" if confined else "0", lines]


def root_failure(release: Release, failure: CommandFailed) -> MachineError:
    """Return the error with a one-line reason why a root could not be made, and the usual fix as its hint."""
    if isinstance(failure, CommandStalled):
        return MachineError(
            f"the root of {release.name} was not created: no output for too long",
            hint="check that the mirror is reachable, or use another with --mirror URL",
        )
    errors = [line for line in failure.lines if re.match(r"(E|Err|W|mount|unshare)\b:?", line)] or failure.lines
    first = errors[0] if errors else str(failure)
    line = next((line for line in errors if line.startswith("E: ") and "apt-get" not in line), first)
    if "does not have a Release file" in line:  # apt prints the reason below the line with the file
        reasons = (below for file, below in pairwise(failure.lines) if file.startswith("Err:") and below[:1] == " ")
        line = next(reasons, line).strip()
    hint = "check that the mirror is reachable, or use another with --mirror URL"
    if any("No space left" in line for line in failure.lines):
        line, hint = "no space left on the device", "free some space, or move the cache with PGPOOL_DEB_CACHE=/path"
    elif any("Unable to locate" in line or "no installation candidate" in line or "Unmet" in line for line in errors):
        hint = f"check the apt sources of {release.name} in packaging/releases.toml"
    return MachineError(f"the root of {release.name} was not created: {line.removeprefix('E: ')}", hint=hint)


def _mmdebstrap_options(architecture: str) -> list[str]:
    build_user = 'chroot "$1" useradd --uid 1000 --user-group --home-dir /build --shell /bin/sh builder'
    # The root keeps the options except those with a password.
    forget = 'sed -i \'\\,://[^/"]*@,d\' "$1/etc/apt/apt.conf.d/99mmdebstrap"'
    return [
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        f"--architectures={architecture}",
        "--skip=cleanup/apt/lists",
        "--dpkgopt=force-unsafe-io",
        f"--aptopt={PLAIN_FILE}",
        *(f'--aptopt={name} "{value}"' for name, value in _APT_OPTIONS.items() if name.startswith("Acquire::")),
        f"--customize-hook={build_user}",
        f"--customize-hook={forget}",
    ]


def _write_private(path: Path, lines: Iterable[str]) -> None:
    """Write lines that may contain a proxy's password to a file that only this user can read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _key(release: Release, architecture: str, packages: Sequence[str]) -> str:
    return f"{release.name}-{_digest([release.name, architecture, *sorted(packages)])[:16]}"


def _together(base: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return `name=version` of all packages; an added version of a package replaces the base's."""
    versions = dict(line.split("=", 1) for line in (*base, *added))
    return tuple(f"{name}={version}" for name, version in sorted(versions.items()))


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _report_to(runner: Runner) -> Report:
    return lambda line: runner.on_line(line) if runner.on_line else None
