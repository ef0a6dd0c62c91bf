"""Check the certificates of this node."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509  # type: ignore[import-not-found,unused-ignore]

from ..configuration.rendered_paths import MACHINE_TLS
from ..definition.cluster import Service
from ..ground import paths
from ..machine import certificates
from ..machine.certificates import Laid
from ..node.node import Here
from ..operations import proof
from ..postgresql import libpq
from .checklist import CERTIFICATE_FIX, Checklist


def of_node(here: Here, checks: Checklist) -> None:
    """Check the certificate that clients of pgpool-II see, and the one that PostgreSQL shows to other nodes."""
    path = (here.cluster.tls or MACHINE_TLS).certificate
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
        left = (certificates.ends(found) - datetime.now(UTC)).days
        why = f"it expires in {left} days" if left < certificates.LEAST_DAYS else ""
    except (OSError, ValueError) as error:
        why = str(error)
    own = "make-ssl-cert generate-default-snakeoil --force-overwrite"
    checks.add(f"the certificate {path} is valid", not why, why, CERTIFICATE_FIX if here.cluster.tls else own)
    if Service.POSTGRESQL in here.me.runs:
        _server_certificate(here, checks)


def _server_certificate(here: Here, checks: Checklist) -> None:
    """Check the certificate that PostgreSQL presents to the other nodes."""
    ca, laid = libpq.own_authority(here.cluster), Laid.here()
    why = "" if ca else certificates.faults(laid.server, laid.authorities, here.me)
    if not why and here.look().up:
        why = proof.refused_here(here.cluster, here.me)
    fix = (
        CERTIFICATE_FIX if ca else f"remove ssl_cert_file from postgresql_conf: in {paths.CLUSTER_YML}; pgpoolctl apply"
    )
    checks.add("the other nodes can verify the certificate of PostgreSQL", not why, why, fix)
    known = not here.record.proven or laid.count < 2
    checks.add(
        "no previous cluster.key is trusted",
        known,
        "a node has not presented a certificate of the current key yet",
        "copy cluster.key to the nodes that other checks name, then pgpoolctl apply there",
    )
