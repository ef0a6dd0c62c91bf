"""Roots: clean Debian file trees, made of layers, keyed by the packages that are in them, never written to.

A root is a stack of layers. The lowest is a `base` (mmdebstrap, variant minbase), each further one is what an
`apt-get install` added. Commands run in a root through an overlay, so a layer is never unpacked or installed twice.

`Roots.current` answers from records alone and starts nothing. `Roots.obtain` asks the archive when a root is missing
or when its record is older than a week, and makes a new root only where the resolved packages have changed.
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

from . import apt_conf, atomic, disk, namespaces
from .archive import Archive, preferences
from .cache import Cache
from .command import CommandFailed, CommandStalled, Runner
from .errors import MachineError
from .releases import Release

MAX_AGE_SECONDS = 7 * 24 * 3600
FORGOTTEN_SECONDS = 30 * 24 * 3600
_BASE_BYTES = 500_000_000
_LAYER_BYTES = 700_000_000
"""What a base, and what build dependencies add to it, takes while it is made: lists and packages of apt too."""
ENTER = Path(__file__).with_name("enter-root")
AT_PLAIN_PATH = Path(__file__).with_name("at-plain-path")
PLAIN = "/dev/shm/root"  # noqa: S108 - the script mounts an empty file system there
PLAIN_FILE = "/dev/shm/file"  # noqa: S108 - likewise
ROOT_USER = "0:0"
BUILD_USER = "1000:1000"
_INSTALLED = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+)")
_INSTALLING = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
# Without Delay: apt 2.6 waits for ever after a retry that it has put off (an index of which half was sent).
_APT = (
    "-o", "Acquire::Retries=3", "-o", "Acquire::Retries::Delay=false", "-o", "Acquire::http::Timeout=30",
    "-o", "Acquire::Languages=none",
    "-o", "APT::Install-Recommends=false", "-o", "Dpkg::Use-Pty=false", "-y", "-q",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Root:
    """A root that is there: `key` names its contents, `layers` are folders, lowest first."""

    release: str
    key: str
    layers: tuple[Path, ...]
    packages: tuple[str, ...]
    """`name=version` of every package, sorted."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is known of the current root of a release and purpose; kept as JSON."""

    key: str
    layers: list[str]
    packages: list[str]
    resolved_at: float

    def fresh(self) -> bool:
        return time.time() - self.resolved_at < MAX_AGE_SECONDS


