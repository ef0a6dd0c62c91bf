"""Read docker contexts as the docker client stores them: an address, and certificates if there are any.

The SDK finds contexts only beside a config.json, and `docker context create` writes none (docker 7).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from docker.context import ContextAPI
from docker.errors import DockerException
from docker.tls import TLSConfig

from pgpool_deb.ground.errors import UsageError


def context(name: str) -> dict[str, Any]:
    """Return the SDK's arguments for connecting to the docker context `name`: `base_url`, and `tls` if it has any.

    Raises UsageError if there is no such context, DockerException if it cannot be read.
    """
    if name == "default":
        return {**ContextAPI.kwargs_from_context(name)}
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "contexts"
    known_as = hashlib.sha256(name.encode()).hexdigest()
    try:
        metadata = json.loads((folder / "meta" / known_as / "meta.json").read_text(encoding="utf-8"))
        endpoint = metadata["Endpoints"]["docker"]
        where: dict[str, Any] = {"base_url": str(endpoint["Host"])}
    except FileNotFoundError as error:
        hint = "docker context ls lists the contexts; an address contains ://"
        raise UsageError(f"docker context {name!r} does not exist", hint=hint) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DockerException(f"the docker context {name!r} cannot be read: {error}") from error
    certificates = folder / "tls" / known_as / "docker"
    if certificates.is_dir():
        where["tls"] = _tls(certificates, verify=not endpoint.get("SkipTLSVerify", False))
    return where


def _tls(folder: Path, *, verify: bool) -> TLSConfig:
    """Return the certificates in the folder: an authority's, the client's own, or both."""
    authority, own = folder / "ca.pem", (str(folder / "cert.pem"), str(folder / "key.pem"))
    return TLSConfig(
        client_cert=own if all(map(os.path.exists, own)) else None,
        ca_cert=str(authority) if authority.exists() else None,
        verify=verify,
    )
