"""Reload the services that read files which `apply` has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ..ground import paths, programs
from ..ground.errors import ServerError
from ..machine import pgpool, units
from ..machine.memory import Applied, unit_of
from .rendering import rendered_paths
from .rendering.rendered_paths import FOLDER


def reload(changed: Sequence[str], *, renewed: bool) -> None:
    """Reload the services that read the changed files, if they are running."""
    if not units.booted():
        return
    drop_ins = [path for path in changed if path in rendered_paths.DROP_INS]
    if rendered_paths.UNIT_FILE in changed or drop_ins:
        units.ask("daemon-reload")
    if str(paths.PEERS_NFT) in changed:
        units.ask("reload-or-restart", paths.FIREWALL_UNIT)
    if drop_ins and units.state(paths.UNIT).active == "active":
        units.ask("--no-block", "restart", paths.UNIT)  # a unit's view of the file system is fixed when it starts
    # After a key change the agent restarts pgpool-II, once most nodes have the key: until then they would refuse it.
    rekeyed = pgpool.of_another_key(paths.laid_fingerprint())
    if not rekeyed and paths.SERVE.exists():
        _load_pgpool(changed)
    if any("/etc/ssh/" in path or path.endswith("-cert.pub") for path in changed):
        units.ask("try-reload-or-restart", "ssh.service")
    # The certificate lies outside of the server's own folder, so a new one concerns every server.
    read = [*changed, *(Applied.load().files if str(paths.SERVER_CERTIFICATE) in changed else ())]
    for unit in dict.fromkeys(filter(None, map(unit_of, read))):
        _load_server(unit)
    renewed = renewed or str(paths.HOSTS) in changed
    if renewed and units.state(paths.UNIT).active == "active":
        units.ask("kill", "--signal=HUP", "--kill-whom=main", paths.UNIT)


def _load_server(unit: str) -> None:
    """Reload a server's configuration, even while it is running and systemd still waits for pg_ctlcluster."""
    active = units.state(unit).active
    if active == "active":
        units.ask("reload", unit)
    elif active == "activating":
        instance = unit.removeprefix("postgresql@").removesuffix(".service")  # what ExecReload= of the unit runs
        with contextlib.suppress(ServerError):  # a server that is not running yet reads the files when it starts
            programs.run([str(paths.PG_CTLCLUSTER), "--skip-systemctl-redirect", instance, "reload"])


def _load_pgpool(changed: Sequence[str]) -> None:
    if rendered_paths.UNIT_FILE in changed:
        if units.state(paths.PGPOOL_UNIT).active == "active":
            # The restart completes only when the watchdog has a leader.
            units.ask("--no-block", "restart", paths.PGPOOL_UNIT)
    elif any(path.startswith(str(FOLDER)) and not path.endswith("roles.sql") for path in changed):
        units.reload(paths.PGPOOL_UNIT)  # a starting pgpool-II has read its configuration before it waits for a leader
