"""Docker-API endpoints: find the one to use, connect to it, and translate its failures for the user.

An endpoint's name is a docker context or an address as in DOCKER_HOST; "" means the docker client's current endpoint.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from docker import DockerClient
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from pgpool_deb.ground.errors import MachineError

from .docker_context import context

ANSWER_SECONDS = 600
GONE = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError)
"""The errors of a connection whose other end has gone."""
FAILURES = (DockerException, *GONE)
"""All errors that the SDK raises."""
_PROBE_SECONDS = 0.8
_NAMED_SECONDS = 10
"""An endpoint that the user named may be far away."""
_KERNELS_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}  # podman answers with Go's names


def connected(name: str = "") -> DockerClient:
    """Return a client of the endpoint called `name`, or of the current one; fails quickly if nothing answers.

    Raises UsageError if there is no such docker context, OSError or DockerException if nothing answers, and for a
    damaged docker context a bare Exception, as the SDK does.
    """
    _knock(endpoint(name))
    client = _client(name, _NAMED_SECONDS if name else _PROBE_SECONDS)
    try:
        theirs, ours = client.info()["Architecture"], platform.machine()
        if _KERNELS_NAMES.get(theirs, theirs) != ours:
            raise DockerException(f"it runs {theirs} programs, and this machine is {ours}")
    finally:
        client.close()
    return _client(name, ANSWER_SECONDS)


def _client(name: str, seconds: float) -> DockerClient:
    how: dict[str, Any] = {"version": "auto", "timeout": seconds}
    if not name:
        return DockerClient.from_env(**how)
    where = kwargs_from_env({**os.environ, "DOCKER_HOST": name}) if _is_address(name) else context(name)
    return DockerClient(**where, **how)


def endpoint(name: str = "") -> str:
    """Return the address of an endpoint; the current one is DOCKER_HOST, else that of the docker client's context."""
    if name:
        return name if _is_address(name) else str(context(name)["base_url"])
    return os.environ.get("DOCKER_HOST") or ContextAPI.kwargs_from_context().get("base_url", "")


def _is_address(name: str) -> bool:
    return "://" in name


def _knock(endpoint: str) -> None:
    """Raise OSError if nothing listens on a socket of this machine; the SDK would leave its own socket open."""
    scheme, _, path = endpoint.partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(_PROBE_SECONDS)
            knocking.connect(path)


def endpoint_options(name: str = "") -> list[str]:
    """Return the docker client's options for the endpoint called `name`, else for the one the environment names."""
    if name:
        return ["--host" if _is_address(name) else "--context", name]
    if host := os.environ.get("DOCKER_HOST"):
        return ["--host", host]
    if current := os.environ.get("DOCKER_CONTEXT"):
        return ["--context", current]
    return []


def reason(error: Exception) -> str:
    """Return the cause in a few words; the SDK and its libraries wrap it several times."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)


@contextmanager
def connection(
    client: DockerClient, path: str, *, params: dict[str, str] | None = None, json: dict[str, bool] | None = None
) -> Iterator[requests.Response]:
    """Hold a connection on which the engine reads or writes as long as a container or exec runs.

    The SDK's own calls leave the socket open, or close it as soon as the answer is garbage-collected (docker 7).
    """
    api = client.api
    url = f"{api.base_url}/v{api.api_version}/{path}"
    answer = api.post(url, params=params, json=json, stream=True, timeout=(ANSWER_SECONDS, None))
    try:
        answer.raise_for_status()
        yield answer
    finally:
        answer.close()


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn the SDK's errors into MachineError; `what` says what was happening."""
    try:
        yield
    except NotFound as error:
        raise went_away(what, cause="docker no longer has the box") from error
    except APIError as error:
        raise refused(str(error.explanation or error)) from error
    except (DockerException, *GONE) as error:
        raise went_away(what) from error


def went_away(what: str, cause: str = "the docker engine no longer answers") -> MachineError:
    """Return the error for an engine or a box that disappeared while `what` was happening."""
    return MachineError(
        f"{cause} (while {what})",
        hint="check the daemon with docker info, then run the same command again, or use --engine chroot",
    )


def refused(reason: str) -> MachineError:
    """Return the error for a request that the engine refused for `reason`."""
    if "no space left" in reason.lower():
        hint = "free space where docker keeps its data (docker system df), and run the same command again"
        return MachineError("no space left on the docker engine's device", hint=hint)
    hint = "read the log of the docker daemon, or use --engine chroot"
    return MachineError(f"docker refused: {reason.strip()}", hint=hint)
