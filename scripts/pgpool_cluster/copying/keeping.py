"""Before a node's data is replaced, keep the WAL that only this node has, with the names of its transactions.

Without transactions there is nothing to keep: PostgreSQL writes some WAL by itself. A node whose WAL cannot be kept is
not changed. That costs redundancy while the other nodes serve, whereas the WAL may be the only copy of commits that
were acknowledged (`synchronous: 0`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

from ..decision.facts.diverged_report import DivergedReport
from ..decision.facts.divergence import Stretch, own_stretches
from ..decision.facts.facts import Lsn, NodeFacts, Origin
from ..ground import log, paths
from ..ground.errors import ClusterError, ServerError
from ..ground.waiting import poll
from ..machine.server import Instance
from ..machine.wal import diverged
from ..machine.wal.diverged import WalPart
from ..machine.wal.wal_files import server_errors
from ..node.node import LOOK_SECONDS, Here
from ..postgresql import data_directory, wal_contents
from ..postgresql import postgresql as pg
from ..postgresql.wal_contents import WalContents
from ..transport import pulse
from ..transport.protocol import LookRequest

_SEGMENT_BYTES = "Bytes per WAL segment"
_SOURCE_SECONDS, _SOURCE_PAUSE_SECONDS = 10.0, 0.3


class NotKeptError(ServerError):
    """WAL that only this node has could not be kept, so its data was not replaced."""


def keep(here: Here, source: str) -> str:
    """Keep the WAL of this node that `source` does not have, and return its folder. Its server must have ended.

    Return "" if there is no such WAL, if it was kept before, or if the data is not whole or of another cluster.
    Raises NotKeptError.
    """
    record = here.record
    if not here.cluster.mode.streams or record.system is None or record.copying:
        return ""
    control = pg.control_data(here.server.instance)
    if not control and (here.server.instance.data / "PG_VERSION").exists():
        log.warning("the control file cannot be read, so WAL that only this node has is unknown, and is not kept")
    if control.get("Database system identifier") != str(record.system):
        return ""
    try:
        with server_errors(paths.DIVERGED):
            return _Keeping.of(here, _source(here, source), control).run()
    except ClusterError as error:
        reason = f"the WAL that only {here.me.name} has cannot be kept: {error.message}"
        hint = f"{error.hint}; to lose that WAL: pgpoolctl recover --force {here.me.name}"
        raise NotKeptError(reason, hint=hint) from error


def _source(here: Here, name: str) -> NodeFacts:
    """Return the facts of the source, with its timeline and position. Raises ServerError if they stay unknown.

    They are unknown for a moment after its promotion.
    """

    def ask() -> NodeFacts:
        with contextlib.suppress(ClusterError):
            return here.on(name, LookRequest(fresh=True), seconds=LOOK_SECONDS)
        return NodeFacts(name, reachable=False)

    facts = poll(ask, until=_is_known, seconds=_SOURCE_SECONDS, pause=_SOURCE_PAUSE_SECONDS)
    if not _is_known(facts):
        raise ServerError(f"the history of {name} is unknown: it does not answer", hint="pgpoolctl status shows why")
    return facts


def _is_known(facts: NodeFacts) -> bool:
    return None not in (facts.timeline, facts.position)


@dataclasses.dataclass(slots=True)
class _Keeping:
    """One record of diverged WAL in the making."""

    node: str
    source: NodeFacts
    instance: Instance
    timeline: int
    segment_bytes: int
    system: str
    origins: tuple[Origin, ...]
    contents: WalContents = dataclasses.field(default_factory=WalContents)
    gone: list[str] = dataclasses.field(default_factory=list)
    """Remarks on WAL that is not on the disk any more, or was not read."""

    @classmethod
    def of(cls, here: Here, source: NodeFacts, control: dict[str, str]) -> _Keeping:
        data = here.server.instance.data
        # The control file has the latest timeline only after the next checkpoint.
        timeline = max(int(control["Latest checkpoint's TimeLineID"]), data_directory.received_timeline(data))
        size = int(control[_SEGMENT_BYTES])
        system, origins = control["Database system identifier"], here.record.origins
        return cls(here.me.name, source, here.server.instance, timeline, size, system, origins)

    def run(self) -> str:
        history = data_directory.history(self.instance.data, self.timeline)
        stretches = own_stretches(self.source, self.timeline, history, self.origins)
        found = [read for one in stretches if (read := self._read(one)) is not None]
        if self.contents.empty:
            log.info(f"no transaction is in this node's WAL alone, compared with {self.source.node}")
            return ""
        report = DivergedReport(
            name=diverged.named(self.node, self.timeline),
            timeline=self.timeline,
            begins=str(found[0].start),
            ends=str(self.contents.end),
            committed=self.contents.count(committed=True),
            other=self.contents.count(committed=False),
            bytes=0,
        )
        if any(_same(one, report) for one in diverged.listed(paths.DIVERGED)):
            return ""
        parts = [part for one in found for part in self._parts(one)]
        kept = diverged.store(paths.DIVERGED, report, parts, self._text(report, found))
        log.warning(
            f"{kept.committed} committed and {kept.other} other transactions are in this node's WAL alone: "
            f"{paths.DIVERGED / kept.name / diverged.TRANSACTIONS} names them"
        )
        return str(paths.DIVERGED / kept.name)

    @property
    def _wal(self) -> Path:
        return self.instance.data / "pg_wal"

    def _read(self, stretch: Stretch) -> Stretch | None:
        """Read the records of a stretch; return the part that has any, None if there are none."""
        start = diverged.first_on_disk(self._wal, stretch.timeline, stretch.start, self.segment_bytes)
        if start is None or (stretch.end is not None and start >= stretch.end):
            return None
        if start > stretch.start:
            self.gone.append(f"WAL before {start} of timeline {stretch.timeline} is not on the disk any more.")
        limit = Lsn(start.bytes + diverged.MOST_RECORD_BYTES)
        end = min(limit, stretch.end or limit)
        self.contents.end, self.contents.stopped, before = None, "", self.contents.end
        wal_contents.read(self.instance, self._wal, Stretch(stretch.timeline, start, end), self.contents, _beat)
        if self.contents.end is None:
            self.contents.end = before
            return None
        if end == limit and not self.contents.stopped:
            self.gone.append(f"Only the WAL before {limit} was read and kept.")
        return Stretch(stretch.timeline, start, min(self.contents.end, stretch.end or self.contents.end))

    def _parts(self, stretch: Stretch) -> Iterable[WalPart]:
        assert stretch.end is not None  # noqa: S101 - for the type checker
        return diverged.parts(self._wal, stretch.timeline, stretch.start, stretch.end, self.segment_bytes)

    def _text(self, report: DivergedReport, found: Iterable[Stretch]) -> str:
        contents = self.contents
        stretches = [f"timeline {one.timeline} from {one.start} to {one.end}" for one in found]
        more = [f"{contents.unlisted} records of further transactions are not listed."] if contents.unlisted else []
        head = [
            f"WAL that only {self.node} had, kept before {self.node} became a standby of {self.source.node}.",
            f"kept at: {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC",
            f"PostgreSQL {self.instance.name.major}, system identifier {self.system}",
            *(f"WAL: {one}" for one in stretches),
            f"{report.committed} transactions have committed, {report.other} have not.",
            *more,
            *self.gone,
            f"pg_waldump ended with: {contents.stopped}" if contents.stopped else "",
            "A relation is named tablespace/database/file, by the numbers of pg_class and pg_database.",
            "",
        ]
        lines = (line for one in contents.transactions.values() for line in one.lines)
        return "".join(f"{line}\n" for line in (*head, *lines))


def _same(one: DivergedReport, other: DivergedReport) -> bool:
    return dataclasses.replace(one, name="", bytes=0) == dataclasses.replace(other, name="", bytes=0)


def _beat() -> None:
    pulse.beat(pulse.PROGRESS_SECONDS)
