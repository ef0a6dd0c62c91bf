"""Read from the output of pg_waldump which transactions a stretch of WAL has, and which rows they touched.

pg_waldump names relations by their numbers (tablespace/database/file), and shows no row's content.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..decision.facts.divergence import Stretch
from ..decision.facts.facts import Lsn
from ..ground import programs
from ..machine.server import Instance

MOST_TRANSACTIONS = 10_000
"""The number of transactions that are listed. More are only counted."""
MOST_RELATIONS = 50
"""The number of relations that are listed for one transaction."""
_BEAT_LINES = 50_000
_RECORD = re.compile(
    r"rmgr: (\w+) +len \(rec/tot\): *\d+/ *(\d+), tx: *(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F/]+, "
    r"desc: (\S+) ?(.*)"
)
_RELATION = re.compile(r"blkref #0: rel (\d+/\d+/\d+)")
_TUPLES = re.compile(r"(?:ntuples: )?(\d+)")
_CHANGES = {
    "INSERT": "inserted", "MULTI_INSERT": "inserted", "UPDATE": "updated", "HOT_UPDATE": "updated",
    "DELETE": "deleted", "TRUNCATE": "truncated",
}  # fmt: skip
_ENDS = {
    "COMMIT": "committed", "COMMIT_PREPARED": "committed", "ABORT": "aborted", "ABORT_PREPARED": "aborted",
    "PREPARE": "prepared",
}  # fmt: skip
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? UTC)")
_OPEN = "not ended"


@dataclass(slots=True)
class WalTransaction:
    """A transaction. `rows`: how many rows of each relation it changed; `removed`: files that its end removed."""

    xid: int
    begins: str
    ends: str
    outcome: str = _OPEN
    time: str = ""
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    removed: str = ""

    @property
    def lines(self) -> Iterator[str]:
        """The transaction as text."""
        when = f" {self.time}" if self.time else ""
        yield f"xid {self.xid} {self.outcome}{when}, WAL from {self.begins} to {self.ends}"
        for relation, counts in self.rows.items():
            yield f"    relation {relation}: {', '.join(f'{number} {kind}' for kind, number in counts.items())}"
        if self.removed:
            yield f"    files removed: {self.removed}"

    def add(self, relation: str, change: str, number: int) -> None:
        """Count changed rows."""
        if relation not in self.rows and len(self.rows) >= MOST_RELATIONS:
            relation = "others"
        self.rows.setdefault(relation, Counter())[change] += number

    def include(self, other: WalTransaction) -> None:
        """Include a subtransaction."""
        for relation, counts in other.rows.items():
            for change, number in counts.items():
                self.add(relation, change, number)


@dataclass(slots=True)
class WalContents:
    """The records of one or several stretches. `read` adds to it."""

    transactions: dict[int, WalTransaction] = field(default_factory=dict)
    unlisted: int = 0
    """The number of records of transactions beyond MOST_TRANSACTIONS."""
    end: Lsn | None = None
    """The end of the last record; None if there is none."""
    stopped: str = ""
    """pg_waldump's own reason for the end of the records. In most cases, the WAL ends there."""

    def count(self, *, committed: bool) -> int:
        """Return the number of listed transactions that have committed, or of those that have not."""
        return sum((one.outcome == "committed") is committed for one in self.transactions.values())

    @property
    def empty(self) -> bool:
        """Whether no transaction has written a record."""
        return not self.transactions and not self.unlisted

    def take(self, line: str) -> None:
        """Add one line of pg_waldump's output."""
        match = _RECORD.match(line)
        if match is None:
            self.stopped = line.strip()[:200] or self.stopped
            return
        manager, length, xid, lsn, kind, rest = match.groups()
        place = Lsn.parse(lsn)
        self.end = Lsn(place.bytes + int(length))
        if int(xid):
            self._record(int(xid), str(place), manager, kind, rest)

    def _record(self, xid: int, lsn: str, manager: str, kind: str, rest: str) -> None:
        one = self.transactions.get(xid)
        if one is None:
            if len(self.transactions) >= MOST_TRANSACTIONS:
                self.unlisted += 1
                return
            one = self.transactions[xid] = WalTransaction(xid, lsn, lsn)
        one.ends = lsn
        if manager == "Transaction":
            self._end_of(one, kind, rest)
        elif manager in ("Heap", "Heap2") and (change := _CHANGES.get(kind.removesuffix("+INIT"))):
            relation, tuples = _RELATION.search(rest), _TUPLES.match(rest)
            several = kind.startswith("MULTI_INSERT") and tuples is not None
            number = int(tuples[1]) if several and tuples else 1
            one.add(relation[1] if relation else "unknown", change, number)

    def _end_of(self, one: WalTransaction, kind: str, rest: str) -> None:
        outcome = _ENDS.get(kind)
        if outcome is None:
            return
        if kind.endswith("_PREPARED") and (prepared := re.match(r"(\d+)", rest)):
            one = self.transactions.setdefault(int(prepared[1]), one)
        time, removed = _TIME.search(rest), re.search(r"rels: ([^;]*)", rest)
        one.outcome, one.time = outcome, time[1] if time else ""
        one.removed = removed[1].strip()[:500] if removed else ""
        for sub in (re.search(r"subxacts: ([\d ]+)", rest) or ["", ""])[1].split():
            if (part := self.transactions.pop(int(sub), None)) is not None:
                one.include(part)


def read(instance: Instance, folder: Path, stretch: Stretch, into: WalContents, beat: Callable[[], None]) -> None:
    """Add the records of a stretch in a folder of WAL files; raises ProgramError if pg_waldump cannot be started.

    `beat` is called from time to time, as this may take minutes.
    """
    words = [instance.program("pg_waldump"), f"--path={folder}", f"--timeline={stretch.timeline}"]
    words += [f"--start={stretch.start}", *([f"--end={stretch.end}"] if stretch.end else [])]
    count = 0

    def take(line: str) -> None:
        nonlocal count
        count += 1
        if count % _BEAT_LINES == 1:
            beat()
        into.take(line)

    programs.stream(words, take, environment={"LC_ALL": "C", "TZ": "UTC"})
