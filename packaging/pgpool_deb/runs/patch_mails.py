"""`./invoke patches`: write the list of our patches, and a mail to upstream for each one that upstream could use.

Our hunks have little context, so that they fit many versions. Mails contain a new diff, taken from the patched source.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pgpool_deb.boxes import archive, machine
from pgpool_deb.ground import atomic
from pgpool_deb.ground.cache import Cache
from pgpool_deb.ground.errors import ExitStatus, MachineError, UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.packages import debianize, patch_list, patches, pgpool2
from pgpool_deb.packages.patches import NOT_SENT, Change, Patch
from pgpool_deb.upstream.pins import Pins

FOLDER = Path("upstream")
"""The folder in dist/ for the mails; it contains nothing else."""
_OURS = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_MAIL = ("format-patch", "-1", "--stdout", "--no-signature", "--zero-commit")


def run(project: Project, version: str | None, *, install: bool, report: Report) -> ExitStatus:
    """Write docs/reference/patches.md, and replace the mails in dist/upstream.

    `version` is a pinned one, None for the newest whose tarball is in the cache. Raises UsageError if a patch or
    series.in is malformed or the version is not pinned, MachineError if a tool or the tarball is unavailable.
    """
    templates = project.templates(pgpool2.NAME)
    try:
        listed = patch_list.rows(templates)
    except (OSError, ValueError) as error:
        hint = f"{patch_list.PLACE} lists the fields of a header"
        raise UsageError(str(error), hint=hint) from error
    atomic.write(project.path / patch_list.PLACE, patch_list.render(listed))
    report(f"wrote {patch_list.PLACE}")

    not_sent = {row.patch.name for row in listed if row.patch.forwarded == NOT_SENT}
    chosen_version, tarball = _source(Pins.load(project.sources), version, Cache.open().folder("sources"), report)
    machine.require(machine.MAILS, install=install, report=report)
    chosen = patches.chosen(templates, chosen_version)
    written = mails(patches.changes(chosen, tarball))
    _replace(written, project.dist / FOLDER)
    for name in sorted(not_sent - written.keys()):
        report(
            f"warning: no mail for {name}.patch, which is not for pgpool-II {chosen_version} or does not apply to it"
        )
    report(f"wrote {len(written)} mails for pgpool-II {chosen_version} to {project.dist / FOLDER}")
    return ExitStatus.GOOD


def _source(pins: Pins, version: str | None, folder: Path, report: Report) -> tuple[str, Path]:
    """Return a pinned version and its tarball, which is downloaded only if the user named the version."""
    pin = pins.at_hand(folder) if version is None else pins.named(version)
    if pin is None:
        newest = next((pin.version for pin in pins.pins if pin.proved is not None), pins.pins[0].version)
        raise UsageError("the cache has no tarball of a pinned version", hint=f"--pgpool {newest} downloads it")
    mirror = "" if pin == pins.at_hand(folder) else archive.find_archive(None).mirror
    source = pins.obtain(pin.version, mirror, folder, report)
    return source.version, source.tarball


def mails(changes: Iterable[Change]) -> dict[str, str]:
    """Return the mail of each fitting patch that was not sent, by the patch's name, as `git format-patch` writes it.

    The same changes give the same text. Raises MachineError if git fails.
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
    fields = {"NAME": name, "EMAIL": address, "DATE": day}
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in fields.items()}
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "--message", message, **identity)


def _git(repository: Path, *arguments: str, **variables: str) -> str:
    """Return git's output; git sees none of the caller's configuration and GIT_ variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**inherited, **_OURS, **variables}
    done = subprocess.run(["git", *arguments], cwd=repository, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        first_line = os.fsdecode(done.stderr).strip().partition("\n")[0]
        raise MachineError(f"git {arguments[0]} failed: {first_line}", hint="check the free disk space")
    return done.stdout.decode("utf-8")


def _replace(written: Mapping[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        atomic.write(folder / f"{name}.patch", text)
    for path in folder.glob("*.patch"):
        if path.stem not in written:
            path.unlink()
