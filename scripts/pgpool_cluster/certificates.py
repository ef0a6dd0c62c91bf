"""TLS between the nodes: an authority that follows from the cluster key, and the certificate that it gives each node.

Keys are ECDSA P-256 and follow from the cluster key, so every node can check every other one, and a node that is
installed anew is known at once. Signatures hold random numbers: a certificate that lies on the node already and still
fits is kept, so that equal input gives equal bytes. None ends: they end with the cluster key, as the ssh ones do.

ECDSA and not ed25519, which `ssh` has: channel binding (RFC 5929) is not defined for ed25519 certificates.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509  # type: ignore[import-not-found,unused-ignore]
from cryptography.exceptions import (  # type: ignore[import-not-found,unused-ignore]
    InvalidSignature,
    UnsupportedAlgorithm,
)
from cryptography.hazmat.primitives import hashes  # type: ignore[import-not-found,unused-ignore]
from cryptography.hazmat.primitives.asymmetric import ec  # type: ignore[import-not-found,unused-ignore]
from cryptography.hazmat.primitives.serialization import (  # type: ignore[import-not-found,unused-ignore]
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # type: ignore[import-not-found,unused-ignore]

from . import files, paths
from .cluster import Node
from .errors import ServerError
from .key import ClusterKey

SUBJECT = "pgpool2-cluster authority"
"""Of every authority: OpenSSL finds them in a folder by a hash of this name, which paths.AUTHORITIES has."""
_FROM = datetime(2000, 1, 1)  # UTC; a machine's clock may be years behind when it boots
_TO = datetime(9999, 12, 31, 23, 59, 59)  # UTC; RFC 5280's "no end"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SEED_BYTES = 48
"""So much more than the order's 32 that no private key is likelier than another."""
LEAST_DAYS = 14
"""What a certificate has to be good for, or it is to be replaced."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----\n?")
"""Without a dash within it: a text that is full of beginnings is searched once, and not once for each of them."""
_LONGEST = 2**16
"""Characters of what lies on this node; a certificate with its key has some 1000."""
_NO_CERTIFICATE = (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What cryptography raises, at once or when it is asked for a part, for what is no certificate or key of ours."""
_CURVE = ec.SECP256R1()
X509 = Any
"""A certificate, a key, a name or a builder of cryptography, which is not on build machines."""


@dataclass(frozen=True, slots=True)
class Laid:
    """What lies on this node, as PEM; "" for what does not. `server` holds a certificate and its private key."""

    authorities: str = ""
    server: str = field(default="", repr=False)

    @classmethod
    def here(cls) -> Laid:
        """Read it."""
        return cls(_read(paths.AUTHORITIES), _read(paths.SERVER_CERTIFICATE))

    @property
    def of_first(self) -> bool:
        """Whether the certificate is of the authority that comes first, which is that of the laid-down key."""
        first = _split(self.authorities)[:1]
        return bool(first) and _signed(self.server, first[0])

    @property
    def first(self) -> str:
        """The authority of the laid-down key."""
        return next(iter(_split(self.authorities)), "")

    @property
    def count(self) -> int:
        """How many authorities are trusted: two while the key is being changed."""
        return len(_split(self.authorities))


NOTHING = Laid()


def authorities(key: ClusterKey, laid: Laid, *, alone: bool) -> str:
    """Return the authorities that are trusted: that of `key` first, and then, unless `alone`, the laid ones."""
    own = _public(_authority(key).public_key())
    there = {_public(found.public_key()): pem for pem in _split(laid.authorities) if (found := _load(pem)) is not None}
    first = there.pop(own, "") or _self_signed(key)
    return "".join([first, *([] if alone else there.values())])


def server(key: ClusterKey, node: Node, laid: Laid, *, certified: bool) -> str:
    """Return the node's certificate with its private key.

    Unless `certified`, which says that most nodes have `key`, one of another authority that was laid is kept: nodes
    without that key could not check the new one.
    """
    others = [] if certified else _split(laid.authorities)
    for issuer in [_self_signed(key), *others]:
        if _signed(laid.server, issuer) and _names(laid.server) == _wanted_names(node) and _has_its_key(laid.server):
            return laid.server
    return _issued(key, node)


