"""The checker of the drill: it finds anomalies in a history of list appends and classifies them by mode."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from . import cycles
from .cycles import Cycle
from .operations import FAILED, Operation
from .promises import Promise

LOST = "lost write"
TWICE = "value twice"
UNWRITTEN = "value never written"
ABORTED = "value of a failed transaction"
NOT_A_PREFIX = "read is not a prefix"
STALE = "stale read"
OWN = "session misses its own write"
DIVERGED = "nodes differ"

Lists = Mapping[str, tuple[int, ...]]
"""The values of each list, in order."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """An anomaly, with the operations that show it: a counterexample to the mode's promise."""

    kind: str
    why: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.kind}: {self.why}", *(f"  {operation}" for operation in self.operations)])


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one history."""

    operations: int
    outcomes: Mapping[str, int]
    broken: tuple[Anomaly, ...]
    """Anomalies that the mode excludes."""
    permitted: Mapping[str, int]
    """How often each anomaly occurred that the mode permits."""

    @property
    def counterexample(self) -> Anomaly | None:
        """The anomaly with the fewest operations; None if the mode kept its promise."""
        return min(self.broken, key=lambda anomaly: len(anomaly.operations), default=None)


def check(history: Sequence[Operation], finals: Mapping[str, Lists], promise: Promise) -> Verdict:
    """Check a history against a mode's promise.

    `finals` has the lists of each node after all faults have healed; the first node is a primary.
    """
    final = dict(next(iter(finals.values())))
    reads = [operation for operation in history if operation.acknowledged and operation.reads]
    broken = [*_differing(finals), *_written(history, final), *_lost(history, final)]
    odd = list(_not_prefixes(reads, final, _writers(history)))
    broken += odd
    strange = {id(operation) for anomaly in odd for operation in anomaly.operations}
    regular = [operation for operation in reads if id(operation) not in strange]
    broken += _stale(regular, history, final, promise)
    own = list(_own(regular, history))
    permitted: Counter[str] = Counter()
    if promise.own_writes:
        broken += own
    else:
        permitted[OWN] = len(own)
    if not any(anomaly.kind in (UNWRITTEN, TWICE) for anomaly in broken):
        circles, allowed = _cycles(regular, history, final, promise)
        broken += circles
        permitted.update(allowed)
    outcomes = Counter(operation.outcome for operation in history)
    return Verdict(len(history), outcomes, tuple(broken), {kind: count for kind, count in permitted.items() if count})


def _writers(history: Iterable[Operation]) -> dict[tuple[str, int], Operation]:
    return {(name, value): operation for operation in history for name, value in operation.appends.items()}


def _differing(finals: Mapping[str, Lists]) -> Iterator[Anomaly]:
    (first, expected), *others = finals.items()
    for node, lists in others:
        names = sorted(name for name in {*expected, *lists} if expected.get(name, ()) != lists.get(name, ()))
        if names:
            yield Anomaly(DIVERGED, f"{first} and {node} have different values in {', '.join(names)} at the end")


def _written(history: Sequence[Operation], final: Lists) -> Iterator[Anomaly]:
    """Check each value of the final lists: it is there once, and a transaction that may have committed wrote it."""
    writers = _writers(history)
    for name, values in final.items():
        for value, count in Counter(values).items():
            writer = writers.get((name, value))
            if writer is None:
                yield Anomaly(UNWRITTEN, f"{value} is in {name}, and no client appended it")
            elif writer.outcome == FAILED:
                yield Anomaly(ABORTED, f"{value} is in {name}", (writer,))
            elif count > 1:
                yield Anomaly(TWICE, f"{value} is in {name} {count} times", (writer,))


def _lost(history: Sequence[Operation], final: Lists) -> Iterator[Anomaly]:
    present = {name: set(values) for name, values in final.items()}
    for operation in history:
        missing = [name for name, value in operation.appends.items() if value not in present.get(name, ())]
        if operation.acknowledged and missing:
            yield Anomaly(LOST, f"an acknowledged append is missing in {', '.join(missing)} at the end", (operation,))


def _not_prefixes(
    reads: Iterable[Operation], final: Lists, writers: Mapping[tuple[str, int], Operation]
) -> Iterator[Anomaly]:
    """Find reads that are not a prefix of the final list, and name the worst reason once for each read."""
    for operation in reads:
        for name, seen in operation.reads.items():
            if seen == tuple(final.get(name, ())[: len(seen)]):
                continue
            foreign = [value for value in seen if (name, value) not in writers]
            failed = [writer for value in seen if (writer := writers.get((name, value))) and writer.outcome == FAILED]
            if foreign:
                yield Anomaly(UNWRITTEN, f"{foreign[0]} was read in {name}, and no client appended it", (operation,))
            elif failed:
                yield Anomaly(
                    ABORTED, f"{name} was read with the value of a failed transaction", (failed[0], operation)
                )
            else:
                yield _parting(operation, name, seen, final.get(name, ()), writers)
            break


def _parting(
    operation: Operation,
    name: str,
    seen: Sequence[int],
    last: Sequence[int],
    writers: Mapping[tuple[str, int], Operation],
) -> Anomaly:
    """Describe the first value at which a read and the final list part."""
    place = next(number for number, value in enumerate(seen) if last[number : number + 1] != (value,))
    there = f"has {last[place]}" if place < len(last) else "ends"
    why = f"{seen[place]} is at place {place + 1} of {name}, where the final list {there}"
    return Anomaly(NOT_A_PREFIX, why, (writers[name, seen[place]], operation))


@dataclass(frozen=True, slots=True)
class _Known:
    """The acknowledged appends to a list, by the time of their acknowledgement."""

    times: Sequence[float]
    furthest: Sequence[tuple[int, Operation]]
    """For each time, the append up to then with the highest place in the final list."""

    def at(self, moment: float) -> tuple[int, Operation] | None:
        """Return the furthest append acknowledged before a moment, with its place."""
        count = bisect_right(self.times, moment)
        return self.furthest[count - 1] if count else None


def _known(history: Iterable[Operation], name: str, values: Sequence[int]) -> _Known:
    places = {value: place for place, value in enumerate(values)}
    rows = sorted(
        (
            (operation.ended, places[operation.appends[name]], operation)
            for operation in history
            if operation.acknowledged and operation.appends.get(name) in places
        ),
        key=lambda row: row[0],
    )
    furthest = accumulate(((place, operation) for _, place, operation in rows), _further)
    return _Known([ended for ended, _, _ in rows], list(furthest))


def _further(one: tuple[int, Operation], other: tuple[int, Operation]) -> tuple[int, Operation]:
    return max(one, other, key=lambda row: row[0])


def _stale(
    reads: Iterable[Operation], history: Sequence[Operation], final: Lists, promise: Promise
) -> Iterator[Anomaly]:
    """Find reads that miss an append which was acknowledged longer ago than the promise allows."""
    known = {name: _known(history, name, values) for name, values in final.items()}
    for operation in reads:
        limit = promise.stale_standby if operation.standby else promise.stale_primary
        for name, seen in operation.reads.items():
            latest = known[name].at(operation.began - limit) if name in known else None
            if latest and latest[0] >= len(seen):
                age = operation.began - latest[1].ended
                why = f"a read in {name} misses an append acknowledged {age:.1f} s before, and {limit:g} s is the limit"
                yield Anomaly(STALE, why, (latest[1], operation))
                break


def _own(reads: Iterable[Operation], history: Sequence[Operation]) -> Iterator[Anomaly]:
    """Find reads that miss an append of the same session."""
    appended: dict[tuple[str, int], list[Operation]] = {}
    for operation in history:
        if operation.acknowledged and operation.appends:
            appended.setdefault((operation.client, operation.session), []).append(operation)
    for operation in reads:
        for earlier in appended.get((operation.client, operation.session), ()):
            missed = sorted(
                name for name, value in earlier.appends.items() if value not in operation.reads.get(name, (value,))
            )
            if missed and earlier.ended <= operation.began:
                yield Anomaly(OWN, f"a read in {missed[0]} misses an append of its session", (earlier, operation))
                break


def _cycles(
    reads: Sequence[Operation], history: Sequence[Operation], final: Lists, promise: Promise
) -> tuple[list[Anomaly], Counter[str]]:
    """Find cycles. Where forks are permitted, only those within one node are broken promises."""
    regular = {id(operation) for operation in reads}
    blind = [operation if id(operation) in regular else replace(operation, reads={}) for operation in history]
    found = cycles.shortest(list(cycles.edges(blind, final)))
    broken = {kind: _circle(kind, blind, cycle) for kind, cycle in found.items()}
    allowed: Counter[str] = Counter()
    if promise.forks and Cycle.FORK in broken:
        del broken[Cycle.FORK]
        allowed[Cycle.FORK] = 1
        for node in sorted({operation.node for operation in reads}):
            own = [one if one.appends or one.node == node else replace(one, reads={}) for one in blind]
            cycle = cycles.shortest(list(cycles.edges(own, final))).get(Cycle.FORK)
            if cycle:
                broken[Cycle.FORK] = replace(_circle(Cycle.FORK, own, cycle), why=f"all reads were on {node}")
    return list(broken.values()), allowed


def _circle(kind: Cycle, operations: Sequence[Operation], cycle: Iterable[int]) -> Anomaly:
    return Anomaly(kind, "each transaction comes before the next one, and the last before the first",
                   tuple(operations[number] for number in cycle))  # fmt: skip
