"""`pgpoolctl withdraw`, for the removal of the package: stop pgpool-II and delete the files that `apply` wrote."""

from __future__ import annotations

import contextlib
import pwd
from pathlib import Path

from ..ground import ancestors, log, paths
from ..ground.errors import ClusterError, ExitStatus, ServerError
from ..machine import hands, held_address, units
from ..machine.memory import Applied, unit_of
from ..machine.network import firewall
from . import laid_files, reloading
from .rendering import rendered_file, rendered_paths


def run(words: list[str]) -> ExitStatus:
    """Stop the agent, remove the virtual address, stop pgpool-II, and delete the configuration that it uses."""
    del words
    if paths.MEMORY.exists() or paths.OLD_MEMORY.exists():
        units.ask("stop", paths.UNIT)  # prerm should have stopped the agent, which would restart pgpool-II
        try:
            held_address.withdraw()
        except ClusterError as error:
            log.warning(f"the virtual address was not removed: {error.message}; hint: {error.hint}")
        units.ask("stop", paths.PGPOOL_UNIT)
        for path in (paths.SERVE, paths.STOPPED, paths.KEY_OF_PGPOOL):
            with contextlib.suppress(ServerError):
                hands.remove(path)
        delete_files()
    return ExitStatus.GOOD


def delete_files() -> None:
    """Remove the written files; cluster.yml, cluster.key, pool_passwd, this node's record and archived WAL stay."""
    applied = Applied.load()
    laid = [name for name in (applied.files or laid_files.claimed().files) if laid_files.could_be_ours(Path(name))]
    archiving = [name for name in laid if b"\narchive_mode = on" in _content_if_readable(name)]
    for name in laid:
        for path in (Path(name), Path(f"{name}.new"), Path(f"{name}.old")):
            with contextlib.suppress(ClusterError):
                _take_back(path)
    firewall.remove()
    for path in (paths.MEMORY, paths.LAID_FILE, paths.OLD_MEMORY, paths.DERIVED_KEY):
        with contextlib.suppress(ServerError):
            hands.remove(path)
    drop_ins = (Path(name).parent for name in (rendered_paths.UNIT_FILE, *rendered_paths.DROP_INS))
    for folder in (*drop_ins, paths.AUTHORITIES.parent, paths.ARCHIVE):
        hands.remove_folder(folder)  # keeps a folder that is not empty
    units.ask("daemon-reload")
    units.ask("try-reload-or-restart", "ssh.service")
    reloading.reload([name for name in laid if name.startswith(f"{paths.POSTGRESQL_CONFIGURATION}/")], renewed=False)
    for name in archiving:
        unit = unit_of(name)
        log.warning(
            f"{unit} keeps all its WAL until it restarts, because its archive was removed; "
            f"hint: systemctl restart {unit}"
        )


def _content_if_readable(name: str) -> bytes:
    with contextlib.suppress(ClusterError):
        return laid_files.content(Path(name)) or b""
    return b""


def _take_back(path: Path) -> None:
    there = hands.read(path)
    if there is None or path.name == "pool_passwd":
        return
    text = there.content.decode(errors="surrogateescape")
    rest = rendered_file.without_block(text)
    if rest == text:
        hands.remove(path)
    elif not rest.strip() and not str(path).startswith(str(paths.POSTGRESQL_CONFIGURATION)):
        hands.remove(path)
        if path.parent.name == ".ssh":
            hands.remove_folder(path.parent)
    else:
        owner = (there.uid, there.gid)
        if ancestors.intruder(path):
            owner = (hands.postgres(), pwd.getpwnam("postgres").pw_gid)
        hands.write(path, rest.encode(errors="surrogateescape"), there.mode, owner)