@dataclass(slots=True)
class Roots:
    """The store of roots in the cache; `archive` is asked only when packages must be fetched."""

    cache: Cache
    architecture: str
    archive: Callable[[], Archive]

    def current(self, release: Release, dependencies: Sequence[str] = ()) -> Root | None:
        """Return the root with `dependencies` installed as last resolved, or None: absent, outdated, or gone."""
        record = self._read(self._record_path(release, dependencies))
        if record is None or not record.fresh():
            return None
        return self._root(release, record)

    def obtain(self, release: Release, dependencies: Sequence[str], runner: Runner) -> Root:
        """Return the root of `release` with `dependencies` (as in Build-Depends) installed, made where needed.

        Raises MachineError where the archive or the disk fails.
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
        wanted = _key(release, self.architecture, [base.key, *packages])
        layer = self.cache.folder("roots") / wanted
        if layer.exists():
            root = Root(release.name, wanted, (*base.layers, layer), _together(base.packages, packages))
            self._write(path, root)
            return root
        disk.check_room(self.cache.folder("roots"), _LAYER_BYTES, f"what is installed in the root of {release.name}")
        with self._left_to_nobody() as scratch:
            install = ["apt-get", *_APT, "satisfy", *dependencies]
            binds = self.apt_binds(release)
            try:
                self.run_in(base, install, runner, scratch=scratch, binds=binds)
            except CommandFailed as failure:
                if not any("404" in line for line in failure.lines):
                    raise
                # the lists are older than the mirror: it has dropped a version they name
                namespaces.remove(scratch)
                self.run_in(base, ["apt-get", *_APT, "update"], runner, binds=binds)
                packages = self._simulate(release, base, ["satisfy", *dependencies], runner)
                wanted = _key(release, self.architecture, [base.key, *packages])
                self.run_in(base, install, runner, scratch=scratch, binds=binds)
            for package in self._apt(release, "archives").glob("*.deb"):
                package.unlink()
            together = _together(base.packages, packages)
            return self._adopt(release, path, scratch / "upper", base.layers, together, wanted)

    def _simulate(self, release: Release, base: Root, action: Sequence[str], runner: Runner) -> list[str]:
        """Return what apt would install, as sorted `name=version`."""
        lines: list[str] = []
        listening, runner.on_line = runner.on_line, lines.append
        try:
            self.run_in(base, ["apt-get", *_APT, "-s", *action], runner, binds=self.apt_binds(release))
        finally:
            runner.on_line = listening
        return sorted(f"{found['name']}={found['version']}" for line in lines if (found := _INSTALLED.match(line)))

    def run_in(
        self,
        root: Root,
        argv: Sequence[str],
        runner: Runner,
        *,
        scratch: Path | None = None,
        binds: Iterable[tuple[Path, str]] = (),
    ) -> None:
        """Run a command as root in `root` with the network; what it writes is left in `scratch`, or thrown away."""
        place = scratch or self._partial()
        place.mkdir(parents=True, exist_ok=True)
        try:
            inside = entering(root, place, ROOT_USER, binds, confined=False)
            runner.run([*namespaces.as_root(), *inside, "env", "-i", *_INSTALLING, *argv])
        finally:
            if scratch is None:
                namespaces.remove(place)

    def _adopt(  # noqa: PLR0913, PLR0917 - a tree, its place and its name
        self, release: Release, path: Path, tree: Path, below: tuple[Path, ...], packages: Sequence[str], key: str = ""
    ) -> Root:
        """Give a finished tree its name; a tree of that name that is there already is the same."""
        key = key or _key(release, self.architecture, packages)
        layer = self.cache.folder("roots") / key
        root = Root(release.name, key, (*below, layer), tuple(sorted(packages)))
        self._write(path, root)  # first: a layer that no record names is swept away
        if layer.exists():
            namespaces.remove(tree)
        else:
            tree.rename(layer)
        return root

    def _sweep(self) -> None:
        """Remove what runs that are no more left half-made, and layers that no record of the last month names."""
        folder = self.cache.folder("roots")
        for left in folder.glob(".partial-*"):
            if not Path("/proc", left.name.split("-")[1]).exists():
                namespaces.remove(left)
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
        """Yield a folder for a root in the making; what of it has got no name is removed, however that ends."""
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
        """Return the path of a part of apt's state for this very row of releases.toml."""
        return self.cache.folder("apt") / f"{release.name}-{_digest([repr(release)])[:8]}.{what}"

    def _note_lists(self, release: Release) -> None:
        atomic.write(self._apt(release, "listed"), "\n".join(self.archive().sources(release)))

    def _lists_are_of_this_archive(self, release: Release) -> bool:
        """Return whether apt's lists are there and of the mirror in use now; it may be another than the last time."""
        try:
            listed = self._apt(release, "listed").read_text(encoding="utf-8")
        except OSError:
            return False
        return listed == "\n".join(self.archive().sources(release)) and self._apt(release, "lists").is_dir()

    def apt_binds(self, release: Release) -> list[tuple[Path, str]]:
        """Return the bind mounts with which apt in a root of `release` sees the archive as roots were made from it.

        sources.list too: a root may have been made from another mirror than the one in use now.
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

    def _root(self, release: Release, record: _Record) -> Root | None:
        layers = tuple(self.cache.path / "roots" / name for name in record.layers)
        if not all(layer.is_dir() for layer in layers):
            return None
        return Root(release.name, record.key, layers, tuple(record.packages))

    def _record_path(self, release: Release, dependencies: Sequence[str]) -> Path:
        purpose = _digest([repr(release), self.architecture, *dependencies])[:12]
        return self.cache.folder("roots") / f"{release.name}-{purpose}.json"

    def _read(self, path: Path) -> _Record | None:
        try:
            return _Record(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, path: Path, root: Root) -> None:
        record = _Record(root.key, [layer.name for layer in root.layers], list(root.packages), time.time())
        atomic.write(path, json.dumps(asdict(record), indent=1))


def entering(root: Root, scratch: Path, user: str, binds: Iterable[tuple[Path, str]], *, confined: bool) -> list[str]:
    """Return the words that run the following command in `root`; they need the namespace of `namespaces.as_root`.

    The first process of that namespace is a shell that stays root's. The command may become another user, which makes
    the kernel forget that it is to die with its parent (prctl(2), PR_SET_PDEATHSIG): kill -9 would leave it running.
    """
    layers = "\n".join(str(layer) for layer in reversed(root.layers))
    lines = "\n".join(f"{source}\n{target}" for source, target in binds)
    stay = ["sh", "-c", '"$@"; exit $?', "sh"]
    return [*stay, str(ENTER), layers, str(scratch), user, "1" if confined else "0", lines]


def root_failure(release: Release, failure: CommandFailed) -> MachineError:
    """Say in one line why a root could not be made, with what usually mends it."""
    if isinstance(failure, CommandStalled):
        return MachineError(
            f"the root of {release.name} was not made: nothing happened for too long", hint="is the mirror reachable?"
        )
    errors = [line for line in failure.lines if re.match(r"(E|Err|W|mount|unshare)\b:?", line)] or failure.lines
    first = errors[0] if errors else str(failure)
    line = next((line for line in errors if line.startswith("E: ") and "apt-get" not in line), first)
    if "does not have a Release file" in line:  # apt says why in the line below that of the file
        below = (two for one, two in pairwise(failure.lines) if one.startswith("Err:") and two.startswith(" "))
        line = next(below, line).strip()
    hint = "is the mirror reachable? another one: --mirror URL"
    if any("No space left" in line for line in failure.lines):
        line, hint = "no space left on the device", "free some space, or move the cache with PGPOOL_DEB_CACHE=/path"
    elif any("Unable to locate" in line or "no installation candidate" in line or "Unmet" in line for line in errors):
        hint = f"does releases.toml name an apt source of {release.name} that has it?"
    return MachineError(f"the root of {release.name} was not made: {line.removeprefix('E: ')}", hint=hint)


def _mmdebstrap_options(architecture: str) -> list[str]:
    build_user = 'chroot "$1" useradd --uid 1000 --user-group --home-dir /build --shell /bin/sh builder'
    # The root keeps the options, but no password.
    forget = 'sed -i \'\\,://[^/"]*@,d\' "$1/etc/apt/apt.conf.d/99mmdebstrap"'
    return [
        "--mode=root", "--variant=minbase", "--format=directory", f"--architectures={architecture}",
        "--skip=cleanup/apt/lists", "--dpkgopt=force-unsafe-io", f"--aptopt={PLAIN_FILE}",
        '--aptopt=Acquire::Retries "3"', '--aptopt=Acquire::Retries::Delay "false"',
        '--aptopt=Acquire::http::Timeout "30"', '--aptopt=Acquire::Languages "none"',
        f"--customize-hook={build_user}", f"--customize-hook={forget}",
    ]  # fmt: skip


def _write_private(path: Path, lines: Iterable[str]) -> None:
    """Write lines that may hold a proxy's password."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _key(release: Release, architecture: str, packages: Sequence[str]) -> str:
    return f"{release.name}-{_digest([release.name, architecture, *sorted(packages)])[:16]}"


def _together(base: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return `name=version` of all packages; one that was added in another version replaces the base's."""
    versions = dict(line.split("=", 1) for line in (*base, *added))
    return tuple(f"{name}={version}" for name, version in sorted(versions.items()))


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _report_to(runner: Runner) -> Callable[[str], None]:
    return lambda line: runner.on_line(line) if runner.on_line else None
