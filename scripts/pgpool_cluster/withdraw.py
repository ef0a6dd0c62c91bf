"""`pgpoolctl withdraw`, for the package's removal: pgpool-II ends, and what was laid down is taken back."""

from __future__ import annotations

import contextlib

from . import apply, hands, paths, units
from .errors import ExitStatus, ServerError


def run(words: list[str]) -> ExitStatus:
    """Stop the agent, then pgpool-II, which runs with the configuration that goes, and take the configuration back."""
    del words
    if paths.MEMORY.exists() or paths.OLD_MEMORY.exists():
        units.ask("stop", paths.UNIT)  # it would start pgpool-II again; prerm has stopped it already
        units.ask("stop", paths.PGPOOL_UNIT)
        for path in (paths.SERVE, paths.STOPPED, paths.KEY_OF_PGPOOL):
            with contextlib.suppress(ServerError):
                hands.remove(path)
        apply.withdraw()
    return ExitStatus.GOOD
