"""Turn what `--source` names (a tarball, an unpacked tree or a git checkout of pgpool-II) into a checked tarball."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.progress import Report

from . import download, git_checkout, tarball, upstream_version
from .git_checkout import GitCheckout
from .pins import Pins
from .sources import STATING_FILES, Facts, Source, checked, read_record, write_record
from .tarball import Entry, EntryKind
from .upstream_version import Snapshot, UpstreamVersion

_KEPT_TREES = 8
_TAKES = "--source takes a tarball, an unpacked tree or a git checkout of pgpool-II"


def from_path(path: Path, cache: Path, report: Report, pins: Pins | None = None) -> Source:
    """Return the source that `--source PATH` names: a tarball, an unpacked tree, or a git checkout at any commit.

    A tarball is used unchanged. The others become a reproducible tarball in `cache`, which is rewritten only if their
    content changed. A git checkout contributes its tracked files with their uncommitted changes. With `pins`, a
    tarball that claims to be a pinned release but has other bytes gets a version of its own.

    Raises UsageError for a path that is missing, unreadable, or not pgpool-II.
    """
    try:
        real = path.expanduser().resolve(strict=True)
        if not real.is_dir():
            return _from_tarball(real, cache, report, pins)
        return _from_checkout(real, cache, report) if (real / ".git").exists() else _from_tree(real, cache, report)
    except FileNotFoundError as error:
        raise UsageError(f"--source {error.filename}: no such file or folder", hint=_TAKES) from error
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"--source {path} cannot be read: {error}", hint="correct the path or the permissions"
        ) from error


def _from_tarball(path: Path, cache: Path, report: Report, pins: Pins | None) -> Source:
    suffix = tarball.suffix(path)
    sha256 = download.sha256_of(path)
    facts = checked(path, sha256, cache, UsageError)
    stated = _understood(facts.stated, path)
    pin = next((pin for pin in pins.pins if pin.sha256 == sha256), None) if pins else None
    version = pin.version if pin else _version_of_tarball(path, facts, stated, sha256)
    if pins and not pin and any(version == pin.version for pin in pins.pins):
        report(f"{path.name} is not the pinned tarball of {version}, so it gets a version of its own")
        version = upstream_version.of_local_content(stated, facts.newest, sha256)
    return Source(
        version=version,
        tarball=path,
        suffix=suffix,
        sha256=sha256,
        pinned=pin is not None,
        date=pin.date if pin else facts.newest,
        origin=f"tarball {path}",
        needs_autoreconf=not facts.has_configure,
        proved=pin is not None and pin.proved is not None,
        place="" if pin else str(path),
    )


def _version_of_tarball(path: Path, facts: Facts, stated: UpstreamVersion, sha256: str) -> str:
    """Return the version that the tarball states if its file or top directory names the same, else one of its own.

    A tarball of a branch states the last release, so the stated version does not prove that it is that release.
    """
    if upstream_version.is_named_in(stated, path.name) or upstream_version.is_named_in(stated, facts.top):
        return str(stated)
    if facts.commit:
        return upstream_version.of_commit(stated, Snapshot(facts.commit, facts.newest))
    return upstream_version.of_local_content(stated, facts.newest, sha256)


def _understood(stated: str | None, path: Path) -> UpstreamVersion:
    if stated is None:
        raise UsageError(f"{path} is not pgpool-II's source: it has no configure.ac of pgpool-II", hint=_TAKES)
    version = upstream_version.parse(stated)
    if version is None:
        raise UsageError(
            f"{path}: configure.ac states version {stated[:60]!a}, which does not have pgpool-II's form",
            hint="use a version such as 4.6.1, 4.7RC1, 4.7beta1 or 4.8devel",
        )
    return version


def _from_tree(root: Path, cache: Path, report: Report) -> Source:
    if not (root / "configure.ac").exists() and (root / "objects").is_dir() and (root / "HEAD").is_file():
        raise UsageError(f"{root} is a bare git repository", hint=f"git clone {root} pgpool2, then --source pgpool2")
    stated = _understood(_stated_in_tree(root), root)
    if (root / "config.status").exists():
        raise UsageError(
            f"{root} contains the results of an earlier build (config.status)", hint=f"make -C {root} distclean"
        )
    entries = tarball.tree(root)
    content = tarball.digest(entries)
    # Time stamps are not content: a tree that was only touched keeps its first date.
    record = cache / "trees" / f"{content}.json"
    date = read_record(record).get("date")
    if not isinstance(date, int):
        date = max(int(entry.path.lstat().st_mtime) for entry in entries if entry.kind is not EntryKind.FOLDER)
        write_record(record, {"date": date})
    version = upstream_version.of_local_content(stated, date, content)
    return _packed(_Packing(entries, content, version, date, f"unpacked tree {root}", str(root)), cache, report)


def _stated_in_tree(root: Path) -> str | None:
    texts = [
        (root / name).read_text(encoding="utf-8", errors="replace") if (root / name).is_file() else None
        for name in STATING_FILES
    ]
    return upstream_version.stated_in(texts[0], texts[1])


def _from_checkout(root: Path, cache: Path, report: Report) -> Source:
    stated = _understood(_stated_in_tree(root), root)
    with git_checkout.opened(root) as checkout:
        commit, date = checkout.head()
        modified = checkout.is_modified()
        tracked = checkout.tracked()
        tags = checkout.tags()
        before_tag = _is_before_tag(checkout, stated, tags)
    names = {name for name in tracked if os.path.lexists(root / name)}
    if not modified and len(names) < len(set(tracked)):
        raise UsageError(f"{root} is a sparse checkout", hint=f"git -C {root} sparse-checkout disable")
    entries = tarball.tree(root, names)
    content = tarball.digest(entries)
    snapshot = Snapshot(
        commit=commit,
        date=date,
        tags=frozenset(tag for tag, tagged in tags.items() if tagged == commit),
        before_tag=before_tag,
        dirty=content if modified else None,
    )
    version = upstream_version.of_commit(stated, snapshot)
    changes = " with uncommitted changes" if modified else ""
    origin = f"git checkout {root} at {commit[:8]}{changes}"
    return _packed(_Packing(entries, content, version, date, origin, str(root)), cache, report)


def _is_before_tag(checkout: GitCheckout, stated: UpstreamVersion, tags: dict[str, str]) -> bool:
    """Return whether the stated version was tagged later: its tag exists and is not an ancestor of the checkout."""
    tagged = [commit for tag, commit in tags.items() if upstream_version.parse_tag(tag) == stated]
    return bool(tagged) and not checkout.descends_from_tag_of(tagged[0])


@dataclass(frozen=True, slots=True)
class _Packing:
    """A tree to pack into a tarball."""

    entries: tuple[Entry, ...]
    content: str
    version: str
    date: int
    origin: str
    place: str


def _packed(packing: _Packing, cache: Path, report: Report) -> Source:
    """Return the tree as a source; packs it unless the cache has a tarball of this content and version."""
    folder = cache / "trees" / f"{packing.content[:32]}-{packing.date}"
    path = folder / f"pgpool2_{packing.version}.orig.tar.gz"
    record = path.with_name(f"{path.name}.json")
    sha256 = read_record(record).get("sha256")
    if not (path.is_file() and download.sha256_of(path) == sha256):
        report(f"packing {packing.origin} as {path.name}")
        written = tarball.write(packing.entries, f"pgpool2-{packing.version}", packing.date, path)
        if written != packing.content:
            path.unlink()
            raise UsageError(
                f"{packing.origin} changed while it was being read",
                hint="stop the program that writes to it, then run the same command again",
            )
        sha256 = download.sha256_of(path)
        write_record(record, {"sha256": sha256})
        _forget_old_trees(folder)
    return Source(
        version=packing.version,
        tarball=path,
        suffix="gz",
        sha256=sha256,
        pinned=False,
        date=packing.date,
        origin=packing.origin,
        needs_autoreconf=all(entry.name != "configure" for entry in packing.entries),
        place=packing.place,
    )


def _forget_old_trees(newest: Path) -> None:
    """Keep only the tarballs of the last few trees, because each edited tree adds one of 5 MB."""
    with suppress(OSError):
        folders = [path for path in newest.parent.iterdir() if path.is_dir() and path != newest]
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime)[: 1 - _KEPT_TREES]:
            shutil.rmtree(folder, ignore_errors=True)
