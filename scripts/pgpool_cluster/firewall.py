"""The rules that keep strangers out of watchdog, heartbeat and pcp: a table of our own in nftables.

Debian's nftables.conf begins with `flush ruleset`, so a reload of nftables takes them away; our unit is reloaded with
it. Nothing tells of rules that are flushed otherwise: so the agent has root look once a minute. Few imports: it is a
program of its own each time.
"""

from __future__ import annotations

import subprocess
import sys

from . import log, paths

_NFT = "/usr/sbin/nft"
TABLE = ("inet", "pgpool2_cluster")


def missing() -> bool:
    """Tell whether the rules are not loaded; only root may ask."""
    return _nft("list", "table", *TABLE) != ""


def keep() -> str:
    """Load the rules where they are gone, as root; return `done`, or why that failed."""
    if not paths.PEERS_NFT.exists() or not missing():
        return "done"
    if why := _nft("-f", str(paths.PEERS_NFT)):
        return why
    log.warning("the rules for watchdog and pcp were gone, and are loaded again", stream=sys.stderr)
    return "done"


def remove() -> None:
    """Take the rules away, as root; nothing happens where they are not loaded."""
    _nft("delete", "table", *TABLE)


def _nft(*words: str) -> str:
    """Run nft and return what it says against it; "" where it does what it is told."""
    try:
        answer = subprocess.run([_NFT, *words], capture_output=True, text=True, check=False, timeout=30,
                                stdin=subprocess.DEVNULL)  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"nft: {error}"
    said = answer.stderr.strip().splitlines()
    return "" if answer.returncode == 0 else f"nft: {said[-1] if said else answer.returncode}"
