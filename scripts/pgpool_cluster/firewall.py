"""The rules that keep strangers out of watchdog, heartbeat and pcp: a table of our own in nftables.

Debian's nftables.conf begins with `flush ruleset`, so a reload of nftables takes them away; our unit is reloaded with
it. Nothing tells of rules that are flushed otherwise: so the agent has root look once a minute.
"""

from __future__ import annotations

import subprocess
import sys

from . import paths, server
from .errors import ClusterError

_NFT = "/usr/sbin/nft"
TABLE = ("inet", "pgpool2_cluster")


def missing() -> bool:
    """Tell whether the rules are not loaded; only root may ask."""
    command = [_NFT, "list", "table", *TABLE]
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode != 0


def keep() -> str:
    """Load the rules where they are gone, as root; return `done`, or why that failed."""
    if not paths.PEERS_NFT.exists() or not missing():
        return "done"
    try:
        server.run([_NFT, "-f", str(paths.PEERS_NFT)])
    except ClusterError as error:
        return error.message
    print("the rules for watchdog and pcp were gone, and are loaded again", file=sys.stderr, flush=True)
    return "done"


def remove() -> None:
    """Take the rules away, as root; raises ServerError where they are not loaded."""
    server.run([_NFT, "delete", "table", *TABLE])
