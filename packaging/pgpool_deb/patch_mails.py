"""`./invoke patches`: the list of our patches, and a mail to upstream for each that upstream could use.

Our hunks have little context, so that they fit many versions. A mail's change is made anew from the patched source.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from . import archive, atomic, debianize, machine, patch_list, patches, pgpool2
from .cache import Cache
from .errors import ExitStatus, MachineError, UsageError
from .patches import NOT_SENT, Change, Patch
from .pins import Pins
from .project import Project

FOLDER = Path("upstream")
"""Of dist/: nothing else is in it."""
_OURS = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_MAIL = ("format-patch", "-1", "--stdout", "--no-signature", "--zero-commit")


def run(project: Project, version: str | None, *, install: bool, report: Callable[[str], None]) -> ExitStatus:
    """Write docs/reference/patches.md, and the mails into dist/upstream, where no others stay.

    `version` is a pinned one; None for the newest whose tarball is in the cache. Raises UsageError where a patch or
    series.in cannot be read, or there is no such version; MachineError where a tool or a tarball cannot be had.
    """
    templates = project.templates(pgpool2.NAME)
    try:
        listed = patch_list.rows(templates)
    except (OSError, ValueError) as error:
        hint = f"the fields of a header are in {patch_list.PLACE}"
        raise UsageError(str(error), hint=hint) from error
    atomic.write(project.path / patch_list.PLACE, patch_list.render(listed))
    report(f"written: {patch_list.PLACE}")

    wanted = {row.patch.name for row in listed if row.patch.forwarded == NOT_SENT}
    chosen_version, tarball = _source(Pins.load(project.sources), version, Cache.open().folder("sources"), report)
    machine.require(machine.MAILS, install=install, report=report)
    chosen = patches.chosen(templates, chosen_version)
    written = mails(patches.changes(chosen, tarball))
    _lay_down(written, project.dist / FOLDER)
    for name in sorted(wanted - written.keys()):
        report(f"warning: {name}.patch is not for pgpool-II {chosen_version}, or does not fit it: no mail")
    report(f"written: {len(written)} mails in {project.dist / FOLDER}, on pgpool-II {chosen_version}")
    return ExitStatus.GOOD


def _source(pins: Pins, version: str | None, folder: Path, report: Callable[[str], None]) -> tuple[str, Path]:
    """Return a pinned version and its tarball, which is downloaded only where the version is named."""
    pin = pins.at_hand(folder) if version is None else pins.named(version)
    if pin is None:
        newest = next((pin.version for pin in pins.pins if pin.proved is not None), pins.pins[0].version)
        raise UsageError("no tarball of a pinned version is in the cache", hint=f"--pgpool {newest} downloads one")
    mirror = "" if pin == pins.at_hand(folder) else archive.find_archive(None).mirror
    source = pins.obtain(pin.version, mirror, folder, report)
    return source.version, source.tarball


def mails(changes: Iterable[Change]) -> dict[str, str]:
    """Return the mail of each patch that fits and was not sent, by its name, as `git format-patch` writes it.

    The same changes give the same text. Raises MachineError where git fails.
    """
    with tempfile.TemporaryDirectory(prefix="pgpool-deb-mails-") as place:
        _git(Path(place), "init", "--quiet")
        return dict(_mails(changes, Path(place)))


def _mails(changes: Iterable[Change], repository: Path) -> Iterator[tuple[str, str]]:
    for change in changes:
        if change.after is None or change.patch.forwarded != NOT_SENT:
            continue
        _commit(repository, change.before, change.patch, "before")
        for name in change.before.keys() - change.after.keys():
            (repository / name).unlink()
        _commit(repository, change.after, change.patch, change.patch.description)
        yield change.patch.name, _git(repository, *_MAIL)


def _commit(repository: Path, files: Mapping[str, bytes], patch: Patch, message: str) -> None:
    for name, content in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    name, _, address = debianize.MAINTAINER.removesuffix(">").partition(" <")
    day = f"{patch.updated}T12:00:00+0000"
    who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER")
           for key, value in (("NAME", name), ("EMAIL", address), ("DATE", day))}  # fmt: skip
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "--message", message, **who)


def _git(repository: Path, *arguments: str, **variables: str) -> str:
    """Return what git prints; of the caller's configuration and GIT_ variables it sees none."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**inherited, **_OURS, **variables}
    done = subprocess.run(["git", *arguments], cwd=repository, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        said = os.fsdecode(done.stderr).strip().partition("\n")[0]
        raise MachineError(f"git {arguments[0]} failed: {said}", hint="is the disk full?")
    return done.stdout.decode("utf-8")


def _lay_down(written: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        atomic.write(folder / f"{name}.patch", text)
    for path in folder.glob("*.patch"):
        if path.stem not in written:
            path.unlink()
