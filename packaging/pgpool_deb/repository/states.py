"""Write a new state of a repository: its time, the changed suites, and the unchanged ones."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pgpool_deb.ground.errors import UsageError
from pgpool_deb.ground.progress import Report
from pgpool_deb.ground.project import Project
from pgpool_deb.ground.releases import ReleaseTable
from pgpool_deb.upstream.pins import Pins

from . import carrying, index_page, keyring, resigning, signing, suites
from .own_key import KeyType
from .signing import Key
from .suites import Suite
from .tree import Repository, moment_of

_SAME_SECOND = 60
"""Publishes within one second get the following seconds. If the clock is further behind, in seconds, it is wrong."""


@contextmanager
def session(
    repository: Repository, chosen: str | None, report: Report, wanted: KeyType | None = None
) -> Iterator[tuple[Key, int]]:
    """Hold the repository's lock, and yield the key that signs and the time of the state to be written.

    Reports a warning if a key expires within 60 days. `wanted` is the type of the project's own key, which is created
    on first use. Raises UsageError for a wrong clock or key.
    """
    with repository.locked(report):
        moment = moment_after(repository.state)
        with signing.key(chosen, moment, report, wanted) as key:
            for fingerprint, left in signing.ending(key.ends, moment).items():
                report(f"warning: the key {fingerprint} expires in {left} days")
                report("hint: to create a new subkey, see docs/how-to/publish-a-repository.md")
            yield key, moment


def write(project: Project, repository: Repository, changed: Sequence[Suite], key: Key, moment: int) -> None:
    """Write and switch to a new state with these changed suites; all other suites stay the same.

    Suites with fewer than 20 days until Valid-Until are signed again. If the key or the URL changed, all suites that
    are not up to date are signed again and get a keyring package with the change.
    """
    before = repository.state
    table = ReleaseTable.load(project.releases)
    changed = [*changed, *_to_be_told(before, {suite.name for suite in changed}, repository.url, key)]
    for suite in changed:
        keyring.offer(repository, suite, table.named(suite.release).number, key, moment)
    if before is not None and (old := keyring.held(before)) not in (None, key.public):
        resigning.statements(repository, old or b"", key, moment)
    with repository.writing(moment) as state:
        for suite in changed:
            suites.write(state, suite, key, moment)
        for name, release in suites.named(before).items():
            if before is None or name in {suite.name for suite in changed}:
                continue
            if suites.ends_soon(before, name, moment):
                suites.write(state, suites.verified(before, name, release, key), key, moment)
            else:
                carrying.keep(before, state, name)
        carrying.link_by_hash(repository, state, moment)
        summaries = suites.summaries(state)
        keyring.lay_down(state, repository.url, key, [one.name for one in summaries])
        text = index_page.html(repository.url, summaries, key, moment, Pins.load(project.sources).known)
        (state / "index.html").write_text(text, encoding="utf-8")


def _to_be_told(before: Path | None, changed: Collection[str], url: str, key: Key) -> list[Suite]:
    """Return the unchanged suites whose keyring package holds another key or URL than these."""
    return [
        suites.verified(before, one.name, one.release, key)
        for one in suites.summaries(before)
        if one.name not in changed and one.keyring != keyring.digest(key.public, url, one.name)
    ]


def moment_after(before: Path | None) -> int:
    """Return the time of a new state: $SOURCE_DATE_EPOCH, else the previous second, for which gpg can sign.

    Raises UsageError for a wrong clock.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None and not given.isdecimal():
        raise UsageError(
            f"SOURCE_DATE_EPOCH is not a number: {given!r}", hint="set it to seconds since 1970, or unset it"
        )
    moment = int(given) if given is not None else int(time.time()) - 1
    if before is None or moment > moment_of(before):
        return moment
    if given is None and moment_of(before) - moment < _SAME_SECOND:
        return moment_of(before) + 1
    raise UsageError(
        f"the time {moment} is not later than the current state, {before.name}",
        hint="set the clock or SOURCE_DATE_EPOCH: apt rejects a state older than the one that it has",
    )
