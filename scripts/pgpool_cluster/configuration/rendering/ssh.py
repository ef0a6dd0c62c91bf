"""ssh between the postgres users: keys and certificates derived from the cluster key.

Every node has its own user key, and knows the public keys of all others. A server authenticates itself with its
ordinary ed25519 host key and a certificate for that key. All nodes can derive the authority that signs the
certificates, so no one has to accept a host key, and no host key changes. OpenSSH's PROTOCOL.key and PROTOCOL.certkeys
define the formats. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # type: ignore[import-not-found,unused-ignore]
    Ed25519PrivateKey,
)
from cryptography.hazmat.primitives.serialization import (  # type: ignore[import-not-found,unused-ignore]
    Encoding,
    PublicFormat,
)

from ...definition.cluster import Node
from ...definition.key import ClusterKey
from ...ground.errors import UsageError

_TYPE = "ssh-ed25519"
_CERTIFICATE_TYPE = "ssh-ed25519-cert-v01@openssh.com"
_HOST_CERTIFICATE = 2
_NEVER_EXPIRES = 2**64 - 1
_BLOCK_BYTES = 8


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key pair from a seed of 32 bytes; repr() does not show the seed."""

    seed: bytes = field(repr=False)
    comment: str

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return bytes(key.public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def public_line(self) -> str:
        """`ssh-ed25519 AAAA…`, without comment."""
        return f"{_TYPE} {_base64(self.blob)}"

    @property
    def blob(self) -> bytes:
        """The public key in its wire format."""
        return _text(_TYPE) + _string(self.public)

    def sign(self, data: bytes) -> bytes:
        """Return the signature of `data` in its wire format."""
        return _text(_TYPE) + _string(bytes(Ed25519PrivateKey.from_private_bytes(self.seed).sign(data)))

    @property
    def private_file(self) -> str:
        """The unencrypted private key file, as ssh-keygen writes it; its check number comes from the public key."""
        check = self.public[:4]
        private = check + check + self.blob + _string(self.seed + self.public) + _text(self.comment)
        private += bytes(range(1, 1 + -len(private) % _BLOCK_BYTES))
        data = b"openssh-key-v1\0" + _text("none") + _text("none") + _text("") + struct.pack(">I", 1)
        text = _base64(data + _string(self.blob) + _string(private))
        lines = [text[start : start + 70] for start in range(0, len(text), 70)]
        return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def user_key(key: ClusterKey, node: Node) -> KeyPair:
    """Return the key pair of `node`'s postgres user."""
    return KeyPair(key.derive(f"ssh user {node.name}"), f"pgpool2-cluster {node.name}")


def host_authority(key: ClusterKey) -> KeyPair:
    """Return the key pair that signs the nodes' host keys."""
    return KeyPair(key.derive("ssh host authority"), "pgpool2-cluster hosts")


def host_certificate(key: ClusterKey, node: Node, host_key: str) -> str:
    """Return the line of a certificate file for `node`'s host key, given as in ssh_host_ed25519_key.pub.

    The certificate is valid for the node's name and address, and does not expire; a new cluster key replaces it. Raises
    UsageError if `host_key` is not an ed25519 public key.
    """
    public = _public_of(host_key)
    principals = b"".join(_text(name) for name in dict.fromkeys((node.name, node.address)))
    body = (
        _text(_CERTIFICATE_TYPE)
        + _string(key.derive(f"ssh host certificate {node.name} {public.hex()}"))
        + _string(public)
        + struct.pack(">QI", 0, _HOST_CERTIFICATE)
        + _text(node.name)
        + _string(principals)
        + struct.pack(">QQ", 0, _NEVER_EXPIRES)
        + _text("") * 3
        + _string(host_authority(key).blob)
    )
    signed = body + _string(host_authority(key).sign(body))
    return f"{_CERTIFICATE_TYPE} {_base64(signed)} pgpool2-cluster {node.name}\n"


def _public_of(line: str) -> bytes:
    words = line.split()
    prefix = _text(_TYPE) + struct.pack(">I", 32)
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, ValueError):
        blob = b""
    if words[:1] != [_TYPE] or not blob.startswith(prefix) or len(blob) != len(prefix) + 32:
        hint = "ssh-keygen -A creates /etc/ssh/ssh_host_ed25519_key"
        raise UsageError("this machine's ssh host key is not an ed25519 public key", hint=hint)
    return blob[len(prefix) :]


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _text(text: str) -> bytes:
    return _string(text.encode("ascii"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
