"""The packet filter for watchdog, heartbeats and pcp: an nftables table of our own that admits only the nodes.

Debian's nftables.conf starts with `flush ruleset`, so a reload of nftables deletes the table; systemd reloads our unit
with it. Other flushes go unnoticed, so the agent asks root once a minute to check the table. This module has few
imports, because each check starts a new process.
"""

from __future__ import annotations

import sys

from ...ground import log, paths, programs
from ...ground.programs import ProgramError

TABLE = ("inet", "pgpool2_cluster")


def missing() -> bool:
    """Return whether the rules are not loaded; only root can ask nft."""
    return _nft("list", "table", *TABLE) != ""


def keep() -> str:
    """As root, load the rules if they are missing; return `done`, or why that failed."""
    if not paths.PEERS_NFT.exists() or not missing():
        return "done"
    if why := _nft("-f", str(paths.PEERS_NFT)):
        return why
    log.warning("the packet filter for watchdog and pcp was missing; loaded it again", stream=sys.stderr)
    return "done"


def remove() -> None:
    """As root, delete the rules if they are loaded."""
    _nft("delete", "table", *TABLE)


def _nft(*words: str) -> str:
    """Run nft and return its error; "" on success."""
    try:
        programs.run([str(paths.SBIN / "nft"), *words])
    except ProgramError as error:
        return f"nft: {error.reason}"
    return ""
