"""Docker contexts by name, as the docker client keeps them: an address, and certificates where it has some.

The SDK finds them only beside a config.json, and `docker context create` writes none (docker 7).
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

from .errors import UsageError


def context(name: str) -> dict[str, Any]:
    """Return the words with which the SDK connects to the docker context `name`: `base_url`, and `tls` where it has it.

    Raises UsageError where there is no such context, DockerException for one that cannot be read.
    """
    if name == "default":
        return {**ContextAPI.kwargs_from_context(name)}
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "contexts"
    known_as = hashlib.sha256(name.encode()).hexdigest()
    try:
        told = json.loads((folder / "meta" / known_as / "meta.json").read_text(encoding="utf-8"))
        endpoint = told["Endpoints"]["docker"]
        where: dict[str, Any] = {"base_url": str(endpoint["Host"])}
    except FileNotFoundError as error:
        hint = "docker context ls shows those that there are; an address has :// in it"
        raise UsageError(f"there is no docker context {name!r}", hint=hint) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DockerException(f"the docker context {name!r} cannot be read: {error}") from error
    certificates = folder / "tls" / known_as / "docker"
    if certificates.is_dir():
        where["tls"] = _tls(certificates, verify=not endpoint.get("SkipTLSVerify", False))
    return where


def _tls(folder: Path, *, verify: bool) -> TLSConfig:
    """Return what is in the folder: an authority, a certificate of the client's own, or both."""
    authority, own = folder / "ca.pem", (str(folder / "cert.pem"), str(folder / "key.pem"))
    return TLSConfig(
        client_cert=own if all(map(os.path.exists, own)) else None,
        ca_cert=str(authority) if authority.exists() else None,
        verify=verify,
    )
