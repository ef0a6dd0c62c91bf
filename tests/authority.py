"""A certificate authority of a company, which machines do not trust by default."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def company(path: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1, followed by its key, and return the path."""
    key, name = _key(), _name("company")
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = _begun(name, key, name).add_extension(here, critical=False).sign(key, hashes.SHA256())
    path.write_text(_pem(made) + _secret(key), encoding="ascii")
    return path


def clients(*common_names: str) -> tuple[str, list[str]]:
    """Return the certificate of an authority, and one that it issued for each name, followed by its key, as PEM."""
    key, name = _key(), _name("authority of clients")
    ca = x509.BasicConstraints(ca=True, path_length=0)
    authority = _begun(name, key, name).add_extension(ca, critical=True).sign(key, hashes.SHA256())

    def given(common_name: str) -> str:
        own = _key()
        return _pem(_begun(_name(common_name), own, name).sign(key, hashes.SHA256())) + _secret(own)

    return _pem(authority), [given(common_name) for common_name in common_names]


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _begun(subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    serial = x509.random_serial_number()
    return x509.CertificateBuilder(issuer, subject, key.public_key(), serial, now, now + timedelta(days=1))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _secret(key: ec.EllipticCurvePrivateKey) -> str:
    pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, clear).decode()
