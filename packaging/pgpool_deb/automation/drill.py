"""`./invoke drill`: inject faults into the hosts of a cluster, and check that no acknowledged write is lost."""

from __future__ import annotations

import secrets

from pgpool_deb.ground.errors import ExitStatus, UsageError
from pgpool_deb.ground.project import Project

from . import benches

MODES = ("streaming_replication", "native_replication", "snapshot_isolation")
_SEEDS = 10**6
"""A seed that is not given is below this, so that it is short enough to type."""
_DIGITS = 18
"""The longest seed, in digits."""


def run(project: Project, *, seed: str | None, runs: int, releases: str | None, mode: str) -> ExitStatus:
    """Run the drill with consecutive seeds; return GOOD if nothing was lost, FAILED with a counterexample otherwise.

    Without a seed, the first one is random. Raises UsageError for an option with a wrong value.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode: {mode}", hint=f"one of {', '.join(MODES)}")
    if runs < 1:
        raise UsageError(f"--runs {runs} is too small", hint="--runs takes 1 or more")
    first = secrets.randbelow(_SEEDS) if seed is None else _parse_seed(seed)
    options = (f"--seed={first}", f"--runs={runs}", f"--mode={mode}")
    return benches.on_hosts(project, releases, "drill_cluster.py", *options)


def _parse_seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        hint = f"--seed takes a whole number of up to {_DIGITS} digits; omit it for a random one"
        raise UsageError(f"--seed {text!r} is not a seed", hint=hint)
    return int(text)
