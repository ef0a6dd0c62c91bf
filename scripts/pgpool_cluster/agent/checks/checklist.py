"""Collect the results of a node's checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ground.check import Check
from ...ground.fault import Fault

LEAST_FREE = 0.1
"""Share of a disk that has to be free."""
CERTIFICATE_FIX = "replace it, then pgpoolctl apply"


@dataclass(slots=True)
class Checklist:
    """The checks of one node, in their order. `waits`: the reason why the node waits, with its hint."""

    node: str
    waits: str = ""
    checks: list[Check] = field(default_factory=list)

    def add(self, what: str, ok: bool, why: str = "", fix: str = "") -> None:
        """Add a check; `why` and `fix` describe a failure."""
        self.checks.append(Check(self.node, what, ok, why, fix))

    def note(self, what: str, why: str, advice: str) -> None:
        """Add information about something other than a failure."""
        self.checks.append(Check(self.node, what, True, why, advice, note=True))

    def add_faults(self, what: str, faults: Iterable[Fault]) -> None:
        """Add a failed check for each fault, or a passed one if there is none."""
        self.checks += of_faults(self.node, what, faults)

    def hint(self, otherwise: str) -> str:
        """Return the hint in the reason why the node waits, or `otherwise` if it has none."""
        return self.waits.rpartition("hint: ")[2] or otherwise


def of_faults(node: str, what: str, faults: Iterable[Fault]) -> list[Check]:
    """Return a failed check for each fault, so that each has its own fix, or a passed one if there is none."""
    return [Check(node, what, False, fault.why, fault.fix) for fault in faults] or [Check(node, what, True)]
