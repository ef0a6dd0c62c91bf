"""Finish a key change when pgpool-II starts: ExecStartPre= of pgpool2.service, as root.

pgpool-II waits for it, so the modules that render and write files are imported only if something was deferred.
"""

from __future__ import annotations

from ..ground import log, paths
from . import key_file, pool_key


def run() -> None:
    """Apply changes deferred because pgpool-II was running with the previous cluster key; raises ClusterError."""
    pool_key.mark("")
    laid = paths.laid_fingerprint()
    key = key_file.read()
    if key.fingerprint == laid and key.pool_key != pool_key.laid():
        from . import apply, changes  # noqa: PLC0415

        log.refusals(apply.carry_out(changes.plan()))
    pool_key.mark(laid)
