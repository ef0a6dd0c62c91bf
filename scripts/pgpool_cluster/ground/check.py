"""Define the result of checking one precondition of a working cluster on one node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One precondition on one node. `fix` is the command or edit that fixes a failure. str() is one line.

    A `note` informs about something other than a failure; it has a reason and a fix, too.
    """

    node: str
    what: str
    ok: bool
    why: str = ""
    fix: str = ""
    note: bool = False

    @property
    def json(self) -> dict[str, object]:
        """The JSON object in docs/reference/pgpoolctl.md, which nodes also send to each other."""
        found: dict[str, object] = {"node": self.node, "check": self.what, "ok": self.ok}
        return found if self.ok and not self.note else {**found, "reason": self.why, "fix": self.fix}

    @classmethod
    def of(cls, values: object) -> Check:
        """Return the check from an object that `json` returned; raises ValueError for anything else."""
        match {"reason": "", "fix": "", **values} if isinstance(values, dict) else {}:
            case {"node": str(node), "check": str(what), "ok": bool(ok), "reason": str(why), "fix": str(fix)}:
                return cls(node, what, ok, why, fix, note=ok and bool(why))
        raise ValueError("not a check")

    def __str__(self) -> str:
        if self.note:
            return f"note  {self.node}: {self.what}: {self.why}; {self.fix}"
        if self.ok:
            return f"ok    {self.node}: {self.what}"
        return f"FAIL  {self.node}: {self.what}: {self.why}; fix: {self.fix}"
