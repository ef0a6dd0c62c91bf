"""Check the certificates of this node."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509  # type: ignore[import-not-found,unused-ignore]

from ...configuration.rendering.rendered_paths import MACHINE_TLS
from ...definition.cluster import Service, Tls
from ...ground import paths
from ...machine import certificates
from ...machine.certificates import Laid
from ...node.node import Here
from ...operations import proof
from ...postgresql import libpq
from .checklist import CERTIFICATE_FIX, Checklist

_SLOW_FIX = "uptime; systemctl status postgresql: the machine is very busy, or its PostgreSQL hangs"


def of_node(here: Here, checks: Checklist) -> None:
    """Check the certificate that clients of pgpool-II see, and the one that PostgreSQL shows to other nodes."""
    tls = here.cluster.tls or MACHINE_TLS
    path = tls.certificate
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
        left = (certificates.ends(found) - datetime.now(UTC)).days
        why = f"it expires in {left} days" if left < certificates.LEAST_DAYS else ""
    except (OSError, ValueError) as error:
        why = str(error)
    own = "make-ssl-cert generate-default-snakeoil --force-overwrite"
    checks.add(f"the certificate {path} is valid", not why, why, CERTIFICATE_FIX if here.cluster.tls else own)
    if not why:
        _private_key(tls, checks)
    if Service.POSTGRESQL in here.me.runs:
        _server_certificate(here, checks)


def _private_key(tls: Tls, checks: Checklist) -> None:
    """Check that postgres can read the private key and that it belongs to the certificate, as pgpool-II requires."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fix = f"use the key that belongs to {tls.certificate}; then pgpoolctl apply"
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")
        why = ""
    except ssl.SSLError as error:
        why = f"it does not belong to the certificate, or has a password: {error.reason or error}"
    except OSError as error:
        why = f"{paths.POSTGRES} cannot read it: {error.strerror}"
        fix = f"chgrp ssl-cert {tls.key}; chmod 0640 {tls.key}; adduser {paths.POSTGRES} ssl-cert"
    checks.add(f"the private key {tls.key} is usable", not why, why, fix)


def _server_certificate(here: Here, checks: Checklist) -> None:
    """Check the certificate that PostgreSQL presents to the other nodes."""
    ca, laid = libpq.own_authority(here.cluster), Laid.here()
    why = "" if ca else certificates.faults(laid.server, laid.authorities, here.me)
    fix = (
        CERTIFICATE_FIX if ca else f"remove ssl_cert_file from postgresql_conf: in {paths.CLUSTER_YML}; pgpoolctl apply"
    )
    if not why and here.look().up:
        why = proof.refused_here(here.cluster, here.me)
        if why == proof.LATE:  # once more: a busy machine is no fault of the certificate
            why = proof.refused_here(here.cluster, here.me)
        fix = _SLOW_FIX if why == proof.LATE else fix
    checks.add("the other nodes can verify the certificate of PostgreSQL", not why, why, fix)
    known = not here.record.proven or laid.count < 2
    checks.add(
        "no previous cluster.key is trusted",
        known,
        "a node has not presented a certificate of the current key yet",
        "copy cluster.key to the nodes that other checks name, then pgpoolctl apply there",
    )
