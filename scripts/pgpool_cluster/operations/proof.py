"""Decide when this node requires verified certificates from other servers, and when a new authority takes over.

A server of an older package presents the machine's own certificate, which no other node can verify. So this node opens
a TLS connection to every database node. Once each has presented a valid certificate, this node requires one: libpq by
`verify-full`, pgpool-II by its folder of authorities. It records that decision and never reverts it.

A new cluster key brings a new authority. Until most nodes have that key, each node presents its old certificate. The
old authority stays trusted until every database node has presented a certificate of the new one.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass, field

from ..decision.facts.facts import ClusterFacts
from ..definition.cluster import Cluster, Node, Service
from ..ground import log, paths
from ..machine.certificates import Laid
from ..node.node import Here
from ..postgresql import postgresql as pg
from ..postgresql.knock import SSL_REQUEST
from ..postgresql.libpq import own_authority, root_certificate
from .applying import Applying

_HANDSHAKE_SECONDS = 1.0
"""Time limit for a TLS handshake."""
_ROUND_PAUSE_SECONDS = 5.0
"""Pause between two rounds of handshakes."""
LATE = f"its PostgreSQL did not answer within {_HANDSHAKE_SECONDS:g} s"
"""Why `refused` found no valid certificate, if the server gave no answer in time."""


def refused(node: Node, *, file: str | None = None, pem: str | None = None) -> str:
    """Return why a server's certificate is invalid, "" if it is valid.

    `file` or `pem` contains the authorities that may have signed it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file, cadata=pem)
        with socket.create_connection((node.address, node.port), timeout=_HANDSHAKE_SECONDS) as plain:
            plain.sendall(SSL_REQUEST)
            if plain.recv(1) != b"S":
                return "it does not support TLS"
            context.wrap_socket(plain, server_hostname=node.address).close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not the cluster's: {error.verify_message}"
    except TimeoutError:
        return LATE
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def refused_here(cluster: Cluster, node: Node) -> str:
    """Return why a server's certificate does not satisfy this node; "" if it does."""
    ca = own_authority(cluster)
    return refused(node, file=ca) if ca else refused(node, pem=Laid.here().first)


_WHAT = "the verification of servers"


@dataclass(slots=True)
class Proof:
    """One node's part in the verification; its state in memory may be lost at any time."""

    here: Here
    applying: Applying = field(default_factory=Applying, repr=False)
    _verified: set[str] = field(default_factory=set)
    """The nodes that have presented a valid certificate."""
    _root: str = ""
    """The authority with which these were verified."""
    _next_round: float = float("-inf")
    _conninfo: str = ""
    """The last known value of primary_conninfo."""

    def tend(self, facts: ClusterFacts) -> None:
        """Do the next step; the agent calls this in each round. Raises ClusterError."""
        laid = Laid.here()
        if not laid.authorities:
            return
        self._certify(facts)
        self._prove(facts, laid)
        self._lay(laid)
        self._renew(facts)

    def _certify(self, facts: ClusterFacts) -> None:
        """Record that most nodes have this node's key; from then on its certificate is from that key's authority."""
        here, key = self.here, facts.of(self.here.me.name).key
        if key and here.record.certified != key and facts.same_key(here.cluster, key):
            here.remember(certified=key)

    def _prove(self, facts: ClusterFacts, laid: Laid) -> None:
        here = self.here
        root = own_authority(here.cluster) or facts.of(here.me.name).key
        if root in ("", here.record.proven) or time.monotonic() < self._next_round:
            return
        if self._root != root:
            self._verified, self._root = set(), root
        self._next_round = time.monotonic() + _ROUND_PAUSE_SECONDS
        for node in here.cluster.databases:
            if node.name not in self._verified and facts.of(node.name).up:
                if not refused_here(here.cluster, node):
                    self._verified.add(node.name)
                elif node == here.me and not own_authority(here.cluster) and laid.of_first:
                    here.query("SELECT pg_reload_conf()")  # the server still presents its old certificate
        if self._verified >= {node.name for node in here.cluster.databases}:
            here.remember(proven=root)
            log.info("every server has presented a valid certificate: certificates are verified from now on")

    def _lay(self, laid: Laid) -> None:
        """Request an `apply` if the configuration is behind the record."""
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
        """Update a standby's primary_conninfo if an older package, or an earlier state of this node, has set it."""
        here, mine = self.here, facts.of(self.here.me.name)
        if not here.cluster.mode.streams or not mine.standby or mine.follows is None or not facts.of(mine.follows).up:
            return
        conninfo = pg.conninfo(here.cluster, mine.node, mine.follows)
        if conninfo == self._conninfo:
            return
        (current,) = here.query("SELECT current_setting('primary_conninfo')")[0]
        if current != conninfo:
            here.query(f"ALTER SYSTEM SET primary_conninfo = '{conninfo}'")
            here.query("SELECT pg_reload_conf()")
        self._conninfo = conninfo
