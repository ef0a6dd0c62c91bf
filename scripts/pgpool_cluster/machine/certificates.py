"""TLS between the nodes: a certificate authority derived from the cluster key, and one certificate for each node.

All keys are ECDSA P-256 keys derived from the cluster key. Every node can verify every other one, including a node
that was just reinstalled. Signatures contain random numbers, so a certificate that still fits is kept: equal input
gives equal bytes. Certificates do not expire; a new cluster key replaces them, as it does the ssh certificates.

`ssh` uses ed25519 keys. TLS cannot: channel binding (RFC 5929) is not defined for ed25519 certificates.
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

from ..definition.cluster import Node
from ..definition.key import ClusterKey
from ..ground import files, paths
from ..ground.errors import ServerError

SUBJECT = "pgpool2-cluster authority"
"""Subject of every authority. OpenSSL looks up a file by the hash of this name, which paths.AUTHORITIES contains."""
_NOT_BEFORE = datetime(2000, 1, 1)  # UTC; a machine's clock may be years behind when it boots
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59)  # UTC; "no expiration date" in RFC 5280
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SEED_BYTES = 48
"""Exceeds the 32 bytes of the curve's order by enough to make all private keys practically equally likely."""
LEAST_DAYS = 14
"""Minimum remaining validity; a certificate with less must be replaced."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----\n?")
"""The body excludes dashes: a text with many BEGIN lines is then searched in linear time."""
_LONGEST_PEM_BYTES = 2**16
"""Limit for a file on this node; a certificate with its key has about 1000 bytes."""
_NO_CERTIFICATE = (ValueError, TypeError, AttributeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""Exceptions that cryptography raises, on load or on access, for bytes that are not a certificate or key of ours."""
_CURVE = ec.SECP256R1()
X509 = Any
"""A certificate, key, name or builder of cryptography; build machines have no types for that package."""


@dataclass(frozen=True, slots=True)
class Laid:
    """The PEM files on this node, "" for a missing one; `server` contains a certificate and its private key."""

    authorities: str = ""
    server: str = field(default="", repr=False)

    @classmethod
    def here(cls) -> Laid:
        """Read this node's files."""
        return cls(_read(paths.AUTHORITIES), _read(paths.SERVER_CERTIFICATE))

    @property
    def of_first(self) -> bool:
        """Whether the first authority, that of the applied key, has signed the server certificate."""
        first = _split(self.authorities)[:1]
        return bool(first) and _signed(self.server, first[0])

    @property
    def first(self) -> str:
        """The authority of the applied key."""
        return next(iter(_split(self.authorities)), "")

    @property
    def count(self) -> int:
        """The number of trusted authorities: two during a key change."""
        return len(_split(self.authorities))


NOTHING = Laid()


def authorities(key: ClusterKey, laid: Laid, *, alone: bool) -> str:
    """Return the authorities to trust: first that of `key`, then, unless `alone`, the ones already on this node."""
    own = _public(_authority(key).public_key())
    there = {_public(found.public_key()): pem for pem in _split(laid.authorities) if (found := _load(pem)) is not None}
    first = there.pop(own, "") or _self_signed(key)
    return "".join([first, *([] if alone else there.values())])


def server(key: ClusterKey, node: Node, laid: Laid, *, certified: bool) -> str:
    """Return the node's certificate with its private key.

    `certified` means that most nodes have `key`. Before that, a certificate signed by an older trusted authority is
    kept, because nodes without `key` could not verify a new one.
    """
    others = [] if certified else _split(laid.authorities)
    for issuer in [_self_signed(key), *others]:
        if _signed(laid.server, issuer) and _names(laid.server) == _wanted_names(node) and _has_its_key(laid.server):
            return laid.server
    return _issued(key, node)


def faults(pem: str, roots: str, node: Node) -> str:
    """Return why other nodes would reject a certificate as that of `node`, "" if they accept it; `roots` is PEM too."""
    found = _load(pem)
    if found is None:
        return "there is none"
    if not any(_signed(pem, root) for root in _split(roots)):
        return "no authority that the nodes trust has signed it"
    if node.ip not in _addresses(found):
        return f"it does not name {node.address}"
    left = (ends(found) - datetime.now(UTC)).days
    return f"it expires in {left} days" if left < LEAST_DAYS else ""


def ends(found: X509) -> datetime:
    """Return when a certificate, a cryptography object, expires."""
    end: datetime = getattr(found, "not_valid_after_utc", None) or found.not_valid_after.replace(tzinfo=UTC)
    return end


def _read(path: Path) -> str:
    """Return a file's text, "" if there is none; postgres owns server.pem, so its content may be anything."""
    with contextlib.suppress(ServerError):
        found = files.read(path)
        if found and len(found.content) <= _LONGEST_PEM_BYTES:
            return found.content.decode("ascii", errors="replace")
    return ""


def _split(pem: str) -> list[str]:
    return _CERTIFICATE.findall(pem)


def _load(pem: str) -> X509:
    """Return the first certificate in a text, None if there is none or it is not readable."""
    for text in _split(pem)[:1]:
        with contextlib.suppress(*_NO_CERTIFICATE):
            return x509.load_pem_x509_certificate(text.encode("ascii", "replace"))
    return None


def _private(key: ClusterKey, purpose: str) -> X509:
    seed = int.from_bytes(key.derive(purpose, _SEED_BYTES), "big")
    return ec.derive_private_key(seed % (_CURVE_ORDER - 1) + 1, _CURVE)


def _authority(key: ClusterKey) -> X509:
    return _private(key, "tls authority")


def _public(public: X509) -> bytes:
    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _usage(*, authority: bool) -> X509:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _self_signed(key: ClusterKey) -> str:
    private = _authority(key)
    builder = (
        _builder(_name(SUBJECT), private.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    return _signed_text(builder, private)


def _issued(key: ClusterKey, node: Node) -> str:
    issuer, private = _authority(key), _private(key, f"tls server {node.name}")
    dns, ips = _wanted_names(node)
    names = [*(x509.DNSName(name) for name in sorted(dns)), *(x509.IPAddress(ip) for ip in sorted(ips, key=str))]
    builder = (
        _builder(_name(node.name), private.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        # for servers only, so that no node's certificate can authenticate a client
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    secret: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _signed_text(builder, issuer) + secret.decode("ascii")


def _name(text: str) -> X509:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: X509, public: X509) -> X509:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_name(SUBJECT))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )


def _signed_text(builder: X509, private: X509) -> str:
    pem: bytes = builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM)
    return pem.decode("ascii")


def _signed(pem: str, issuer: str) -> bool:
    """Return whether the authority `issuer` has signed the certificate `pem`; both are PEM."""
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
