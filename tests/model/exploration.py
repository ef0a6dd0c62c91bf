"""Explore the model of failover with spin: every reachable state, within the bounds that a test names."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pgpool_deb.ground.errors import MachineError

MODEL = Path(__file__).with_name("failover.pml")
MEMORY_MIB = 8000
DEEPEST = 100_000
"""The longest path, in steps. An exploration that meets a longer one is not complete."""
_COMPILE = ("cc", "-w", "-O1", "-DSAFETY", "-DNOREDUCE", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c")
"""NOREDUCE: with one process, there is no partial order to reduce."""
_NUMBERS = {
    "states": r"^ *([\d.e+]+) states, stored",
    "steps": r"^ *([\d.e+]+) transitions",
    "errors": r"errors: (\d+)",
    "depth": r"depth reached (\d+)",
    "mib": r"^ *([\d.]+)\s+total actual memory usage",
    "seconds": r"elapsed time ([\d.e+]+) seconds",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The cluster and the bounds of an exploration. `claims` counts the initial primary's term."""

    nodes: int
    synchronous: int
    claims: int
    writes: int
    witnesses: int = 0
    excuse: bool = False
    progress: bool = True

    def __str__(self) -> str:
        """Return the bounds as one line of a report."""
        kind = f"{self.nodes} nodes" + (f" ({self.witnesses} of them witnesses)" if self.witnesses else "")
        parts = (kind, f"n = {self.synchronous}", f"{self.claims} terms", f"{self.writes} writes")
        return ", ".join([*parts, *(["excuses"] if self.excuse else [])])

    def definitions(self, mutant: str = "") -> list[str]:
        """Return the options of spin."""
        values = {
            "NODES": self.nodes,
            "WITNESSES": self.witnesses,
            "SYNC": self.synchronous,
            "CLAIMS": self.claims,
            "WRITES": self.writes,
        }
        flags = [*(["EXCUSE"] if self.excuse else []), *([] if self.progress else ["NO_PROGRESS"])]
        return [
            *(f"-D{name}={value}" for name, value in values.items()),
            *(f"-D{flag}" for flag in [*flags, mutant] if flag),
        ]


@dataclass(frozen=True, slots=True)
class Exploration:
    """The result of one exploration. `violated`: the assertion of the first counterexample, "" if there is none."""

    states: int
    steps: int
    depth: int
    mib: float
    seconds: float
    complete: bool
    violated: str
    output: str

    def __str__(self) -> str:
        """Return the figures as one line of a report."""
        return f"{self.states} states, {self.steps} steps, depth {self.depth}, {self.mib:.0f} MiB, {self.seconds:.0f} s"


def explore(bounds: Bounds, folder: Path, mutant: str = "") -> Exploration:
    """Explore the model, or its mutant of this name, until all states are visited or an assertion is violated.

    Raises MachineError if spin or the compiler fails, or if the exploration runs out of memory or depth.
    """
    _run([*("spin", *bounds.definitions(mutant)), "-a", str(MODEL)], folder)
    _run(_COMPILE, folder)
    ends = () if bounds.progress else ("-E",)
    output = _run(("./pan", f"-m{DEEPEST}", "-n", "-w22", *ends), folder)
    found = {name: re.search(pattern, output, re.MULTILINE) for name, pattern in _NUMBERS.items()}
    numbers = {name: float(match[1]) if match else 0.0 for name, match in found.items()}
    violated = re.search(r"^pan:\d+: (.*) \(at depth \d+\)$", output, re.MULTILINE)
    complete = found["states"] is not None and "Search not completed" not in output and "too small" not in output
    if not complete and violated is None:
        raise MachineError(f"the exploration of {bounds} ended early", hint=output[-800:])
    return Exploration(
        int(numbers["states"]),
        int(numbers["steps"]),
        int(numbers["depth"]),
        numbers["mib"],
        numbers["seconds"],
        complete,
        violated[1] if violated else "",
        output,
    )


def _run(command: tuple[str, ...] | list[str], folder: Path) -> str:
    """Run a program niced; return its output. Raises MachineError if it fails. pan exits with 0 in any case."""
    answer = subprocess.run(
        ["nice", "-n", "19", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise MachineError(f"{command[0]} exits with {answer.returncode}", hint=answer.stdout[-800:])
    return answer.stdout