def faults(pem: str, roots: str, node: Node) -> str:
    """Return why other nodes would not take a certificate for `node`'s, "" if they do; `roots` are PEM, too."""
    found = _load(pem)
    if found is None:
        return "there is none"
    if not any(_signed(pem, root) for root in _split(roots)):
        return "it is not of the authority that the nodes trust"
    if node.ip not in _addresses(found):
        return f"it does not name {node.address}"
    left = (ends(found) - datetime.now(UTC)).days
    return f"it ends in {left} days" if left < LEAST_DAYS else ""


def ends(found: X509) -> datetime:
    """Return when a certificate, as cryptography has it, ends."""
    end: datetime = getattr(found, "not_valid_after_utc", None) or found.not_valid_after.replace(tzinfo=UTC)
    return end


def _read(path: Path) -> str:
    """Return a file's text, "" for none; server.pem is postgres' own, so what is in it may be anything."""
    with contextlib.suppress(ServerError):
        found = files.read(path)
        if found and len(found.content) <= _LONGEST:
            return found.content.decode("ascii", errors="replace")
    return ""


def _split(pem: str) -> list[str]:
    return _CERTIFICATE.findall(pem)


def _load(pem: str) -> X509:
    """Return the first certificate of a text, None if there is none that can be read."""
    for text in _split(pem)[:1]:
        with contextlib.suppress(*_NO_CERTIFICATE):
            return x509.load_pem_x509_certificate(text.encode("ascii", "replace"))
    return None


def _private(key: ClusterKey, purpose: str) -> X509:
    seed = int.from_bytes(key.derive(purpose, _SEED_BYTES), "big")
    return ec.derive_private_key(seed % (_ORDER - 1) + 1, _CURVE)


def _authority(key: ClusterKey) -> X509:
    return _private(key, "tls authority")


def _public(public: X509) -> bytes:
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _self_signed(key: ClusterKey) -> str:
    private = _authority(key)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _begun(_name(SUBJECT), private.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    return _signed_text(builder, private)


def _issued(key: ClusterKey, node: Node) -> str:
    issuer, private = _authority(key), _private(key, f"tls server {node.name}")
    dns, ips = _wanted_names(node)
    names = [*(x509.DNSName(name) for name in sorted(dns)), *(x509.IPAddress(ip) for ip in sorted(ips, key=str))]
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        _begun(_name(node.name), private.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        # servers only: no node's certificate logs a client in anywhere
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    secret: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _signed_text(builder, issuer) + secret.decode("ascii")


def _name(text: str) -> X509:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _begun(subject: X509, public: X509) -> X509:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_name(SUBJECT))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
    )


def _signed_text(builder: X509, private: X509) -> str:
    pem: bytes = builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)
    return pem.decode("ascii")


def _signed(pem: str, issuer: str) -> bool:
    """Tell whether an authority of this kind has signed a certificate; both are PEM."""
    found, authority = _load(pem), _load(issuer)
    if found is None or authority is None:
        return False
    try:
        if found.issuer != authority.subject:
            return False
        algorithm = ec.ECDSA(found.signature_hash_algorithm)
        authority.public_key().verify(found.signature, found.tbs_certificate_bytes, algorithm)
    except (InvalidSignature, *_NO_CERTIFICATE):
        return False
    return True


Names = tuple[frozenset[str], frozenset[Any]]


def _wanted_names(node: Node) -> Names:
    return frozenset(filter(None, (node.name, node.host))), frozenset({node.ip})


def _names(pem: str) -> Names:
    found = _load(pem)
    return (frozenset(), frozenset()) if found is None else (frozenset(_dns(found)), frozenset(_addresses(found)))


def _alternatives(found: X509, kind: X509) -> Iterable[Any]:
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return list(extension.value.get_values_for_type(kind))
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, *_NO_CERTIFICATE):
        return []


def _dns(found: X509) -> Iterable[str]:
    return _alternatives(found, x509.DNSName)


def _addresses(found: X509) -> Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return _alternatives(found, x509.IPAddress)


def _has_its_key(pem: str) -> bool:
    try:
        private = load_pem_private_key(_CERTIFICATE.sub("", pem).encode("ascii", "replace"), None)
        return _public(private.public_key()) == _public(_load(pem).public_key())
    except _NO_CERTIFICATE:
        return False
