"""`pgpoolctl withdraw`, for the removal of the package: stop pgpool-II and delete the files that `apply` wrote."""

from __future__ import annotations

import contextlib

from . import apply, hands, paths, units
from .errors import ExitStatus, ServerError


def run(words: list[str]) -> ExitStatus:
    """Stop the agent and then pgpool-II, which uses the configuration, and delete the configuration."""
    del words
    if paths.MEMORY.exists() or paths.OLD_MEMORY.exists():
        units.ask("stop", paths.UNIT)  # prerm should have stopped the agent, which would restart pgpool-II
        units.ask("stop", paths.PGPOOL_UNIT)
        for path in (paths.SERVE, paths.STOPPED, paths.KEY_OF_PGPOOL):
            with contextlib.suppress(ServerError):
                hands.remove(path)
        apply.withdraw()
    return ExitStatus.GOOD
