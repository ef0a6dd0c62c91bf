"""When the other servers are asked for a certificate that can be checked, and when a new authority takes over.

A server of an older package shows the machine's own certificate, which no other node can check. So this node makes a
TLS connection to every database node, and only once each has shown a good certificate does it insist on one: libpq by
`verify-full`, pgpool-II by its folder of authorities. That is remembered, and never goes back.

A new cluster key comes with a new authority. Until most nodes have that key, each shows the certificate of the old one;
the old one is trusted until every database node has shown a certificate of the new one.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from dataclasses import dataclass, field

from . import act, log, paths
from . import postgresql as pg
from .applying import Applying
from .certificates import Laid
from .cluster import Cluster, Node, Service
from .facts import ClusterFacts
from .libpq import own_authority, root_certificate
from .node import Here

_SECONDS = 1.0
"""How long a server may take for a handshake."""
_BETWEEN = 5.0
"""Seconds between two rounds of handshakes."""
_SSL_REQUEST = struct.pack(">II", 8, 80877103)


def refused(node: Node, *, file: str | None = None, pem: str | None = None) -> str:
    """Return why a server's certificate is not what it is to be, "" if it is.

    `file` or `pem` has the authorities that may sign it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file, cadata=pem)
        with socket.create_connection((node.address, node.port), timeout=_SECONDS) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return "it speaks no TLS"
            context.wrap_socket(plain, server_hostname=node.address).close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not the cluster's: {error.verify_message}"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def refused_here(cluster: Cluster, node: Node) -> str:
    """Return why a server has not proved itself to this node, as it will have to; "" if it has."""
    ca = own_authority(cluster)
    return refused(node, file=ca) if ca else refused(node, pem=Laid.here().first)


_WHAT = "what servers prove themselves with"


@dataclass(slots=True)
class Proof:
    """One node's part in it. What it keeps in memory alone may be lost at any time."""

    here: Here
    applying: Applying = field(default_factory=Applying, repr=False)
    _shown: set[str] = field(default_factory=set)
    """The nodes that have shown a good certificate."""
    _with: str = ""
    """What it was checked with."""
    _from: float = float("-inf")
    _conninfo: str = ""
    """What primary_conninfo is known to be."""

    def tend(self, facts: ClusterFacts) -> None:
        """Do the next step; called in each round of the agent. Raises ClusterError."""
        laid = Laid.here()
        if not laid.authorities:
            return
        self._certify(facts)
        self._prove(facts, laid)
        self._lay(laid)
        self._renew(facts)

    def _certify(self, facts: ClusterFacts) -> None:
        """Note that most nodes have this node's key: from then on it shows a certificate of that key's authority."""
        here, key = self.here, facts.of(self.here.me.name).key
        if key and here.record.certified != key and facts.same_key(here.cluster, key):
            here.remember(certified=key)

    def _prove(self, facts: ClusterFacts, laid: Laid) -> None:
        here = self.here
        root = own_authority(here.cluster) or facts.of(here.me.name).key
        if root in ("", here.record.proven) or time.monotonic() < self._from:
            return
        if self._with != root:
            self._shown, self._with = set(), root
        self._from = time.monotonic() + _BETWEEN
        for node in here.cluster.databases:
            if node.name not in self._shown and facts.of(node.name).up:
                if not refused_here(here.cluster, node):
                    self._shown.add(node.name)
                elif node == here.me and not own_authority(here.cluster) and laid.of_first:
                    act.query(here, "SELECT pg_reload_conf()")  # it shows the certificate of before
        if self._shown >= {node.name for node in here.cluster.databases}:
            here.remember(proven=root)
            log.info("every server has proved itself by its certificate: from now on each has to")

    def _lay(self, laid: Laid) -> None:
        """Have configuration applied where it lags behind what is remembered."""
        if self._is_laid(laid):
            self.applying.done(_WHAT)
        else:
            self.applying.ask(_WHAT)

    def _is_laid(self, laid: Laid) -> bool:
        here, key = self.here, paths.laid_fingerprint()
        if paths.root_certificate() != root_certificate(here.cluster, here.record.proven):
            return False
        if here.record.proven == key and laid.count > 1:
            return False
        return here.record.certified != key or Service.POSTGRESQL not in here.me.runs or laid.of_first

    def _renew(self, facts: ClusterFacts) -> None:
        """Have a standby receive in the way that is laid down now: an older package said less, or less was known."""
        here, mine = self.here, facts.of(self.here.me.name)
        if not here.cluster.mode.streams or not mine.standby or mine.follows is None or not facts.of(mine.follows).up:
            return
        wanted = pg.conninfo(here.cluster, mine.node, mine.follows)
        if wanted == self._conninfo:
            return
        (found,) = act.query(here, "SELECT current_setting('primary_conninfo')")[0]
        if found != wanted:
            act.query(here, f"ALTER SYSTEM SET primary_conninfo = '{wanted}'")
            act.query(here, "SELECT pg_reload_conf()")
        self._conninfo = wanted
